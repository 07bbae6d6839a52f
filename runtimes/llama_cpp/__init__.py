# SPDX-License-Identifier: Apache-2.0
"""llama.cpp: one GGUF file, written here of the source, for recipes with a task.

Writing takes `gguf` alone; measuring takes `llama-cpp-python`, which has no wheel on the index and is built from source
where it is wanted. Without it a target is not measured, and the verdict says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import UsageError

TITLE = "llama.cpp"
TOOLCHAIN: tuple[str, ...] = ("gguf", "numpy")
DISTRIBUTIONS: tuple[str, ...] = ("llama-cpp-python",)
EXTRA = "gguf"
PRECISIONS = ("fp32", "fp16", "q8_0")
DEVICES = ("cpu",)
TASKS = ("text-generation",)
FROM_SOURCE = True

_LEVEL = (18, 8)  # of the graph beside it, which limits nothing here


def promised(specifier: str, tables: Tables = load_shipped) -> list[str]:
    """Return the known versions of `llama-cpp-python` in a PEP 440 range, oldest first. Raises UsageError for none."""
    table = tables("llama-cpp")
    found = [row.version for row in runtime_support.list_promised(table, specifier)]
    if not found:
        raise UsageError(
            f"no known version of llama-cpp-python is in `{specifier:.80}`", hint=f"known are {', '.join(table.rows)}"
        )
    return found


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version of the graph beside it. Raises UsageError for an empty range."""
    promised(specifier, tables)
    return _LEVEL


def requirements(specifier: str, devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """Return what an environment beside the file needs: `packager serve` does not run it, so nothing."""
    return ("numpy",)


def unmeasurable(device: str) -> str | None:
    """Return why artefacts cannot run on this host, or None."""
    if importlib.util.find_spec("llama_cpp") is not None:
        return None
    return "llama-cpp-python is not installed (it is built from source: pip install llama-cpp-python)"
