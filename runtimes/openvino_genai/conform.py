# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI under test: by tokens, in an environment with the version."""

from __future__ import annotations

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("openvino-genai",)
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "openvino_genai"
ENGINE = ""  # it runs no graphs of single operators


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return tuple(tables("openvino-genai").rows)


def requirements(version: str, python: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the pinned packages of the environment, with the runtime inside that it was seen with."""
    inside = tables("openvino-genai").rows[version].inside["openvino"]
    return (f"openvino-genai=={version}", f"openvino-tokenizers=={version}", f"openvino=={inside}", "numpy==2.2.6")


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return tables("openvino-genai").rows[version].python
