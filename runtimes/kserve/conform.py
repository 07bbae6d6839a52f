# SPDX-License-Identifier: Apache-2.0
"""KServe's model server under test, with a custom model around ONNX Runtime (`model.py` beside this file)."""

from __future__ import annotations

ACCEPTS = ("onnxruntime",)
CHANNELS = ("http", "grpc")
DEVICE = "cpu"
LIBRARY = "onnxruntime"
ENGINE = "onnxruntime"  # what computes inside


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("0.21.0",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment."""
    return (f"kserve=={version}", "onnxruntime==1.23.2")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it runs on."""
    return ("3.10", "3.11", "3.12")


def deviations(version: str) -> dict[str, str]:
    """Return the laws that this release breaks for every model, each with what was seen."""
    return {
        "test_a_malformed_body_is_refused[binary data cut short]": "KServe answers a body that is cut short with 500"
    }
