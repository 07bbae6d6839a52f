# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI: the graph with its key-value cache as a folder that this library opens, for recipes with a task.

The folder is complete: graph, weights, `genai_config.json`, tokenizer and template. What computes is ONNX Runtime.
`versions.json` holds the versions whose tokens were seen to be those of the source.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.runtime import SERVER_REQUIREMENTS

TITLE = "ONNX Runtime GenAI"
TOOLCHAIN: tuple[str, ...] = ("onnxruntime-genai", "onnxruntime", "numpy")
EXTRA = "genai"
PRECISIONS = ("fp32",)
DEVICES = ("cpu",)
SERVED = True
TASKS = ("text-generation",)

_ENGINE = "onnxruntime>=1.31"  # what 0.18 needs


def promised(specifier: str, tables: Tables = load_shipped) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first."""
    return [row.version for row in runtime_support.list_promised(tables("onnxruntime-genai"), specifier)]


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version that every version in the range reads: those of the runtime inside."""
    return runtime_support.level_for("onnxruntime-genai", specifier, tables)


def requirements(specifier: str, devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines."""
    return ("numpy", _ENGINE, f"onnxruntime-genai{SpecifierSet(specifier)}", *SERVER_REQUIREMENTS)
