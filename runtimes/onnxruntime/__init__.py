# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on CPUs: runs the graph as it is, and an fp16 form of it compiled ahead.

`versions.json` and `kernels.json` hold what was measured by loading probe graphs (`probes.py`) into every version that
installs from PyPI; `packager.knowledge` says what their members mean.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from packager import compatibility, knowledge
from packager.errors import UsageError

TITLE = "ONNX Runtime"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
PRECISIONS = ("fp32", "fp16")
DEVICES = ("cpu",)

_SERVING = ("granian>=2.5", "orjson>=3.10", "prometheus-client>=0.21")


def promised(specifier: str) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first."""
    return [row.version for row in compatibility.promised(knowledge.table("onnxruntime"), specifier)]


def level_for(specifier: str) -> tuple[int, int]:
    """Return the opset and the IR version that every version in the range reads: the oldest decides."""
    return compatibility.level_for("onnxruntime", specifier)


def ceiling(specifier: str) -> tuple[int, int]:
    """Return the newest opset and IR version that every version in the range reads with all kernels."""
    table = knowledge.table("onnxruntime")
    opset, ir = level_for(specifier)
    rows = compatibility.promised(table, specifier)
    return min(row.complete or opset for row in rows), min(row.ir or ir for row in rows)


def oldest_with(opset: int) -> str | None:
    """Return the oldest known version that runs everything that was tried of an opset, None if no known one does."""
    rows = knowledge.table("onnxruntime").rows.values()
    return next((row.version for row in rows if (row.complete or 0) >= opset), None)


def requirements(specifier: str) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines.

    Before 1.19 the wheels crash on numpy 2, and all but 1.18.1 fail to say so.
    """
    table = knowledge.table("onnxruntime")
    numpy = {table.rows[version].numpy for version in promised(specifier)}
    bound = numpy.pop() if len(numpy) == 1 else ""
    return (f"numpy{bound}", f"onnxruntime{SpecifierSet(specifier)}", *_SERVING)


def is_graph(device: str, precision: str) -> bool:
    """Say whether the canonical graph itself is the artefact of a target. Raises UsageError for an unknown target."""
    if device not in DEVICES or precision not in PRECISIONS:
        raise UsageError(
            f"onnxruntime has no target `{device}` with precision `{precision}`",
            hint=f"devices: {', '.join(DEVICES)}; precisions: {', '.join(PRECISIONS)}",
        )
    return precision == "fp32"
