# SPDX-License-Identifier: Apache-2.0
"""A build with labelled data: int8 that loses the labels is refused by name, and the exact target alone passes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import canonical
from packager.api import open_bundle
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


EXACT = RECIPE.replace(", int8_dynamic]", "]").replace("tolerance: {int8_dynamic: {atol: 9, rtol: 9}}\n", "")
BUNDLE = "digits.bundle.tar"


@pytest.fixture
def signed(project: Callable[..., Project]) -> Project:
    """A signed bundle of digits that was measured on half of the rows, and the other half as it is and brighter."""
    made = project(EXACT)
    (made.folder / "model.onnx").write_bytes(digits_graph(fitted()))
    found = rows()
    random.Random(1).shuffle(found)
    brighter = [{**row, "x": [min(1.0, 1.5 * value + 0.1) for value in row["x"]]} for row in found[400:]]
    for name, part in {"holdout": found[:400], "half": found[400:], "brighter": brighter}.items():
        (made.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    made.run("lock")
    made.run("build", "--locked")
    made.run("keygen", "release")
    made.run("sign", "digits:1.0.0", "--key", "release.pem", "-o", BUNDLE)
    return made


def test_distributions_and_accuracy_travel_signed(signed: Project, tmp_path: Path) -> None:
    """The bundle of another place knows what it was measured on; drift, inspect and SBOM say it; no row is in it."""
    key = ("--key", "release.pub")
    same = signed.run("drift", BUNDLE, "half.jsonl", *key, "--json")
    assert same["outcome"] == "ok" and same["rows"] == 397 and not same["skipped"]
    moved = signed.run("drift", BUNDLE, "brighter.jsonl", *key, "--json", code=1)
    assert moved["columns"][0]["verdict"] == "drift" and moved["columns"][0]["psi"] > 1
    assert moved["columns"][-1]["psi"] <= moved["columns"][0]["psi"]
    table = signed.run("drift", BUNDLE, "brighter.jsonl", *key, code=1).stdout.splitlines()
    assert table[0].split()[:2] == ["column", "verdict"] and table[1].split()[1] == "drift"
    signed.run("keygen", "other")
    assert "no trusted" in signed.run("drift", BUNDLE, "half.jsonl", "--key", "other.pub", code=1).stderr
    bundle = open_bundle(str(signed.folder / BUNDLE))
    stated = [record for record in map(bundle.record_bytes, bundle.records) if b"" in record]
    assert stated and all(len(record) < 200_000 for record in stated)
    first = json.loads((signed.folder / "holdout.jsonl").read_text().splitlines()[0])["x"]
    assert not any(canonical.dump(first) in record for record in stated)
    signed.run("install", BUNDLE, "site", *key)
    config = json.loads((signed.folder / "site" / "current" / "serve.json").read_text())
    assert config["distributions"]["data"] == same["reference"]
    assert [item["name"] for item in config["distributions"]["inputs"]] == [f"x[{number}]" for number in range(64)]
    assert {item["name"] for item in config["distributions"]["outputs"]} >= {"label", "scores[9]"}


def test_a_rebuild_needs_no_data(signed: Project, tmp_path: Path) -> None:
    """What was measured on private rows is no part of the bytes, so a stranger gets the same ones without them."""
    for name in ("holdout", "half", "brighter"):
        (signed.folder / f"{name}.jsonl").unlink()
    again = signed.run("rebuild", BUNDLE, "--key", "release.pub", "--json")
    assert again["identical"] and not again["differences"]
