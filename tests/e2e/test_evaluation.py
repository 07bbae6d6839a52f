# SPDX-License-Identifier: Apache-2.0
"""A build with labelled data: int8 that loses the labels is refused by name, and the exact target alone passes."""

from __future__ import annotations

import json
import random
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from packager import canonical
from packager.api import open_bundle
from packager.conform import accuracy
from tests.e2e.conftest import Project
from tests.e2e.test_install import serving
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


@pytest.mark.slow  # the same for int8 is held by default
def test_blocks_that_are_too_coarse_end_the_build(project: Callable[..., Project]) -> None:
    """One weight that no answer needs widens the range of its block: of 64 it takes all pixels with it, of 16 a few."""
    coarse = RECIPE.replace("int8_dynamic", "int4").replace("policy: dev", "int4: {block: 64, last: true}\npolicy: dev")
    made = project(coarse)
    (made.folder / "model.onnx").write_bytes(digits_graph(fitted(), outlier=300.0))
    (made.folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    made.run("lock")
    refused = made.run("build", "--locked", code=1)
    words = refused.stdout + refused.stderr
    found = re.search(r"target `onnxruntime-cpu-int4`: accuracy is (0\.\d+) where at least 0\.9 is required", words)
    assert found and float(found[1]) < 0.5 and "in the source over 797 rows" in words, words
    assert "onnxruntime-cpu-fp32`: accuracy" not in words


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


@pytest.mark.slow  # tests/unit holds the parts by default
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
    accuracy = signed.run("inspect", BUNDLE, "--json")["accuracy"]["onnxruntime-cpu-fp32"]
    assert accuracy["metric"] == "accuracy" and accuracy["bound"] == 0.9 and accuracy["rows"] == 400
    assert accuracy["data"] == same["reference"] and accuracy["worst"]["column"] == "ink"
    shown = signed.run("inspect", BUNDLE).stdout
    assert f"accuracy {accuracy['target']:.4g} (source {accuracy['source']:.4g}, bound 0.9) on 400 rows" in shown
    assert f"least on ink = {accuracy['worst']['value']}" in shown
    check_model_card(signed, accuracy)
    signed.run("install", BUNDLE, "site", *key)
    config = json.loads((signed.folder / "site" / "current" / "serve.json").read_text())
    assert config["distributions"]["data"] == same["reference"]
    assert [item["name"] for item in config["distributions"]["inputs"]] == [f"x[{number}]" for number in range(64)]
    assert {item["name"] for item in config["distributions"]["outputs"]} >= {"label", "scores[9]"}
    check_gauges(signed.folder / "site", signed.folder / "brighter.jsonl")


def check_gauges(site: Path, rows_of: Path) -> None:
    """A server of the installation shows the drift of what it is sent, of inputs and of its answers."""
    sent = [json.loads(line)["x"] for line in rows_of.read_text().splitlines()]
    with serving(site) as address:
        for start in [*range(0, len(sent) - 32, 32)] * 8:
            rows_sent = [value for row in sent[start : start + 32] for value in row]
            tensor = {"name": "x", "shape": [32, 64], "datatype": "FP32", "data": rows_sent}
            body = json.dumps({"inputs": [tensor]}).encode()
            headers = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"http://{address}/v2/models/digits/infer", body, headers)
            urllib.request.urlopen(asked).close()
            time.sleep(0.06)
        text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("packager_server_drift_"))
    assert float(found['packager_server_drift_psi{column="x[0]"}']) > 1
    assert float(found['packager_server_drift_ks{column="x[0]"}']) > 0.5
    assert float(found['packager_server_drift_values{column="scores[0]"}']) >= 200


