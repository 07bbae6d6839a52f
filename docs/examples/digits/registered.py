# SPDX-License-Identifier: Apache-2.0
"""Helpers of both trainers: a local MLflow registry, and progress lines on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME, ALIAS = "digits", "champion"


def say(text: str) -> None:
    """Print a progress line."""
    print(f"    {text} …", file=sys.stderr, flush=True)


@contextlib.contextmanager
def run(folder: Path) -> Iterator[dict[str, Any]]:
    """Begin a run in FOLDER/mlflow.db; yield the arguments by which its model is registered."""
    import mlflow

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    if mlflow.get_experiment_by_name(NAME) is None:
        mlflow.create_experiment(NAME, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(NAME)
    with mlflow.start_run():
        yield {"name": "model", "registered_model_name": NAME}


def point(info: Any) -> str:
    """Point the alias at the version that was registered; return that version."""
    import mlflow

    version = str(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    return version
