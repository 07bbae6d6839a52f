# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of ONNX Runtime: which graphs it reads, and which operators it runs on which types."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

from packager.runtimes import _kernels, _loading, _probes, _trials, _values
from packager.runtimes._trials import Trial
from packager.runtimes.onnxruntime import _block_probes

from packager.canonical import JSON
from packager.events import Finished, OnEvent, Started, ignore

TRIAL = Path(__file__).with_name("trial.py")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1.

    The wheels before 1.19 crash on numpy 2 and most do not say so.
    """
    return [(f"onnxruntime=={version}",), (f"onnxruntime=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return what the runtime in an environment says of itself, or None if it cannot run the most trivial graph."""
    return _trials.read_facts(python, TRIAL) if trials(python, [_probes.trivial_run()]) == ["ok"] else None


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`, `lacks`), and what each probe did."""
    label = "probe onnxruntime"
    on_event(Started(label))
    started = time.monotonic()
    run = functools.partial(trials, python)
    limits, outcomes = _loading.measure_loading(run)
    limits = {**limits, "lacks": _values.find_lacks(run)}
    on_event(Finished(label, time.monotonic() - started))
    return limits, outcomes | measure_blocks(python)


def measure_blocks(python: Path) -> _kernels.Kernels:
    """Return what the runtime does with each form of a product whose weights are in blocks; `ok`: it computes it."""
    forms = _block_probes.make_trials()
    reported = iter(trials(python, [trial for parts in forms.values() for trial in parts]))
    found = {words: [next(reported) for _ in parts] for words, parts in forms.items()}
    return {
        words: _loading.outcome(next((text for text in texts if text != "ok"), "ok")) for words, texts in found.items()
    }


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Load, run and compare every graph in the runtime of an environment; return what it said."""
    return _trials.run(python, TRIAL, graphs)


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    numpy = "<2" if reported["numpy"].startswith("1.") else ""
    complete = _kernels.complete(outcomes, limits["opset"]["ai.onnx"])
    row = {
        "source": "measured",
        "opset": limits["opset"],
        "complete": complete,
        "ir": limits["ir"],
        **_values.row_of(limits),
        "numpy": numpy,
        "python": list(pythons),
    }
    return {
        "format": 1,
        "runtime": "onnxruntime",
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }
