# SPDX-License-Identifier: Apache-2.0
"""What probes of runtimes share that answer ONNX graphs and are held against ONNX Runtime: facts, limits, a table."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packager.runtimes import _answers, _kernels, _probes, _trials, _values
from packager.runtimes._answers import Run

from packager.canonical import JSON
from packager.errors import MissingToolError
from packager.events import Finished, OnEvent, Started


def find_facts(python: Path, trial: Path, run: Run) -> JSON:
    """Return the facts that a runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here says what graphs should give.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingToolError("onnxruntime", "onnx")
    (trivial,) = _answers.answered([_probes.trivial_run()])
    return _trials.read_facts(python, trial) if trivial and run([trivial]) == ["ok"] else None


def measure(
    runtime: str, run: Run, on_event: OnEvent, more: Callable[..., None] | None = None
) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of a runtime (`opset`, `ir`, `lacks`), and what each probe did; `more` is asked last."""
    label = f"probe {runtime}"
    on_event(Started(label))
    started = time.monotonic()
    limits = {**_answers.find_limits(run), "lacks": _values.find_lacks(run)}
    found = [probe for probe in _probes.list_probes() if probe.domain or probe.opset <= limits["opset"]["ai.onnx"]]
    outcomes = _answers.measure_answers(run, found, *([more] if more else []))
    on_event(Finished(label, time.monotonic() - started))
    return limits, outcomes


def tabulate(
    runtime: str,
    version: str,
    reported: Mapping[str, Any],
    measured: tuple[JSON, _kernels.Kernels],
    pythons: Sequence[str],
    **more: JSON,
) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `find_facts` returned."""
    limits, outcomes = measured
    row = {
        "source": "measured",
        "opset": limits["opset"],
        "ir": limits["ir"],
        **_values.row_of(limits),
        "numpy": "<2" if reported["numpy"].startswith("1.") else "",
        "python": list(pythons),
        **more,
    }
    return {
        "format": 1,
        "runtime": runtime,
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }
