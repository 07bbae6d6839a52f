# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CUDA provider under test, without a fall-back to the CPU.

Without a usable GPU the provider is listed all the same, and a session silently runs on the CPU: the adapter refuses
that, so that the cell is skipped with the runtime's own reason; it fails where nodes that compute on data fell back.
"""

from __future__ import annotations

from packager.canonical import JSON

ACCEPTS = ("onnxruntime",)
CHANNELS = ("adapter",)
DEVICE = "cuda"
LIBRARY = "onnxruntime"
KNOBS = ("runtime.threads",)  # of the bundle, that its adapter can set


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("1.31.1",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment; CUDA and cuDNN are the host's."""
    return (f"onnxruntime-gpu=={version}", "numpy==2.2.6")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return ("3.11", "3.12", "3.13")


def options(version: str) -> JSON:
    """Return the options of its adapter: the provider to insist on."""
    return {"provider": "CUDAExecutionProvider"}


def adapter() -> str:
    """Return the runtime whose adapter this one shares: both install the same module."""
    return "onnxruntime"
