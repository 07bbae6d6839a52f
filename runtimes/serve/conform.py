# SPDX-License-Identifier: Apache-2.0
"""Our own server under test: installed from the bundle's own lock, started as `packager serve` starts it."""

from __future__ import annotations

ACCEPTS = ("onnxruntime",)
CHANNELS = ("http", "grpc")
DEVICE = "cpu"
LIBRARY = "onnxruntime"
ENGINE = "onnxruntime"  # what computes inside
KNOBS = (
    "batch.max",
    "log.level",
    "runtime.threads",
    "server.max_in_flight",
    "server.max_body",
)  # of the bundle, that its adapter can set
INSTALLS = True  # its environment is an installation, not a list of packages


def versions() -> tuple[str, ...]:
    """Return the version of the protocol it speaks, which is what it reports."""
    return ("1",)


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return nothing: the bundle's lock says what is installed."""
    return ()


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions it runs on."""
    return ("3.11", "3.12", "3.13", "3.14")
