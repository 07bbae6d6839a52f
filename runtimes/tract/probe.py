# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of tract: which operators of an ONNX graph it runs rightly.

Every graph is opened for the lengths of its inputs, as programs on tract do it, run, and held against ONNX Runtime
(`runtimes/_answers.py`). What it makes of free lengths is not measured.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

from packager.runtimes import _answers, _kernels, _probes, _trials, _values
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.errors import MissingToolError
from packager.events import Finished, OnEvent, Started, ignore

TRIAL = Path(__file__).with_name("trial.py")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"tract=={version}", "numpy"), (f"tract=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here says what graphs should give.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingToolError("onnxruntime", "onnx")
    (trivial,) = _answers.answered([_probes.trivial_run()])
    return _trials.read_facts(python, TRIAL) if trivial and trials(python, [trivial]) == ["ok"] else None


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Open, run and compare every graph in the runtime of an environment; return the results."""
    return [text for part in _answers.slice_trials(graphs) for text in _trials.run(python, TRIAL, part)]


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`, `lacks`), and what each probe did."""
    label = "probe tract"
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
        "note": "opened for given lengths of its inputs",
    }
    return {
        "format": 1,
        "runtime": "tract",
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }
