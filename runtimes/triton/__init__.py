# SPDX-License-Identifier: Apache-2.0
"""Triton Inference Server on CPUs: it runs what ONNX Runtime runs, in the version that is inside its release.

`versions.json` maps NVIDIA's release names (24.05) and server versions (2.46.0) to the ONNX Runtime, TensorRT, CUDA
and driver they carry, from the vendor's build script and compatibility page.
"""

from __future__ import annotations

from collections.abc import Collection

from packager.runtimes import _versions

from packager import compatibility, knowledge

TITLE = "Triton Inference Server"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
ENGINE = "onnxruntime"  # whose artefacts it runs: they are compiled and measured there
PRECISIONS = ("fp32", "fp16")
DEVICES = ("cpu",)
BUILDS_ON_GPU = False
SERVED = False


def level_for(specifier: str) -> tuple[int, int]:
    """Return the opset and the IR version that every release in the range reads."""
    return compatibility.level_for("triton", specifier)


def requirements(specifier: str, devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """Return what its Python backend needs to run a graph; the container's own ONNX backend needs nothing.

    With numpy 2 the stubs of that backend return wrong values without an error.
    """
    rows = compatibility.promised(knowledge.table("triton"), specifier)
    oldest = min((row.inside["onnxruntime"] for row in rows if "onnxruntime" in row.inside), key=knowledge.order)
    return ("numpy<2", f"onnxruntime>={oldest}")


def is_graph(device: str, precision: str) -> bool:
    """Say whether the canonical graph itself is the artefact of a target. Raises UsageError for an unknown target."""
    _versions.check_target("triton", device, precision, DEVICES, PRECISIONS)
    return precision == "fp32"


def unmeasurable(device: str) -> str | None:
    """Say why artefacts for `device` cannot run on this host, or None: the engine inside runs everywhere."""
    return None
