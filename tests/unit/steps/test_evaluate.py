# SPDX-License-Identifier: Apache-2.0
"""Metrics on rows with labels: the figures are scikit-learn's own, and a target that loses them is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from packager.policies import evaluation as rule
from sklearn import metrics
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression

from packager.errors import StepError
from packager.steps import _evaluate
from packager.steps._evaluate_files import read_rows

DIGITS = load_digits()
X, Y = (DIGITS.data / 16).astype(np.float32), DIGITS.target


def port(name: str, dtype: str, *shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


INTERFACE = {
    "inputs": [port("x", "float32", "batch", 64)],
    "outputs": [port("label", "int64", "batch"), port("scores", "float32", "batch", 10)],
    "dimensions": {"batch": {"min": 1, "max": 50}},
}


def digits_graph(model: LogisticRegression, outlier: float = 0.0) -> bytes:
    """The estimator as a graph; `outlier` is a weight of a pixel that is always empty: it matters to int8 alone."""
    weights = model.coef_.T.astype(np.float32)
    weights[0] += outlier
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wx"]),
        helper.make_node("Add", ["wx", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    fixed = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(model.intercept_.astype(np.float32), "b")]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
    ]
    graph = helper.make_graph(nodes, "digits", ports[:1], ports[1:], fixed)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def fitted() -> LogisticRegression:
    return LogisticRegression(max_iter=200).fit(X[:1000], Y[:1000])


def rows() -> list[dict[str, Any]]:
    """The rows after those of the training, with a column to slice by."""
    ink = X[1000:].sum(1)
    return [
        {"x": row.tolist(), "digit": int(label), "ink": "dark" if sum_ > np.median(ink) else "light"}
        for row, label, sum_ in zip(X[1000:], Y[1000:], ink, strict=True)
    ]


def write_lines(folder: Path, found: Sequence[Any]) -> Path:
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def runner(graph: bytes) -> Any:
    session = onnxruntime.InferenceSession(graph)
    return lambda feeds: session.run(None, dict(feeds))


@pytest.fixture(scope="module")
def model() -> LogisticRegression:
    return fitted()


def test_the_figures_are_the_library_s(model: LogisticRegression, tmp_path: Path) -> None:
    """Of the estimator itself, overall and on every slice."""
    data, run, truth = write_lines(tmp_path / "data", rows()), runner(digits_graph(model)), Y[1000:]
    said, scores = model.predict(X[1000:]), model.predict_proba(X[1000:])
    expected = {
        "accuracy": metrics.accuracy_score(truth, said),
        "f1": metrics.f1_score(truth, said, average="macro"),
        "auc": metrics.roc_auc_score(truth, scores, multi_class="ovr"),
        "recall@3": metrics.top_k_accuracy_score(truth, scores, k=3),
    }
    about = {"interface": INTERFACE}
    for metric, value in expected.items():
        spec = {"label": "digit", "metric": metric, "slices": ["ink", "digit"]}
        found, _ = _evaluate.evaluate(data, None, spec, about, run, run)
        assert found["source"] == found["target"] == pytest.approx(value, abs=1e-12 if metric != "auc" else 1e-6)
        dark = [number for number, row in enumerate(rows()) if row["ink"] == "dark"]
        (item,) = (item for item in found["slices"] if item["value"] == "dark")
        assert item["rows"] == len(dark)
        if metric == "accuracy":
            assert item["source"] == metrics.accuracy_score(truth[dark], said[dark])
        if metric == "auc":
            assert all(item["source"] is None for item in found["slices"] if item["column"] == "digit")
        assert sum(item["rows"] for item in found["slices"]) == 2 * len(truth)


def test_int8_below_its_bound_is_named(model: LogisticRegression, tmp_path: Path) -> None:
    """Metric, slice and both values are in the finding; the bytes of int8 are the library's own quantisation."""
    graph = digits_graph(model, outlier=300.0)
    (tmp_path / "m.onnx").write_bytes(graph)
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    data = write_lines(tmp_path / "data", rows())
    spec = {"label": "digit", "metric": "accuracy", "slices": ["ink"]}
    sides = runner(graph), runner((tmp_path / "q.onnx").read_bytes())
    found, _ = _evaluate.evaluate(data, None, spec, {"interface": INTERFACE}, *sides)
    assert found["source"] > 0.9 > found["target"]
    target = {"unmeasured": None, "evaluation": {"metric": "accuracy", "bound": 0.9, "slice-bound": 0.85, **found}}
    overall, slice_ = rule.check({"targets": {"cpu-int8": target}}, False, 30)
    worst = min(found["slices"], key=lambda item: item["target"])
    assert overall.subject == "cpu-int8" and f"accuracy is {found['target']:.4g}" in overall.message
    assert f"{found['source']:.4g} in the source" in overall.message
    assert f"slice `ink` = `{worst['value']}`" in slice_.message and f"{worst['target']:.4g}" in slice_.message
    assert "calibrate" in overall.hint


