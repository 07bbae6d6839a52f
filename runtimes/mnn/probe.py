# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of MNN: which operators of an ONNX graph its converter and engine run rightly.

Every graph is converted by the version under test, run, and held against ONNX Runtime (`runtimes/_answers.py`). MNN has
no int64, float64 or bool: what it holds as int32 or float32 counts as that.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packager.runtimes import _answers, _kernels, _probes, _trials, _values
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.errors import MissingToolError
from packager.events import Finished, OnEvent, Started, ignore
from packager.graph import canonicalise

TRIAL = Path(__file__).with_name("trial.py")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"mnn=={version}", "numpy"), (f"mnn=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here says what graphs should give.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingToolError("onnxruntime", "onnx")
    (trivial,) = _answers.answered([_probes.trivial_run()])
    return _trials.read_facts(python, TRIAL) if trivial and trials(python, [trivial]) == ["ok"] else None


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Convert, run and compare every graph in the runtime of an environment; return the results."""
    named = [replace(trial, graph=_name_ports(trial.graph)) for trial in graphs]
    return [text for part in _answers.slice_trials(named) for text in _trials.run(python, TRIAL, part)]


def _name_ports(graph: bytes) -> bytes:
    """Return a graph as `trial.py` reads it, the names of its inputs and outputs before it."""
    scope = canonicalise.import_onnx().ModelProto.FromString(graph).graph
    weights = {tensor.name for tensor in scope.initializer}
    inputs = [value.name for value in scope.input if value.name not in weights]
    names = json.dumps([inputs, [value.name for value in scope.output]]).encode()
    return struct.pack(">Q", len(names)) + names + graph


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`, `lacks`), and what each probe did."""
    label = "probe mnn"
    on_event(Started(label))
    started = time.monotonic()
    run = functools.partial(trials, python)
    limits = {**_answers.find_limits(run), "lacks": _values.find_lacks(run)}
    found = [probe for probe in _probes.list_probes() if probe.domain or probe.opset <= limits["opset"]["ai.onnx"]]
    outcomes = _answers.measure_answers(run, found)
    on_event(Finished(label, time.monotonic() - started))
    return limits, outcomes


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    row = {
        "source": "measured",
        "opset": limits["opset"],
        "ir": limits["ir"],
        **_values.row_of(limits),
        "numpy": "<2" if reported["numpy"].startswith("1.") else "",
        "python": list(pythons),
        "opens": ["onnxruntime"],
        "note": "converted by the same version; int64 and bool are int32 there, float64 is float32",
    }
    return {
        "format": 1,
        "runtime": "mnn",
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }
