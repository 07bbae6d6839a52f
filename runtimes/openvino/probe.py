# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of OpenVINO: which operators it runs rightly, given IR that this host compiles.

A bundle's target for OpenVINO is IR, made when the bundle was built; what a version must do is open it. So every graph
is compiled by the OpenVINO installed here, as a build does it, opened by the version under test and run, and held
against ONNX Runtime (`runtimes/_answers.py`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from packager.runtimes import _answers, _kernels, _measuring, _probes, _trials
from packager.runtimes._answers import Answers
from packager.runtimes._probes import Probe
from packager.runtimes._trials import Trial
from packager.runtimes.openvino import compile as compiling

from packager.canonical import JSON
from packager.events import OnEvent, ignore

TRIAL, _CONVERT = (Path(__file__).with_name(f"{name}.py") for name in ("trial", "convert"))
_failed_trials: set[int] = set()  # trials that failed in another version: run last, as each spoils those it is run with
_made: dict[bytes, bytes | str] = {}  # digest of a graph -> its IR, or why there is none


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"openvino=={version}",), (f"openvino=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here compiles graphs, or says what they should give.
    """
    compiling.tool()
    return _measuring.find_facts(python, TRIAL, functools.partial(trials, python))


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Compile ONNX graphs here, open and run them in the runtime of an environment; return the results."""
    made = _artefacts([trial.graph for trial in graphs])
    opened = {
        index: replace(trial, graph=ir)
        for index, (trial, ir) in enumerate(zip(graphs, made, strict=True))
        if isinstance(ir, bytes)
    }
    order = sorted(opened, key=lambda index: hash(opened[index]) in _failed_trials)
    parts = _answers.slice_trials([opened[index] for index in order])
    reported = dict(zip(order, (text for part in parts for text in _trials.run(python, TRIAL, part)), strict=True))
    for index, text in reported.items():
        if text.startswith("died"):  # it, or one that was run together with it
            (reported[index],) = _trials.run(python, TRIAL, [opened[index]])
    _failed_trials.update(hash(opened[index]) for index, text in reported.items() if text != "ok")
    return [reported[index] if isinstance(ir, bytes) else ir for index, ir in enumerate(made)]


def _artefacts(graphs: Sequence[bytes]) -> list[bytes | str]:
    """Return the IR of every graph as `trial.py` reads it, or why there is none; each is compiled once."""
    names = [hashlib.sha256(data).digest() for data in graphs]
    fresh = {name: Trial(data) for name, data in zip(names, graphs, strict=True) if name not in _made}
    for name, (reported, files) in zip(
        fresh, _answers.run_here(_CONVERT, [*fresh.values()], (".xml", ".bin")), strict=True
    ):
        _made[name] = struct.pack(">Q", len(files[0])) + b"".join(files) if reported == "ok" else reported
    return [_made[name] for name in names]


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`, `lacks`), and what each probe did."""
    return _measuring.measure("openvino", functools.partial(trials, python), on_event, _load_only)


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    maker = compiling.tool().get_version().partition("-")[0]
    note = f"opens IR made by OpenVINO {maker}"
    return _measuring.tabulate("openvino", version, reported, (limits, outcomes), pythons, note=note)


def _load_only(found: Sequence[Probe], answers: Mapping[Probe, Answers]) -> None:
    """Test types that no array can hold: of a graph that ONNX Runtime opens, whether there is a rule to convert it."""
    for optional, rank in _probes.VARIANTS[:4]:
        waiting = [probe for probe in found if not answers[probe].rules]
        graphs = [Trial(_probes.serialise_graph(probe, optional=optional, rank=rank)) for probe in waiting]
        fair = [graph is not None for graph in _answers.find_references(graphs)]
        made = _artefacts([trial.graph for trial, opens in zip(graphs, fair, strict=True) if opens])
        for probe, ir in zip(itertools.compress(waiting, fair), made, strict=True):
            answers[probe].note([ir] if isinstance(ir, str) and _answers.is_without_rule(ir) else [])
