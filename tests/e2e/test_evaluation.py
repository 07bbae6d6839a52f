# SPDX-License-Identifier: Apache-2.0
"""A build with labelled data: int8 that loses the labels is refused by name, and the exact target alone passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Project
from tests.unit.steps.test_evaluate import digits_graph, fitted, rows

RECIPE = """
name: digits
version: 1.0.0
source: ./model.onnx
runs-on: {onnxruntime: {versions: ">=1.20", precision: [fp32, int8_dynamic]}}
tolerance: {int8_dynamic: {atol: 9, rtol: 9}}
dynamic: {batch: [1, 32]}
evaluation:
  data: holdout.jsonl
  label: digit
  metric: accuracy
  bound: 0.9
  slices: [ink]
policy: dev
"""


def test_a_target_that_loses_labels_ends_the_build(project: Callable[..., Project]) -> None:
    made = project(RECIPE)
    (made.folder / "model.onnx").write_bytes(digits_graph(fitted(), outlier=300.0))
    (made.folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    made.run("lock")
    assert "scikit-learn" in (made.folder / "bundle.lock").read_text()
    refused = made.run("build", "--locked", code=1)
    words = refused.stdout + refused.stderr
    assert "target `onnxruntime-cpu-int8_dynamic`: accuracy is 0." in words, words
    assert "where at least 0.9 is required" in words and "in the source over 797 rows" in words
    assert "onnxruntime-cpu-fp32`: accuracy" not in words
    recipe = Path(made.folder / "bundle.yaml")
    recipe.write_text(
        RECIPE.replace(", int8_dynamic]", "]").replace("tolerance: {int8_dynamic: {atol: 9, rtol: 9}}\n", "")
    )
    made.run("lock")
    made.run("build", "--locked")
