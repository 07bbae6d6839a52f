# SPDX-License-Identifier: Apache-2.0
"""Measure a version of ONNX Runtime for node: the native library, called from JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packager.runtimes import _kernels, _npm
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.events import OnEvent, ignore

NAME = "onnxruntime-node"


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`: the package of npm."""
    return [(f"npm:{NAME}@{version}",)]


def about(python: Path) -> JSON:
    """Return what the package beside `python` (`bin/node`) says of itself, None if it runs nothing."""
    return _npm.read_facts(python)


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Load, run and compare every graph in the package beside `python`; return what it said."""
    return _npm.run_trials(python, graphs)


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the package beside `python` (`opset`, `ir`), and what each probe did."""
    return _npm.measure(NAME, python, on_event)


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; no Python is part of it."""
    return _npm.make_table(NAME, version, limits, outcomes)
