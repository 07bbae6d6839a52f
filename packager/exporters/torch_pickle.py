# SPDX-License-Identifier: Apache-2.0
"""Pickled torch modules (`.pth`, `.pt`): opening one runs its author's code, so a recipe must allow it.

TorchScript archives often have these endings too; which it is shows when the file is opened, under the same consent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions, SourceModel
from packager.exporters._files import mlflow
from packager.exporters._torch import module, program

TOOLCHAIN: tuple[str, ...] = (*program.TOOLCHAIN, "cloudpickle")
EXTRA = "torch"
EXECUTES = True
LOOKS_FOR = "`data/model.pth` of an MLflow directory, or one `.pth` or `.pt` file"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the pickle: where MLflow puts it, else the only `.pth` or `.pt` at the root."""
    table = mlflow.read_flavor("pytorch", paths, read)
    if table is not None:
        inside = f"{table.get('model_data', 'data')}/model.pth"
        return inside if inside in paths else None
    found = [path for path in paths if path.endswith((".pth", ".pt")) and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Open the pickle. Raises StepError when it is not a module, needs missing code, or its inputs are unknown."""
    return module.load(source, payload, options)
