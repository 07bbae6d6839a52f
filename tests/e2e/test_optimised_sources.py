# SPDX-License-Identifier: Apache-2.0
"""The reference of an ONNX file is ONNX Runtime as it comes: what its optimisation moves is said, not held against it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from packager.graph import saturation
from tests.e2e.conftest import Project

RECIPE = """name: quantised
version: 1.0.0
source: ./model.onnx
inputs: {x: {dtype: float32, shape: [batch, 8, 12, 12], range: [0, 1]}}
dynamic: {batch: [1, 3]}
"""


def quantised() -> Any:
    """Two convolutions between QuantizeLinear and DequantizeLinear, with unsigned activations and all eight bits."""
    random = np.random.default_rng(3)
    tensors = {
        "s": np.float32(1 / 255),
        "z": np.array(0, "uint8"),
        "sw": np.float32(0.02),
        "zw": np.array(0, "int8"),
        "sm": np.float32(0.05),
        "zm": np.array(128, "uint8"),
    }
    nodes, last = [], "x"
    for layer in (0, 1):
        tensors[f"w{layer}"] = random.integers(-127, 128, (8, 8, 3, 3)).astype("int8")
        scale, zero = ("s", "z") if layer == 0 else ("sm", "zm")
        nodes += [
            helper.make_node("QuantizeLinear", [last, scale, zero], [f"q{layer}"]),
            helper.make_node("DequantizeLinear", [f"q{layer}", scale, zero], [f"d{layer}"]),
            helper.make_node("DequantizeLinear", [f"w{layer}", "sw", "zw"], [f"v{layer}"]),
            helper.make_node("Conv", [f"d{layer}", f"v{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
        ]
        last = f"c{layer}"
    nodes += [
        helper.make_node("QuantizeLinear", [last, "sm", "zm"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "sm", "zm"], ["y"]),
    ]
    ends = (
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8, 12, 12])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8, 12, 12])],
    )
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", *ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_honest_quantised_file_builds(project: Callable[..., Project], tmp_path: Path) -> None:
    onnx.save(quantised(), tmp_path / "model.onnx")
    here = project(RECIPE, **{"model.onnx": tmp_path / "model.onnx"})
    built = here.run("build", "--facts", "facts.json")
    assert (
        "note: target `onnxruntime-cpu-fp32`: optimisation by onnxruntime changes output `y` by up to" in built.stderr
    )
    facts = json.loads((here.folder / "facts.json").read_bytes())["targets"]["onnxruntime-cpu-fp32"]
    assert facts["engine"] == "onnxruntime"
    records = [case["outputs"]["y"] for case in facts["cases"]]
    assert all(record["frontier"] == [] for record in records), "it is the same graph, opened the same way"
    assert max(record["moved"] for record in records) > 1e-3
    contract = here.run("inspect", "quantised:1.0.0", "--json")["contract"]
    assert contract["targets"]["onnxruntime-cpu-fp32"]["needs"]["exact"] == list(saturation.EXACT)
    asked = here.run("compat", "quantised:1.0.0")
    assert "8-bit sums saturate on x86-64 without avx512_vnni or avx_vnni" in asked.stdout
    flags = Path("/proc/cpuinfo").read_text().split()
    exact = platform.machine() != "x86_64" or bool(set(saturation.EXACT) & set(flags))
    judged = here.run("doctor", "quantised:1.0.0", "--json", code=0 if exact else 6)["bundle"]
    reasons = [reason["limit"] for cell in judged["cells"] for reason in cell["reasons"]]
    assert ("processor" in reasons) == (not exact)
