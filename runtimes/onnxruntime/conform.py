# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime under test: every release since 1.15, in a separate environment, through its Python API."""

from __future__ import annotations

from typing import Any

from packaging.version import Version

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("onnxruntime",)
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "onnxruntime"
KNOBS = ("runtime.threads",)  # of the bundle, that its adapter can set


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return tuple(tables("onnxruntime").rows)


def requirements(version: str, python: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the pinned packages of the environment; wheels before 1.19 crash on numpy 2 and do not all say so."""
    return (f"onnxruntime=={version}", numpy_for(_row(version, tables).numpy == "<2", python))


def numpy_for(old: bool, python: str) -> str:
    """Return a numpy that has wheels for `python`, of series 1 where the runtime's extension was built for that."""
    if old:
        return "numpy==1.24.4" if python == "3.8" else "numpy==1.26.4"
    newest = {"3.8": "1.24.4", "3.9": "2.0.2", "3.10": "2.2.6"}
    return f"numpy=={newest.get(python, '2.4.6')}"


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return tuple(sorted(_row(version, tables).python, key=Version))


def _row(version: str, tables: Tables) -> Any:
    """Return what is known of a version; an unmeasured patch release is as able as the oldest of its minor."""
    rows, release = tables("onnxruntime").rows, Version(version).release[:2]
    return rows.get(version) or next(row for known, row in rows.items() if Version(known).release[:2] == release)