def check_model_card(signed: Project, accuracy: Any) -> None:
    """The SBOM that is printed has the metric of source and target, over all rows and by slice, and is valid."""
    signed.run("sbom", BUNDLE, "-o", "digits.cdx.json")
    text = (signed.folder / "digits.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    found = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert len(found) == 6 and {item["type"] for item in found} == {"accuracy"}
    sides = {item["slice"]: item["value"] for item in found}
    place = f"on 400 rows of {accuracy['data']}"
    assert sides[f"target onnxruntime-cpu-fp32 {place}"] == f"{accuracy['target']:.6g}"
    assert sides[f"the source {place}"] == f"{accuracy['source']:.6g}"
    worst = accuracy["worst"]
    named = f"target onnxruntime-cpu-fp32 on {worst['rows']} rows of {accuracy['data']}, ink = {worst['value']}"
    assert sides[named] == f"{worst['target']:.6g}"
    own = json.loads(open_bundle(str(signed.folder / BUNDLE)).read("sbom.cdx.json"))
    assert own["serialNumber"] != bom["serialNumber"], "figures of a processor are in no file of the bundle"
    assert "quantitativeAnalysis" not in own["metadata"]["component"]["modelCard"]


@pytest.mark.slow  # that a lost label ends a build is held by default
def test_a_rebuild_needs_no_data(signed: Project, tmp_path: Path) -> None:
    """What was measured on private rows is no part of the bytes, so a stranger gets the same ones without them."""
    for name in ("holdout", "half", "brighter"):
        (signed.folder / f"{name}.jsonl").unlink()
    again = signed.run("rebuild", BUNDLE, "--key", "release.pub", "--json")
    assert again["identical"] and not again["differences"]


@pytest.mark.slow  # of a build it is held by default
def test_a_site_measures_the_metric_on_its_runtime(signed: Project) -> None:
    """Its rows pass above the bound; rows that the model does not know fail the cell, with metric, slice and values."""
    words = ("conform", BUNDLE, "--key", "release.pub", "--level", "L3", "--python", sys.executable)
    cell = (*words, "--runtime", f"onnxruntime=={onnxruntime.__version__}")
    (row,) = signed.run(*cell, "--evaluate", "half.jsonl", "--json")["cells"]
    found = row["measures"]["accuracy"]
    held = json.loads(f"[{','.join((signed.folder / 'half.jsonl').read_text().splitlines())}]")
    said = fitted().predict(np.array([item["x"] for item in held], np.float32))
    truth = np.array([item["digit"] for item in held])
    assert found["here"] == pytest.approx(float((said == truth).mean()), abs=1e-12) and found["rows"] == 397
    assert {item["value"] for item in found["slices"]} == {"dark", "light"}
    swapped = [{**item, "digit": (item["digit"] + 1) % 10 if item["ink"] == "dark" else item["digit"]} for item in held]
    (signed.folder / "swapped.jsonl").write_text("".join(json.dumps(item) + "\n" for item in swapped))
    done = signed.run(*cell, "--evaluate", "swapped.jsonl", "--json", code=1)
    (check,) = (item for item in done["cells"][0]["checks"] if item["name"] == "accuracy on rows with labels")
    assert check["outcome"] == "fail" and check["level"] == 3 and done["cells"][0]["levels"]["L3"] == "fail"
    assert (
        check["reason"].startswith("accuracy is 0.4") and "at build, where at least 0.9 is required" in check["reason"]
    )
    assert "does not exist" in signed.run(*words, "--evaluate", "none.csv", code=2).stderr


def test_what_misses_its_bound_is_named_with_both_values() -> None:
    """Over all rows, and on the worst slice with enough rows; of an error more is worse."""
    here = {"metric": "accuracy", "bound": 0.9, "slice_bound": 0.8, "rows": 100, "here": 0.85}
    slices = [
        {"column": "city", "value": "Rome", "rows": 40, "here": 0.5},
        {"column": "city", "value": "Oslo", "rows": 40, "here": 0.7},
        {"column": "city", "value": "Bonn", "rows": 5, "here": 0.0},
    ]
    stated = {"target": 0.95, "slices": [{"column": "city", "value": "Rome", "target": 0.91}]}
    assert list(accuracy.list_misses({**here, "slices": slices}, stated)) == [
        "accuracy is 0.85 here and 0.95 at build, where at least 0.9 is required, over 100 rows",
        "slice `city` = `Rome`: accuracy is 0.5 here and 0.91 at build, where at least 0.8 is required, over 40 rows",
    ]
    error = {"metric": "rmse", "bound": 2.0, "slice_bound": None, "rows": 9, "slices": slices}
    assert list(accuracy.list_misses({**error, "here": 2.5}, {"target": None, "slices": []})) == [
        "rmse is 2.5 here and not measured at build, where at most 2 is required, over 9 rows"
    ]
    assert not list(accuracy.list_misses({**error, "here": 1.5}, stated))
