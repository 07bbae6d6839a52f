# SPDX-License-Identifier: Apache-2.0
"""TorchScript archives (`.ts`, `.torchscript`): a module as code of TorchScript's language, with its weights.

That language reads and writes files through torch's operators, so an archive is code and a recipe must allow it.
Control flow survives: a script's `if` and `for` become ONNX's `If` and `Loop`. What was traced has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions, SourceModel
from packager.exporters._torch import module, program

TOOLCHAIN: tuple[str, ...] = program.TOOLCHAIN
EXTRA = "torch"
EXECUTES = True
IS = "a TorchScript archive"
LOOKS_FOR = "one `.ts` or `.torchscript` file"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the only archive at the root."""
    found = [path for path in paths if path.endswith((".ts", ".torchscript")) and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Open the archive. Raises StepError when it cannot be opened, or when its inputs are unknown."""
    return module.load(source, payload, options)
