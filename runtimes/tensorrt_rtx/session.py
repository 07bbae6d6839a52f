# SPDX-License-Identifier: Apache-2.0
"""Open an engine in TensorRT for RTX."""

from __future__ import annotations

from pathlib import Path

from packager.runtimes import _tensorrt
from packager.runtimes._tensorrt_session import Engine


def open_session(path: Path, *, threads: int, device: str) -> Engine:
    """Load the engine at `path` on the first GPU; an engine needs no threads. Raises RuntimeError, StepError."""
    return Engine(_tensorrt.tool(("tensorrt_rtx",), "tensorrt-rtx", "rtx"), path)
