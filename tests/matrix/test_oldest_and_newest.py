# SPDX-License-Identifier: Apache-2.0
"""A promise of `onnxruntime>=1.15` holds on a real 1.15.1 and on the newest release, each in its own environment.

The process that runs the artefact holds numpy and that runtime alone; what it must answer was computed here, by the
library that owns the source.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packager.runtimes import onnxruntime

from packager import exporters, plugins
from packager.actions.runner import Runner
from packager.build import build
from packager.exporters import ExportOptions
from packager.lock import locking
from packager.lock.build_context import BuildContext
from packager.recipe import recipe as recipes
from packager.sandbox.sandbox import default_limits
from packager.steps import _cases
from packager.store.file_digests import Memo
from packager.store.store import Store
from tests.matrix.sources import SOURCES, Source
from tests.support.environments import python_with, run

pytestmark = pytest.mark.slow

OLDEST = "1.15.1"
NEWEST = onnxruntime.promised(">=1.15")[-1]
RUNTIMES = {OLDEST: ("onnxruntime==1.15.1", "numpy<2"), NEWEST: (f"onnxruntime=={NEWEST}", "numpy>=2")}
CHOSEN = (
    "torch `.pt2`",
    "sentence-transformers",
    "scikit-learn pipeline",
    "scikit-learn + XGBoost",
    "XGBoost",
    "LightGBM",
)
CODE = """
import sys, json, numpy, onnxruntime
folder = sys.argv[1]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
worst = {}
for case in json.load(open(sys.argv[2] + "/cases.json")):
    given = numpy.load(f"{sys.argv[2]}/{case}.npz")
    texts = json.load(open(f"{sys.argv[2]}/{case}.json"))
    feeds = {item.name: given["in_" + item.name] if "in_" + item.name in given
             else numpy.array(texts["in_" + item.name], dtype=object) for item in session.get_inputs()}
    for item, got in zip(session.get_outputs(), session.run(None, feeds)):
        key = "out_" + item.name
        if key in given and given[key].dtype.kind == "f":
            error = float(numpy.nanmax(abs(got - given[key]), initial=0))
        else:
            wanted = given[key] if key in given else numpy.array(texts[key], dtype=object)
            error = float((got != wanted).sum())
        worst[item.name] = max(worst.get(item.name, 0.0), error)
print(json.dumps({"version": onnxruntime.__version__, "numpy": numpy.__version__, "worst": worst}))
"""


def promised(source: Source, folder: Path) -> tuple[Path, Path]:
    """Build for `>=1.15`; return the folder of the graph, and one with inputs and what the source answers to them."""
    source.make(folder / "project" / "model")
    platforms = "platforms: [linux_x86_64-cp311]\n"
    text = f'name: m\nversion: 1.0.0\nsource: ./model\n{platforms}{source.recipe}runs-on: {{onnxruntime: ">=1.15"}}\n'
    parsed = recipes.parse(text, "bundle.yaml", plugins.list_names("runtimes"))
    store = Store(folder / "store")
    runner, memo = Runner(store, default_limits()), Memo(store.root / "memo")
    here = BuildContext(folder / "project", None, dict(os.environ))
    lock = locking.resolve(parsed, runner, here, memo)
    made = build.build(parsed, lock, runner, here, memo)
    assert made.bundle is not None, made.verdict
    store.checkout(made.bundle.tree, folder / "tree")
    contract = json.loads((folder / "tree" / "contract.json").read_bytes())
    promise = contract["runs-on"]["onnxruntime"]
    assert (promise["versions"], promise["oldest"]["version"]) == (">=1.15", "1.15.0")
    (folder / "cases").mkdir()
    params = {name: spec.to_json() for name, spec in (parsed.inputs or {}).items()} or None
    options = ExportOptions.from_params(
        {"inputs": params, "dynamic": {name: axis.to_json() for name, axis in parsed.dynamic.items()}}
    )
    opened = exporters.exporter(lock.kind).load(folder / "project" / "model", lock.payload, options)
    write_cases(opened, contract, folder / "cases")
    return folder / "tree" / "model", folder / "cases"


def write_cases(opened: exporters.SourceModel, contract: Any, folder: Path) -> None:
    interface, samples = contract["interface"], exporters.samples_of(opened)
    cases = _cases.build_cases(interface, samples)[:6]
    outputs = [port["name"] for port in interface["outputs"]]
    for number, case in enumerate(cases):
        feeds = _cases.draw_feeds(interface, contract["ranges"], case, 0, samples)
        answers = dict(zip(outputs, opened.run(feeds), strict=True))
        named = {f"in_{k}": v for k, v in feeds.items()} | {f"out_{k}": v for k, v in answers.items()}
        np.savez(folder / f"{number}.npz", **{name: value for name, value in named.items() if value.dtype != object})
        texts = {name: value.tolist() for name, value in named.items() if value.dtype == object}
        (folder / f"{number}.json").write_text(json.dumps(texts))
    (folder / "cases.json").write_text(json.dumps(list(range(len(cases)))))


@pytest.mark.parametrize("source", [s for s in SOURCES if s.title in CHOSEN], ids=lambda source: source.title)
def test_it_loads_and_matches_at_both_ends(source: Source, tmp_path: Path) -> None:
    graph, cases = promised(source, tmp_path)
    for version, requirements in RUNTIMES.items():
        found = json.loads(run(python_with(*requirements, python="3.11"), CODE, graph, cases))
        print(source.title, found)
        assert found["version"] == version
        floats = {name: error for name, error in found["worst"].items() if name != "label"}
        assert found["worst"].get("label", 0) == 0
        assert max(floats.values()) <= 2e-5
    shutil.rmtree(tmp_path / "store")
