# SPDX-License-Identifier: Apache-2.0
"""LightGBM models: boosters in LightGBM's text form (MLflow's `model.lgb`, bare `.txt` and `.lgb`), and skops archives
of its scikit-learn interface, which MLflow writes by default.

Both are data. The graph computes in binary64, as LightGBM does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._tables import lightgbm, skops
from packager.exporters._tables.boosting import Boosted

TOOLCHAIN: tuple[str, ...] = (*lightgbm.TOOLCHAIN, "skops")
EXTRA = lightgbm.EXTRA
EXECUTES = False
READS_OLDER = ("lightgbm",)  # what it wrote itself, by its own promise
LOOKS_FOR = "`model.lgb` or `model.skops` of MLflow's lightgbm, or one `.lgb` or `.txt` file of LightGBM's"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: what MLflow names, else the only `.lgb` or LightGBM `.txt` at the root."""
    if mlflow.MLMODEL in paths:
        table = mlflow.read_flavor("lightgbm", paths, read) or {}
        stated = str(table.get("data", ""))
        return stated if stated in paths and not stated.endswith(".pkl") else None
    found = [path for path in paths if path.endswith((".lgb", ".txt")) and "/" not in path]
    return found[0] if len(found) == 1 and read(found[0])[:64].startswith(b"tree\n") else None


def load(source: Path, payload: str, options: ExportOptions) -> Boosted:
    """Open the file. Raises StepError for what LightGBM cannot read, and for boosters that ONNX cannot hold."""
    path = source / payload
    if payload.endswith(".skops"):
        model = skops.load(path, (*mlflow.trusted_types(source, "lightgbm"),))
    else:
        model = lightgbm.read(path)
    return lightgbm.open_booster(source, model, options)
