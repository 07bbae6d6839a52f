# SPDX-License-Identifier: Apache-2.0
"""llama.cpp under test: by tokens, in an environment with a version of llama-cpp-python."""

from __future__ import annotations

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("llama-cpp",)
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "llama"
ENGINE = ""  # it runs no graphs of single operators


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return tuple(tables("llama-cpp").rows)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment. There is no wheel of the library on the index."""
    return (f"llama-cpp-python=={version}", "numpy==2.4.6")


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it was built for."""
    return tables("llama-cpp").rows[version].python
