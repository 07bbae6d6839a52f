# SPDX-License-Identifier: Apache-2.0
"""Triton Inference Server on CPUs: it runs what ONNX Runtime runs, in the version that is inside its release.

`versions.json` maps NVIDIA's release names (24.05) and server versions (2.46.0) to the ONNX Runtime, TensorRT, CUDA
and driver they carry, from the vendor's build script and compatibility page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from packager.canonical import JSON
from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped, version_key
from packager.server.declaration import Knob

TITLE = "Triton Inference Server"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
ENGINE = "onnxruntime"  # whose artefacts it runs: they are compiled and measured there
PRECISIONS = ("fp32", "fp16")
DEVICES = ("cpu",)
BUILDS_ON_GPU = False
SERVED = False
DISTRIBUTIONS = ("nvidia-pytriton", "tritonserver")


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version that every release in the range reads."""
    return runtime_support.level_for("triton", specifier, tables)


def requirements(specifier: str, devices: Collection[str] = ("cpu",), tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return what its Python backend needs to run a graph; the container's own ONNX backend needs nothing.

    With numpy 2 the stubs of that backend return wrong values without an error.
    """
    rows = runtime_support.list_promised(tables("triton"), specifier)
    oldest = min((row.inside["onnxruntime"] for row in rows if "onnxruntime" in row.inside), key=version_key)
    return ("numpy<2", f"onnxruntime>={oldest}")


def is_graph(device: str, precision: str) -> bool:
    """Return whether the canonical graph is the artefact of a target."""
    return precision == "fp32"


def knobs(contract: Mapping[str, JSON]) -> tuple[Knob, ...]:
    """Return what a site may set in a rendered model; a new value takes effect when the model is loaded again."""
    own = [
        Knob("triton.instances", "integer", "Number of model instances per device.", 1, 1, 64, unit="instances"),
        Knob(
            "triton.threads", "integer", "Number of threads that execute one run on CPUs.", 1, 1, 1024, unit="threads"
        ),
        Knob(
            "triton.queue_delay",
            "integer",
            "Maximum microseconds a request waits to be batched with others.",
            0,
            0,
            10**6,
            unit="µs",
        ),
        Knob(
            "triton.max_queue",
            "integer",
            "Maximum number of queued requests. 0: no limit.",
            128,
            0,
            10**6,
            unit="requests",
        ),
        Knob(
            "triton.timeout",
            "integer",
            "Maximum microseconds a request waits in the queue. 0: no limit.",
            0,
            0,
            3600 * 10**6,
            unit="µs",
        ),
        Knob("triton.warmup", "boolean", "Run the reference vectors before the model is ready.", True),
    ]
    if any(target["runtime"] == "tensorrt" for target in contract["targets"].values()):
        own.append(Knob("triton.devices", "integers", "Indexes of the GPUs to run on. Unset: all.", None, 0, 63))
    return tuple(replace(knob, needs="reload") for knob in own)
