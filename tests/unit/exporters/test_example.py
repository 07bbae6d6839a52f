# SPDX-License-Identifier: Apache-2.0
"""The tensors that MLflow logged as an example become rows of the measurement, if the interface takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import onnx.helper as h
import pytest

from packager.exporters._files import example as _example
from packager.steps import _source

INTERFACE: dict[str, Any] = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 4]}],
    "dimensions": {"batch": {"min": 1, "max": 8, "limit": {"min": 1}}},
}
ROWS = np.arange(12, dtype="float32").reshape(3, 4) / 7


def logged(folder: Path, example: Any = ROWS) -> Path:
    """Save an ONNX model with MLflow, and what it writes for an example."""
    x, y = (h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    made = h.make_model(
        h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
        opset_imports=[h.make_opsetid("", 17)],
        ir_version=8,
    )
    mlflow.onnx.save_model(
        made,
        folder / "model",
        input_example=example,
        signature=mlflow.models.infer_signature(ROWS, ROWS),
        pip_requirements=["numpy"],
    )
    return folder / "model"


@pytest.mark.parametrize("form", [lambda rows: rows, lambda rows: {"x": rows}], ids=["array", "by name"])
def test_a_logged_example_is_what_was_logged(tmp_path: Path, form: Any) -> None:
    found = _example.read_tensors(logged(tmp_path, form(ROWS)), INTERFACE)
    assert found is not None
    np.testing.assert_array_equal(found["x"], ROWS)
    assert found["x"].dtype == "float32"


def test_it_is_measured_on_it(tmp_path: Path) -> None:
    source = logged(tmp_path)
    payload = next(path.name for path in source.glob("*.onnx"))
    params = {"kind": "onnx", "payload": payload, "interface": INTERFACE, "opset": 17, "ir": 8}
    opened = _source.open_source({"source": source}, params)
    np.testing.assert_array_equal(opened.rows()["logged example"]["x"], ROWS)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": ["batch", 5]},
        {"shape": ["batch", 4, 1]},
        {"name": "z", "shape": [2, "batch"]},
        {"shape": ["batch", "batch"]},
    ],
    ids=str,
)
def test_one_that_does_not_fit_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    other = {**INTERFACE, "inputs": [{**INTERFACE["inputs"][0], **change}]}
    assert _example.read_tensors(logged(tmp_path), other) is None


def test_lengths_and_numbers_that_are_not_taken_are_none(tmp_path: Path) -> None:
    source = logged(tmp_path)
    few = {**INTERFACE, "dimensions": {"batch": {"min": 1, "max": 2}}}
    assert _example.read_tensors(source, few) is None, "three rows where two are taken"
    whole = {**INTERFACE, "inputs": [{**INTERFACE["inputs"][0], "dtype": "int64"}]}
    assert _example.read_tensors(source, whole) is None, "1/7 is no whole number"
    for text in ("[", '{"inputs": "x"}', '{"inputs": [[1, "a", 2, 3]]}', "[" * 9000, '{"inputs": {"x": null}}'):
        (source / "input_example.json").write_text(text)
        assert _example.read_tensors(source, INTERFACE) is None, text[:20]


def test_one_that_the_model_refuses_is_left_out() -> None:
    class Picky:
        def run(self, feeds: Any) -> list[Any]:
            raise ValueError("not this")

    assert _source.Opened(Picky(), {"x": ROWS}).rows() == {}  # type: ignore[arg-type]


def test_a_hostile_example_reads_no_other_file(tmp_path: Path) -> None:
    source = logged(tmp_path)
    (tmp_path / "secret.json").write_text(json.dumps(ROWS.tolist()))
    (source / "input_example.json").unlink()
    (source / "input_example.json").symlink_to(tmp_path / "secret.json")
    assert _example.read_tensors(source, INTERFACE) is None
