# SPDX-License-Identifier: Apache-2.0
"""Toy under test: every version that is known, in a separate environment, through `adapter.py`."""

from __future__ import annotations

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("toy",)
LIBRARY = "onnx_cpp2py_export"
ENGINE = ""  # it reads containers, no graphs of single operators


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return tuple(tables("toy").rows)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment."""
    return (f"onnx=={version}", "numpy>=2")


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return tables("toy").rows[version].python
