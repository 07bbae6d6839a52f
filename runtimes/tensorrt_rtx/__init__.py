# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX: engines for NVIDIA's workstation GPUs, built ahead of time on any x86-64 host.

A device is a compute capability. Not among them are `sm_90` and `sm_100`, the data-centre GPUs: those need the
runtime `tensorrt`. An engine runs on the version that built it, so the promised range must hold the installed one.
"""

from __future__ import annotations

from collections.abc import Collection

from packager.runtimes import _gpu, _versions

TITLE = "TensorRT for RTX"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf", "tensorrt-rtx")
EXTRA = "rtx"
PRECISIONS = ("fp32", "fp16", "mixed")
DEVICES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
BUILDS_ON_GPU = False
SERVED = False
DISTRIBUTIONS = ("tensorrt-rtx", "tensorrt_rtx")

_LEVEL = (18, 8)  # what the parser reads does not limit this: older graphs run on more runtimes beside it


def level_for(specifier: str) -> tuple[int, int]:
    """Return the opset and the IR version of the graph that engines are made of."""
    _versions.parse("tensorrt-rtx", specifier)
    return _LEVEL


def requirements(specifier: str, devices: Collection[str] = ("sm_86",)) -> tuple[str, ...]:
    """Return what a locked environment can hold of it: nothing. On PyPI it is no wheel but a recipe to build one."""
    _versions.parse("tensorrt-rtx", specifier)
    return ()


def unmeasurable(device: str) -> str | None:
    """Return why an engine for `device` cannot run on this host, or None."""
    return _gpu.find_obstacle(("cuda-bindings",), device)
