# SPDX-License-Identifier: Apache-2.0
"""MLServer under test, with a custom runtime around ONNX Runtime (`model.py` beside this file); there is no other."""

from __future__ import annotations

ACCEPTS = ("onnxruntime",)
CHANNELS = ("http", "grpc")
DEVICE = "cpu"
LIBRARY = "onnxruntime"
ENGINE = "onnxruntime"  # what computes inside


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("1.7.1",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment."""
    return (f"mlserver=={version}", "onnxruntime==1.23.2")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it runs on."""
    return ("3.10", "3.11", "3.12")
