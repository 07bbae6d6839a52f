# SPDX-License-Identifier: Apache-2.0
"""Open a pickle in the worker: this runs code of its author, and is reached only with consent of the recipe."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.errors import MissingToolError, StepError
from packager.exporters._tables import renamed


def load(source: Path, payload: str) -> Any:
    """Unpickle (joblib reads plain, cloudpickled and its own pickles). Raises StepError for whatever comes out."""
    if (source / "code").is_dir():
        sys.path.insert(0, str(source / "code"))
    try:
        joblib = importlib.import_module("joblib")
    except ImportError:
        raise MissingToolError("joblib", "sklearn") from None
    for name in ("", ".numpy_pickle"):  # joblib's place until scikit-learn 0.23; the scanners read its arrays there too
        sys.modules[f"sklearn.externals.joblib{name}"] = importlib.import_module(f"joblib{name}")
    try:
        with renamed.old_names_importable():
            return joblib.load(source / payload)
    except ModuleNotFoundError as error:
        raise StepError(
            f"`{payload}` needs the module `{error.name}`, which the source does not hold",
            hint="log the model with `code_paths`, or in a form that is data (skops)",
        ) from error
    except Exception as error:  # unpickling runs foreign code: anything can come out
        raise StepError(
            f"`{payload}` cannot be opened: {error_causes.find_cause(error)}",
            hint="its libraries may have to be of the versions that made it (`toolchain: locked`)",
        ) from error
