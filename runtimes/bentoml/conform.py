# SPDX-License-Identifier: Apache-2.0
"""BentoML under test: a service around ONNX Runtime (`service.py` beside this file), called over its HTTP API."""

from __future__ import annotations

ACCEPTS = ("onnxruntime",)
CHANNELS = ("adapter",)  # it does not speak the Open Inference Protocol: the adapter translates
DEVICE = "cpu"
LIBRARY = "onnxruntime"
ENGINE = "onnxruntime"  # what computes inside


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("1.4.39",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment."""
    return (f"bentoml=={version}", "onnxruntime==1.23.2")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it runs on."""
    return ("3.10", "3.11", "3.12")
