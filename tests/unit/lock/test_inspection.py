# SPDX-License-Identifier: Apache-2.0
"""A draft of an ONNX file promises what ran, builds as it stands, and `inspect` shows the same without a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from packager.strictyaml import parse
from tests.conftest import Run
from tests.unit.exporters.test_described import convolved, saved


def recipe(folder: Path) -> str:
    return (folder / "bundle.yaml").read_text()


@pytest.mark.slow
def test_a_draft_of_axes_without_names_builds_as_it_stands(packager: Run, tmp_path: Path) -> None:
    convolved(tmp_path, ["?", 3, "?", "?"], stride=8)
    packager("init", "m.onnx")
    text = recipe(tmp_path)
    assert "x: {dtype: float32, shape: [batch, 3, height, width]}" in text
    assert "height: {min: 8, step: 8, also: [1], measure: [8, " in text and "multiples of 8 from 8" in text
    said = packager("build").stdout
    assert "axis height: measured multiples of 8 from 8 to" in said and "taken: multiples of 8 from 8 on, and 1" in said


def test_a_draft_promises_a_runtime_that_reads_the_operators(packager: Run, tmp_path: Path) -> None:
    node = h.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    values = [h.make_tensor_value_info(name, T.FLOAT, ["rows", 3]) for name in "xy"]
    sets = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 5)]
    model = h.make_model(h.make_graph([node], "g", values[:1], values[1:]), opset_imports=sets, ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    packager("init", "m.onnx")
    assert 'onnxruntime: ">=1.18"' in recipe(tmp_path) and "rows: {measure: [1, 1024]}" in recipe(tmp_path)
    old = recipe(tmp_path).replace('">=1.18"', '">=1.17"', 1)
    (tmp_path / "bundle.yaml").write_text(old)
    refused = packager("build", code=4).stderr
    assert 'promise `onnxruntime: ">=1.18.0"`' in refused


def test_weights_beside_a_file_are_found(packager: Run, tmp_path: Path) -> None:
    weights = {"w": np.ones((4, 2), "float32")}
    path = saved(
        tmp_path,
        [h.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (T.FLOAT, [None, 4])},
        {"y": (T.FLOAT, [None, 2])},
        weights,
    )
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(nh.from_array(np.ones((4, 2), "float32"), "w"))
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    found = json.loads(packager("inspect", "m.onnx", "--json").stdout)
    assert found["kind"] == "onnx" and found["inputs"][0]["shape"] == ["batch", 4]
    assert found["dimensions"]["batch"]["kind"] == "any"
    (tmp_path / "m.data").unlink()
    assert "is not there" in packager("init", "m.onnx", code=3).stderr


def test_a_model_need_not_be_run(packager: Run, tmp_path: Path) -> None:
    convolved(tmp_path, ["?", 3, 8, 8])
    done = packager("init", "m.onnx", "--no-look")
    assert "axis" not in done.stdout
    assert "inputs" not in dict(parse(recipe(tmp_path).encode(), "bundle.yaml").value())


def test_what_runs_its_authors_code_is_not_opened(packager: Run, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04N.")
    assert "runs its author's code" in packager("inspect", "model.pkl", code=3).stderr
