# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: runs the graph as it is, and other forms of it (fp16, int8, …) that are compiled ahead.

Devices are execution providers: `cpu`, `cuda`, `tensorrt` (both of `onnxruntime-gpu`), `rtx` (a plug-in provider of
NVIDIA's). The artefact of a form is the same on all of them.

`versions.json` and `kernels.json` hold what was measured by loading probe graphs (`probes.py`) into every version that
installs from PyPI; `packager.contract.runtime_tables` says what their members mean.
"""

from __future__ import annotations

from collections.abc import Collection

from packager.runtimes import _gpu
from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.runtime import SERVER_REQUIREMENTS

TITLE = "ONNX Runtime"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
PRECISIONS = ("fp32", "fp32_optimised", "fp16", "mixed", "int8", "int8_dynamic", "int4")
DEVICES = ("cpu", "cuda", "tensorrt", "rtx")
BUILDS_ON_GPU = False
SERVED = True
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")

_PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx"


def promised(specifier: str, tables: Tables = load_shipped) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first."""
    return [row.version for row in runtime_support.list_promised(tables("onnxruntime"), specifier)]


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version that every version in the range reads: the oldest decides."""
    return runtime_support.level_for("onnxruntime", specifier, tables)


def ceiling(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the newest opset and IR version that every version in the range reads with all kernels."""
    table = tables("onnxruntime")
    opset, ir = level_for(specifier, tables)
    rows = runtime_support.list_promised(table, specifier)
    return min(row.complete or opset for row in rows), min(row.ir or ir for row in rows)


def oldest_with(opset: int, tables: Tables = load_shipped) -> str | None:
    """Return the oldest known version that runs everything that was tried of an opset, None if no known one does."""
    rows = tables("onnxruntime").rows.values()
    return next((row.version for row in rows if (row.complete or 0) >= opset), None)


def requirements(specifier: str, devices: Collection[str] = ("cpu",), tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines.

    Before 1.19 the wheels crash on numpy 2, and all but 1.18.1 fail to say so. The wheel for GPUs holds the CPU's
    provider too, and cannot be installed beside the other.
    """
    table = tables("onnxruntime")
    numpy = {table.rows[version].numpy for version in promised(specifier, tables)}
    bound = numpy.pop() if len(numpy) == 1 else ""
    wheel = "onnxruntime-gpu[cuda,cudnn]" if {"cuda", "tensorrt"} & {*devices} else "onnxruntime"
    plugin = (_PLUGIN,) if "rtx" in devices else ()
    return (f"numpy{bound}", f"{wheel}{SpecifierSet(specifier)}", *plugin, *SERVER_REQUIREMENTS)


def is_graph(device: str, precision: str) -> bool:
    """Return whether the canonical graph is the artefact of a target."""
    return precision == "fp32"


def unmeasurable(device: str) -> str | None:
    """Return why artefacts for `device` cannot run on this host, or None."""
    if device == "cpu":
        return None
    return _gpu.find_obstacle((_PLUGIN, f"{_PLUGIN}-cu13") if device == "rtx" else ("onnxruntime-gpu",))
