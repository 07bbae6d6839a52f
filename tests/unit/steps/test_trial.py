# SPDX-License-Identifier: Apache-2.0
"""The trial of a toolchain: a small model of every kind goes the whole way, and what does not work is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from packager import exporters, plugins
from packager.errors import StepError
from packager.exporters import _toys
from packager.steps import trial

HERE = (
    "catboost",
    "lightgbm",
    "pt2",
    "sklearn",
    "sklearn-pickle",
    "torch-pickle",
    "torchscript",
    "transformers",
    "xgboost",
)
ELSEWHERE = ("keras", "keras-h5", "savedmodel", "tflite")  # tests/matrix
UNTRIED = (
    "onnx",
    "spark",
    "gguf",
    "peft",
)  # has no library of its own; needs Java; tests write such files by the exporter itself; is no model without its base


def tried(kind: str, out: Path, **params: Any) -> Any:
    tools = [name for name in exporters.exporter(kind).TOOLCHAIN if name != "machine"]
    return trial.run({}, out, {"kind": kind, "tools": tools, "opset": 18, "ir": 8, **params})


@pytest.mark.parametrize("kind", HERE)
def test_a_small_model_of_the_kind_goes_the_whole_way(kind: str, tmp_path: Path) -> None:
    found = tried(kind, tmp_path)
    assert found["max_abs"] <= 1e-5
    assert {"onnx", "onnxruntime", "numpy"} <= set(found["imported"])


def test_every_kind_is_decided_about() -> None:
    assert {*HERE, *ELSEWHERE, *UNTRIED} == set(plugins.list_names("exporters"))
    assert all(_toys.toy_writer(kind) for kind in (*HERE, *ELSEWHERE)) and not any(
        _toys.toy_writer(kind) for kind in UNTRIED
    )


def test_a_kind_without_a_model_is_tried_by_imports(tmp_path: Path) -> None:
    found = tried("onnx", tmp_path)
    assert found["max_abs"] is None and "onnx" in found["imported"]


def test_import_failure_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnx does beside an older ml-dtypes: an attribute is missing while it is imported."""
    package = tmp_path / "site" / "brokenlib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import numpy\nnumpy.float4_e2m1fn\n")
    described = tmp_path / "site" / "brokenlib-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: brokenlib\nVersion: 1.0\n")
    (described / "top_level.txt").write_text("brokenlib\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(StepError, match=r"AttributeError: module 'numpy' has no attribute 'float4_e2m1fn'"):
        trial.run({}, tmp_path, {"kind": "onnx", "tools": ["brokenlib"], "opset": 18, "ir": 8})
    sys.modules.pop("brokenlib", None)


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ({"max_abs": 1e-6}, False),
        ({"max_abs": 0.5}, True),
        ({"unequal": 0}, False),
        ({"unequal": 2}, True),
        ({"got": {}}, True),
    ],
)
def test_a_model_that_comes_out_wrong_is_no_success(output: Any, wrong: bool) -> None:
    if not wrong:
        assert trial._judged([output]) < 1e-3
        return
    with pytest.raises(StepError, match="comes out wrong"):
        trial._judged([output])
