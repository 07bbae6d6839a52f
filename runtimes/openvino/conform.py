# SPDX-License-Identifier: Apache-2.0
"""OpenVINO under test, on the CPU in full precision; it reads the canonical graph and its own compiled form alike."""

from __future__ import annotations

ACCEPTS = ("onnxruntime", "openvino")
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "openvino"
KNOBS = ("runtime.threads",)  # of the bundle, that its adapter can set


def versions() -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first."""
    return ("2026.4.1",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment."""
    return (f"openvino=={version}", "numpy==2.2.6")


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it has wheels for."""
    return ("3.10", "3.11", "3.12", "3.13")


def deviations(version: str) -> dict[str, str]:
    """Return the laws that this release breaks for every model, each with what was seen."""
    law, seen = (
        "test_a_bad_request_is_refused_in_a_sentence",
        "OpenVINO gives an array of another shape the one it wants",
    )
    return {f"{law}[adapter-{kind}]": seen for kind in ("one dimension less", "wrong fixed size")}
