# SPDX-License-Identifier: Apache-2.0
"""What releases did, in the store: finished tasks by the digest of their inputs, and names that were given away.

    tasks    inputs of a task, digested -> its outcome; of one model and task the newest inputs say what changed since
    claims   name, version, purpose -> the digest that was signed or pushed under it, written before that happens

SQLite keeps it whole through a kill: every record is one transaction, synced to the disk before the call returns.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.errors import StorageError

_FORMAT = 1
_PATIENCE = 60.0  # seconds to wait while another process writes
_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, task TEXT NOT NULL, inputs TEXT NOT NULL, outcome TEXT NOT NULL,
  seconds REAL NOT NULL, number INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_model ON tasks (model, task, number);
CREATE TABLE IF NOT EXISTS claims (
  name TEXT NOT NULL, version TEXT NOT NULL, purpose TEXT NOT NULL, digest TEXT NOT NULL, about TEXT NOT NULL,
  PRIMARY KEY (name, version, purpose));
"""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A finished task: what it gave, and how many seconds it took."""

    outcome: Mapping[str, JSON]
    seconds: float


class Journal:
    """The journal in one file; several processes may use it. Raises StorageError where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            self._base.execute("PRAGMA synchronous=FULL")
            if self._base.execute("PRAGMA user_version").fetchone()[0] > _FORMAT:
                raise StorageError(f"journal `{path}` is of a newer version of packager", hint="use that version")
            self._base.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={_FORMAT}; COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        self._base.close()

    def recall(self, model: str, task: str, inputs: JSON) -> Remembered | None:
        """Return what a task with these inputs gave, or None."""
        row = self._run("SELECT outcome, seconds FROM tasks WHERE key=?", (_key(model, task, inputs),))
        return Remembered(json.loads(row[0]), float(row[1])) if row else None

    def last_inputs(self, model: str, task: str) -> Mapping[str, JSON] | None:
        """Return the inputs with which a task of a model ended last, or None if it never did."""
        query = "SELECT inputs FROM tasks WHERE model=? AND task=? ORDER BY number DESC LIMIT 1"
        row = self._run(query, (model, task))
        return json.loads(row[0]) if row else None

    def remember(self, model: str, task: str, inputs: JSON, outcome: JSON, seconds: float) -> None:
        """Write that a task ended well; on return it is on the disk."""
        self._run(
            "INSERT OR REPLACE INTO tasks SELECT ?, ?, ?, ?, ?, ?, 1 + COALESCE(MAX(number), 0) FROM tasks",
            (_key(model, task, inputs), model, task, _text(inputs), _text(outcome), seconds),
        )

    def claim(self, name: str, version: str, purpose: str, digest: str, about: JSON = None) -> tuple[str, JSON]:
        """Write that `purpose` of a name and version means `digest`, unless it is written; return what is.

        On return it is on the disk: what follows may be killed, and happens for the same digest again.
        """
        self._run("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)", (name, version, purpose, digest, _text(about)))
        query = "SELECT digest, about FROM claims WHERE name=? AND version=? AND purpose=?"
        row = self._run(query, (name, version, purpose)) or (digest, _text(about))
        return row[0], json.loads(row[1])

    def _run(self, query: str, values: tuple[object, ...]) -> tuple[str, ...] | None:
        try:
            row: tuple[str, ...] | None = self._base.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from error
        return row

    def _error(self, error: Exception) -> StorageError:
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            hint = "move the file away: finished tasks then run again, and give the same digests"
            return StorageError(f"`{self._path}` is no journal of releases", hint=hint)
        return StorageError(f"journal `{self._path}` cannot be used: {error}", hint="is the disk full or read-only?")


def _key(model: str, task: str, inputs: JSON) -> str:
    return canonical.sha256(_text([model, task, inputs]).encode())


def _text(value: JSON) -> str:
    return canonical.dump(value).decode()
