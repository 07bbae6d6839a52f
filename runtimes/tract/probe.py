# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of tract: which operators of an ONNX graph it runs rightly.

Every graph is opened for the lengths of its inputs, as programs on tract do it, run, and held against ONNX Runtime
(`runtimes/_answers.py`). What it makes of free lengths is not measured.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from packager.runtimes import _answers, _kernels, _measuring, _trials
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.events import OnEvent, ignore

TRIAL = Path(__file__).with_name("trial.py")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"tract=={version}", "numpy"), (f"tract=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here says what graphs should give.
    """
    return _measuring.find_facts(python, TRIAL, functools.partial(trials, python))


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Open, run and compare every graph in the runtime of an environment; return the results."""
    return [text for part in _answers.slice_trials(graphs) for text in _trials.run(python, TRIAL, part)]


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`, `lacks`), and what each probe did."""
    return _measuring.measure("tract", functools.partial(trials, python), on_event)


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    note = "opened for given lengths of its inputs"
    return _measuring.tabulate(
        "tract", version, reported, (limits, outcomes), pythons, opens=["onnxruntime"], note=note
    )
