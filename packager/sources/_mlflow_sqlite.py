# SPDX-License-Identifier: Apache-2.0
"""Read what a pin needs from MLflow's SQLite database, without importing MLflow, which takes three seconds.

Only what is plain is answered: a version or alias that names a logged model, both ready, in a database of a schema
listed in `REVISIONS` and without workspaces. Everything else raises UnansweredError, and MLflow's client is asked. The
database is opened read-only.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

REVISIONS = ("dc11669786a5",)
"""Schemas that were compared with what MLflow's client says of them: 3.17."""
ADDRESS = re.compile(r"sqlite:///([^?]+)")
_READY = 2  # LoggedModelStatus.LOGGED_MODEL_READY of MLflow's `service.proto`
_LOGGED = re.compile(r"models:/m-\w+")


class UnansweredError(Exception):
    """Something else than a plain answer: MLflow's client has to be asked."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model, with the members of MLflow's own that a pin is made of."""

    name: str
    version: int
    run_id: str | None
    source: str
    status: str = "READY"
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model, with the members of MLflow's own that a pin is made of."""

    artifact_location: str
    source_run_id: str | None
    status: str = "READY"


class Reader:
    """What is asked of MLflow's client, answered from the database or not at all."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias names. Raises UnansweredError."""
        query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        if alias.lower() == "latest":
            raise UnansweredError
        return self.get_model_version(name, self._row(query, name, alias)[0])

    def get_model_version(self, name: str, version: Any) -> ModelVersion:
        """Return a version by its number. Raises UnansweredError."""
        query = "SELECT run_id, source, status, current_stage FROM model_versions WHERE name = ? AND version = ?"
        run_id, source, status, stage = self._row(query, name, int(version))
        if status != "READY" or stage == "Deleted_Internal" or not _LOGGED.fullmatch(source or ""):
            raise UnansweredError
        return ModelVersion(name, int(version), run_id, source)

    def get_logged_model(self, model_id: str) -> LoggedModel:
        """Return a logged model by its id. Raises UnansweredError."""
        query = "SELECT artifact_location, source_run_id, status, lifecycle_stage FROM logged_models WHERE model_id = ?"
        location, run_id, status, stage = self._row(query, model_id)
        if status != _READY or stage != "active":
            raise UnansweredError
        return LoggedModel(location, run_id)

    def _row(self, query: str, *values: object) -> tuple[Any, ...]:
        """Return the only row of an answer. Raises UnansweredError."""
        rows = self._database.execute(query, values).fetchmany(2)
        if len(rows) != 1:
            raise UnansweredError
        return tuple(rows[0])

    def __getattr__(self, name: str) -> Any:
        raise UnansweredError


@contextlib.contextmanager
def open_reader(base: Path, tracking: str | None, timeout: int) -> Iterator[Reader]:
    """Open a registry's database, `tracking` relative to `base`. Raises UnansweredError, also inside."""
    address = ADDRESS.fullmatch(tracking or "sqlite:///mlflow.db")
    if address is None:
        raise UnansweredError
    path = f"file:{quote(str((base / address[1]).absolute()))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=timeout)) as database:
            (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
            others = database.execute("SELECT 1 FROM registered_models WHERE workspace <> 'default' LIMIT 1").fetchone()
            if revision not in REVISIONS or others:
                raise UnansweredError
            yield Reader(database)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise UnansweredError from error