def test_numbers_from_csv(tmp_path: Path) -> None:
    """A regression over columns, where the label has the same digits that a spreadsheet writes."""
    table = load_diabetes()
    model = LinearRegression().fit(table.data[:300, :2], table.target[:300])
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "d.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["bmi", "note", "age", "target"])
        writer.writerows([b, "x, y", a, t] for (a, b), t in zip(table.data[300:, :2], table.target[300:], strict=True))
    interface = {
        "inputs": [port("age", "float32", "rows"), port("bmi", "float32", "rows")],
        "outputs": [port("y", "float32", "rows", 1)],
        "dimensions": {"rows": {"min": 1, "max": 8}},
    }

    def run(feeds: Any) -> Any:
        return [model.predict(np.stack([feeds["age"], feeds["bmi"]], 1)).astype(np.float32)[:, None]]

    said = model.predict(table.data[300:, :2])
    for metric, value in {
        "rmse": metrics.root_mean_squared_error(table.target[300:], said),
        "mae": metrics.mean_absolute_error(table.target[300:], said),
        "r2": metrics.r2_score(table.target[300:], said),
    }.items():
        spec = {"label": "target", "metric": metric}
        found, _ = _evaluate.evaluate(folder, None, spec, {"interface": interface}, run, run)
        assert found["source"] == pytest.approx(value, rel=1e-5) and found["slices"] == []


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ({"digit": None}, {}, "row 3 has no `digit`, the label"),
        ({"ink": ""}, {"slices": ["ink"]}, "row 3 has no `ink`, the value of a slice"),
        ({"x": [1.0]}, {}, "row 3: .*shape"),
        ({"x": "words"}, {}, "row 3: column `x`: expected float32"),
        ({"digit": "eleven"}, {"metric": "auc"}, "the label `eleven` is none of the model's"),
        ({}, {"metric": "rmse"}, "`scores` is not one number per row, which `rmse` needs"),
        ({}, {"metric": "recall@2", "output": "label"}, "`recall@2` needs scores"),
        ({}, {"output": "other"}, "there is no output `other`"),
    ],
)
def test_data_that_do_not_fit(model: LogisticRegression, tmp_path: Path, change: Any, spec: Any, message: str) -> None:
    found = rows()[:40]
    found[3] |= change
    asked = {"label": "digit", "metric": "accuracy", **spec}
    run = runner(digits_graph(model))
    with pytest.raises(StepError, match=message):
        _evaluate.evaluate(write_lines(tmp_path / "data", found), None, asked, {"interface": INTERFACE}, run, run)


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", "", '{"a": 1'])
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(StepError, match=r"evaluation: .*data\.jsonl"):
        read_rows(tmp_path)


def test_labels_are_compared_as_text() -> None:
    assert {_evaluate._text(value) for value in (1, 1.0, "1", " 1.0 ", np.int64(1))} == {"1"}
    assert _evaluate._text("a") == "a" and _evaluate._text(0.5) == "0.5" and _evaluate._text("nan") == "nan"


def test_a_text_may_hold_any_separator_of_lines(tmp_path: Path) -> None:
    """`str.splitlines` parts at U+2028 and others, which JSON allows in a text."""
    rows_of = [{"text": "one\u2028two\x85three", "digit": 1}, {"text": "four", "digit": 2}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows_of)
    (tmp_path / "data.jsonl").write_bytes(text.encode())
    assert read_rows(tmp_path) == rows_of
