# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of MNN: which operators of an ONNX graph its converter and engine run rightly.

Every graph is converted by the version under test, run, and held against ONNX Runtime (`runtimes/_answers.py`). MNN has
no int64, float64 or bool: what it holds as int32 or float32 counts as that.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packager.runtimes import _answers, _kernels, _measuring, _trials
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.events import OnEvent, ignore
from packager.graph import canonicalise

TRIAL = Path(__file__).with_name("trial.py")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"mnn=={version}", "numpy"), (f"mnn=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here says what graphs should give.
    """
    return _measuring.find_facts(python, TRIAL, functools.partial(trials, python))


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
    return _measuring.measure("mnn", functools.partial(trials, python), on_event)


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    note = "converted by the same version; int64 and bool are int32 there, float64 is float32"
    return _measuring.tabulate("mnn", version, reported, (limits, outcomes), pythons, opens=["onnxruntime"], note=note)
