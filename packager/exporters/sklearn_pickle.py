# SPDX-License-Identifier: Apache-2.0
"""Pickled models for tables, scikit-learn's and LightGBM's (`model.pkl`).

Opening one runs whatever its author put in, so a recipe must allow it.
Code that the pickle needs is looked for in the source's `code` directory, where MLflow puts `code_paths`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions, SourceModel
from packager.exporters._files import mlflow, pickled
from packager.exporters._tables import estimator, lightgbm

TOOLCHAIN: tuple[str, ...] = (*estimator.TOOLCHAIN, "cloudpickle", "joblib")
MAYBE: tuple[str, ...] = ("lightgbm", "xgboost")  # steps of other libraries, where the source says so
EXTRA = "sklearn"
EXECUTES = True
LOOKS_FOR = "`model.pkl` of MLflow's sklearn or lightgbm, or one `.pkl` or `.joblib` file"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the pickle: what MLflow names, else the only `.pkl` or `.joblib` at the root."""
    if mlflow.MLMODEL in paths:
        table = mlflow.read_flavor("sklearn", paths, read) or mlflow.read_flavor("lightgbm", paths, read) or {}
        stated = str(table.get("pickled_model") or table.get("data") or "")
        return stated if stated.endswith(".pkl") and stated in paths else None
    found = [path for path in paths if path.endswith((".pkl", ".joblib")) and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Open the pickle. Raises StepError when it needs missing code, or holds no fitted model."""
    estimator.require()
    model = pickled.load(source, payload)
    if type(model).__module__.partition(".")[0] == "lightgbm":
        return lightgbm.open_booster(source, model, options)
    return estimator.open_estimator(source, model, options)
