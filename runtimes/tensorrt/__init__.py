# SPDX-License-Identifier: Apache-2.0
"""TensorRT: engines for NVIDIA's data-centre GPUs, built on a machine that has the GPU and the libraries.

A device is a compute capability (the engine runs on every GPU of it) or `ampere_plus` (on every GPU since Ampere,
slower). A range of versions beyond the installed one needs an engine that later versions read.
Kernels are chosen by timing them, so two builds may differ: such an artefact is `recorded`, and `timing-cache` in the
recipe binds a build to timings that were taken before.
"""

from __future__ import annotations

from collections.abc import Collection

from packager.runtimes import _gpu, _versions

TITLE = "TensorRT"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf", "tensorrt")
EXTRA = "tensorrt"
PRECISIONS = ("fp32", "fp16", "mixed")
DEVICES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "ampere_plus")
BUILDS_ON_GPU = True
SERVED = False

_LEVEL = (18, 8)  # what the parser reads does not limit this: older graphs run on more runtimes beside it


def level_for(specifier: str) -> tuple[int, int]:
    """Return the opset and the IR version of the graph that engines are made of."""
    _versions.parse("tensorrt", specifier)
    return _LEVEL


def requirements(specifier: str, devices: Collection[str] = ("sm_80",)) -> tuple[str, ...]:
    """Return what a locked environment can hold of it: nothing. The libraries come with NVIDIA's index or images."""
    _versions.parse("tensorrt", specifier)
    return ()


def unmeasurable(device: str) -> str | None:
    """Return why an engine for `device` can neither be built nor run on this host, or None."""
    names = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
    return _gpu.find_obstacle(names, None if device == "ampere_plus" else device)
