# SPDX-License-Identifier: Apache-2.0
"""Three small graphs that make one chain: pixels to features, features to scores, scores to a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from tests.e2e.conftest import Project

PREPARE = """
name: prepare
version: {version}
source: ./prepare.onnx
inputs: {{pixels: {{dtype: uint8, shape: [batch, 8, 8]}}}}
dynamic: {{batch: [1, 32]}}
runs-on: {{onnxruntime: ">=1.17", triton: ">=23.07"}}
"""
DIGITS = """
name: digits
version: {version}
source: ./digits.onnx
inputs: {{image: {{dtype: float32, shape: [n, 64], range: [0, 1]}}}}
dynamic: {{n: [1, 64]}}
runs-on: {{onnxruntime: ">=1.17", triton: ">=23.07"}}
"""
FINISH = """
name: finish
version: {version}
source: ./finish.onnx
inputs: {{scores: {{dtype: float32, shape: [rows, 10]}}}}
dynamic: {{rows: [1, 64]}}
runs-on: {{onnxruntime: ">=1.17", triton: ">=23.07"}}
"""
RECIPES = {"prepare": PREPARE, "digits": DIGITS, "finish": FINISH}
SUPPORT = """name: support
steps:
  - model: digits
    inputs: {image: features}
    outputs: {output: scores}
  - model: prepare
    inputs: {pixels: image}
    outputs: {scaled: features}
"""
ANSWER = """name: answer
steps:
  - {model: prepare, inputs: {pixels: image}, outputs: {scaled: features}}
  - {model: digits, inputs: {image: features}, outputs: {output: scores}}
  - {model: finish, inputs: {scores: scores}, outputs: {label: label}}
outputs: [scores, label]
"""


def build(project: Project, versions: dict[str, tuple[str, ...]]) -> None:
    """Build and sign versions of the models as NAME-VERSION.bundle.tar; every version of `digits` has its weights."""
    project.run("keygen", "release")
    for name, found in versions.items():
        for seed, version in enumerate(found):
            _write(project.folder, seed)
            project.write(RECIPES[name].format(version=version))
            project.run("lock")
            project.run("build", "--locked")
            project.run("sign", f"{name}:{version}", "--key", "release.pem", "-o", f"{name}-{version}.bundle.tar")


def _write(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)

    def constant(name: str, value: object) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    def save(name: str, nodes: list, inputs: tuple, outputs: tuple, *constants: onnx.TensorProto) -> None:
        tensors = [helper.make_tensor_value_info(*row) for row in (inputs, outputs)]
        graph = helper.make_graph(nodes, name, tensors[:1], tensors[1:], list(constants))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")

    node = helper.make_node
    save(
        "prepare",
        [
            node("Cast", ["pixels"], ["wide"], to=T.FLOAT),
            node("Div", ["wide", "most"], ["part"]),
            node("Flatten", ["part"], ["scaled"], axis=1),
        ],
        ("pixels", T.UINT8, ["batch", 8, 8]),
        ("scaled", T.FLOAT, ["batch", 64]),
        constant("most", np.float32(255)),
    )
    weights = [
        constant("a", random.normal(size=(64, 32)).astype(np.float32)),
        constant("b", random.normal(size=(32, 10)).astype(np.float32)),
    ]
    save(
        "digits",
        [node("MatMul", ["image", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["output"])],
        ("image", T.FLOAT, ["n", 64]),
        ("output", T.FLOAT, ["n", 10]),
        *weights,
    )
    save(
        "finish",
        [node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0)],
        ("scores", T.FLOAT, ["rows", 10]),
        ("label", T.INT64, ["rows"]),
    )
