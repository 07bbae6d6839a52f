# SPDX-License-Identifier: Apache-2.0
"""TensorRT under test: engines of the bundle, on the GPU they were built for.

PyPI has its Python bindings alone; the libraries are those of the host (NVIDIA's packages), or of an environment that
is named with `--python`. Where they or the GPU are missing, the cell is skipped with that reason.
"""

from __future__ import annotations

from packager.canonical import JSON

ACCEPTS = ("tensorrt",)
CHANNELS = ("adapter",)
DEVICE = "cuda"
LIBRARY = "libnvinfer.so"
ENGINE = ""  # it reads engines, no graphs of single operators


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("11.4.0.106",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment; the libraries are the host's."""
    return (f"tensorrt-cu13-bindings=={version}", "cuda-bindings==13.5.0", "numpy==2.4.6")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions that all of them have wheels for."""
    return ("3.11", "3.12", "3.13")


def options(version: str) -> JSON:
    """Return the options of its adapter: which of the two libraries it drives."""
    return {"runtime": "tensorrt"}
