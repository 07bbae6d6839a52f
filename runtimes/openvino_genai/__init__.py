# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI: a folder that its `LLMPipeline` opens, made of our graph, for recipes with a task.

The folder is complete: the decoder as stateful IR, tokenizer and detokenizer as IR, ends and defaults. `versions.json`
holds the versions whose tokens were seen to be those of the source.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import UsageError
from packager.runtime import SERVER_REQUIREMENTS

TITLE = "OpenVINO GenAI"
TOOLCHAIN: tuple[str, ...] = (
    "openvino-genai",
    "openvino-tokenizers",
    "openvino",
    "transformers",
    "tokenizers",
    "onnx",
    "numpy",
    "ml-dtypes",
    "protobuf",
)
EXTRA = "openvino-genai"
PRECISIONS = ("fp32",)
DEVICES = ("cpu",)
SERVED = True
TASKS = ("text-generation",)

_LEVEL = (18, 8)  # what the converter reads does not limit this


def promised(specifier: str, tables: Tables = load_shipped) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first. Raises UsageError when there is none."""
    table = tables("openvino-genai")
    found = [row.version for row in runtime_support.list_promised(table, specifier)]
    if not found:
        raise UsageError(
            f"no known version of openvino-genai is in `{specifier:.80}`", hint=f"known are {', '.join(table.rows)}"
        )
    return found


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version of the graph that the IR is made of. Raises UsageError for an empty range."""
    promised(specifier, tables)
    return _LEVEL


def requirements(specifier: str, devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines; it pins `openvino` itself."""
    return ("numpy", f"openvino-genai{SpecifierSet(specifier)}", *SERVER_REQUIREMENTS)
