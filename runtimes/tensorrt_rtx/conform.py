# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX under test: engines of the bundle, on the GPU they were built for; skipped where there is none."""

from __future__ import annotations

from packager.canonical import JSON

ACCEPTS = ("tensorrt-rtx",)
CHANNELS = ("adapter",)
DEVICE = "cuda"
LIBRARY = "libtensorrt_rtx.so"
ENGINE = ""  # it reads engines, no graphs of single operators


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first: an engine runs on the version that built it."""
    return ("1.7.1.116",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment, the library among them; the driver is the host's."""
    return (f"tensorrt-rtx=={version}", "cuda-bindings==13.5.0", "numpy==2.4.6")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions that all of them have wheels for."""
    return ("3.11", "3.12", "3.13")


def options(version: str) -> JSON:
    """Return the options of its adapter: which of the two libraries it drives."""
    return {"runtime": "tensorrt-rtx"}


def adapter() -> str:
    """Return the runtime whose adapter this one shares: both libraries have one Python interface."""
    return "tensorrt"
