# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI under test: by tokens, in an environment with the version."""

from __future__ import annotations

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("onnxruntime-genai",)
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "onnxruntime-genai"
ENGINE = ""  # it runs no graphs of single operators


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return tuple(tables("onnxruntime-genai").rows)


def requirements(version: str, python: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the pinned packages of the environment, with the runtime inside that it was seen with."""
    inside = tables("onnxruntime-genai").rows[version].inside["onnxruntime"]
    return (f"onnxruntime-genai=={version}", f"onnxruntime=={inside}", "numpy==2.4.6")


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return tables("onnxruntime-genai").rows[version].python
