# SPDX-License-Identifier: Apache-2.0
"""Keras 3 models (`.keras`): what MLflow writes for keras and tensorflow, and bare files.

The file is data as long as no layer brings own code: a `Lambda` does, and Keras refuses it here (`safe_mode`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._tensorflow import function, keras

TOOLCHAIN: tuple[str, ...] = function.TOOLCHAIN
EXTRA = function.EXTRA
EXECUTES = False
READS_OLDER = ("keras", "tensorflow")  # what Keras wrote itself, by its own promise
LOOKS_FOR = "`model.keras` of MLflow's keras or tensorflow, or one `.keras` file"

_LONGEST = 64 << 20  # bytes of a configuration


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: anywhere in what MLflow wrote for keras or tensorflow, else the only one at the root."""
    if mlflow.MLMODEL in paths:
        ours = mlflow.read_flavor("keras", paths, read) or mlflow.read_flavor("tensorflow", paths, read)
        found = [path for path in paths if path.endswith(".keras")] if ours else []
    else:
        found = [path for path in paths if path.endswith(".keras") and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> function.Function:
    """Open the file. Raises StepError for what Keras cannot read without running code."""
    path = source / payload
    if not zipfile.is_zipfile(path):
        raise StepError(
            f"`{payload}` is not a file of Keras 3, or is damaged",
            hint="a file in HDF5, the form of Keras 2, must end in `.h5`",
        )
    made = str((_member(path, "metadata.json") or {}).get("keras_version") or "")
    file = keras.File(payload, _member(path, "config.json"), made)
    keras.refuse_code(file)
    lib = function.library()
    file = replace(file, here=str(lib.keras.__version__))
    return keras.open_model(
        lib, file, lambda: lib.keras.models.load_model(str(path), compile=False, safe_mode=True), options
    )


def _member(path: Path, name: str) -> JSON:
    """Return a JSON member of the archive; None for one that is absent or broken, which Keras will speak of."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            return json.loads(member.read(_LONGEST))
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, ValueError):
        return None
