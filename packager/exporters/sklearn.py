# SPDX-License-Identifier: Apache-2.0
"""scikit-learn estimators in skops archives: what MLflow writes by default since 3.10, and bare `.skops` files.

An archive is data: it names classes of installed libraries and says how to fill them. Opening it imports those
libraries and runs no code of its author, as long as no type from elsewhere is trusted; so none is, whatever the
source records as trusted. A model that needs such a type must be pickled, and the recipe must allow that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._tables import estimator, skops

TOOLCHAIN: tuple[str, ...] = (*estimator.TOOLCHAIN, "skops")
MAYBE: tuple[str, ...] = ("lightgbm", "xgboost")  # steps of other libraries, where the source says so
EXTRA = "sklearn"
EXECUTES = False
LOOKS_FOR = "`model.skops` of MLflow's sklearn, or one `.skops` file"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the archive: what MLflow names, else the only `.skops` at the root of what no other flavor claims."""
    if mlflow.MLMODEL in paths:
        table = mlflow.read_flavor("sklearn", paths, read) or {}
        stated = str(table.get("pickled_model", ""))
        return stated if stated.endswith(".skops") and stated in paths else None
    found = [path for path in paths if path.endswith(".skops") and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> estimator.Estimator:
    """Open the archive. Raises StepError when it needs foreign types, or holds no fitted estimator."""
    estimator.library()
    model = skops.load(source / payload, mlflow.trusted_types(source, "sklearn"))
    return estimator.open_estimator(source, model, options)
