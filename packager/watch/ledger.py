# SPDX-License-Identifier: Apache-2.0
"""What a registry showed and what became of it, in the store: each version once, however often it is seen.

    versions    one row for each registered version and bundle: waiting, released, refused or failed, and its tags
    deliveries  the ids of webhooks that were received, while their time stamps are still acceptable

SQLite keeps it whole through a kill. Who releases a version holds a lock on a byte of a file, which the kernel gives up
with the process, so that another watcher takes over and none needs a lease.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from packager import canonical
from packager.canonical import JSON
from packager.errors import StorageError

State: TypeAlias = Literal["waiting", "released", "refused", "failed"]
_FORMAT = 1
_WAIT_SECONDS = 60.0  # while another process writes
_KEY = "registry=? AND name=? AND number=? AND bundle=? AND version=?"
_TABLES = """
CREATE TABLE IF NOT EXISTS versions (
  registry TEXT NOT NULL, name TEXT NOT NULL, number TEXT NOT NULL, bundle TEXT NOT NULL, version TEXT NOT NULL,
  seen REAL NOT NULL, reason TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL,
  tags TEXT, tagged INTEGER NOT NULL,
  PRIMARY KEY (registry, name, number, bundle, version));
CREATE INDEX IF NOT EXISTS by_state ON versions (state, due);
CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, at REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One version of a registered model, and the bundle that it becomes."""

    registry: str
    name: str
    number: str
    bundle: str
    version: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        return (self.registry, self.name, self.number, self.bundle, self.version)


class Ledger:
    """The ledger in one file; several threads and processes may each open it. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "watch.sqlite"
        self._lock: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
            self._base.execute("PRAGMA synchronous=FULL")
            if self._base.execute("PRAGMA user_version").fetchone()[0] > _FORMAT:
                raise StorageError(f"ledger `{self._path}` is of a newer packager", hint="use that version")
            self._base.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={_FORMAT}; COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        self.release_holds()
        self._base.close()

    def see(self, item: Item, reason: str, now: float) -> bool:
        """Write that a version is to be released, unless it is known; return whether it is new."""
        row = (*item.key, now, reason)
        return bool(
            self._run("INSERT OR IGNORE INTO versions VALUES (?,?,?,?,?,?,?,'waiting',0,0,NULL,0)", row).rowcount
        )

    def waiting(self, now: float) -> list[Item]:
        """Return the versions whose release is due, in the order in which they were seen."""
        query = (
            "SELECT registry,name,number,bundle,version FROM versions WHERE state='waiting' AND due<=? ORDER BY seen"
        )
        return [Item(*row) for row in self._run(query, (now,))]

    def hold(self, item: Item) -> bool:
        """Hold a version until `release_holds` or the end of this process; False where another does, or it is done.

        The locks are bytes of one file that stays open: POSIX gives all of them up when any descriptor is closed.
        """
        if self._lock is None:
            self._lock = self._path.with_suffix(".lock").open("ab")
        byte = int(canonical.sha256(canonical.dump(list(item.key))).removeprefix("sha256:")[:15], 16)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return self.state(item) == "waiting"

    def release_holds(self) -> None:
        """Give up every version that is held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def state(self, item: Item) -> State | None:
        """Return the state of a version, None if it was never seen."""
        row = self._run(f"SELECT state FROM versions WHERE {_KEY}", item.key).fetchone()  # noqa: S608 - a constant
        return row[0] if row else None

    def attempts(self, item: Item) -> int:
        """Return how many attempts to release a version ended in a failure."""
        row = self._run(f"SELECT attempts FROM versions WHERE {_KEY}", item.key).fetchone()  # noqa: S608
        return int(row[0]) if row else 0

    def finish(self, item: Item, state: State, tags: Mapping[str, str]) -> None:
        """Write what became of a version, with the tags that are to say so in the registry."""
        text = canonical.dump(dict(tags)).decode()
        self._run(
            f"UPDATE versions SET state=?, tags=?, tagged=0, attempts=attempts+1 WHERE {_KEY}",  # noqa: S608
            (state, text, *item.key),
        )

    def postpone(self, item: Item, due: float) -> None:
        """Write that a release failed and is to be tried again at `due`."""
        self._run(f"UPDATE versions SET attempts=attempts+1, due=? WHERE {_KEY}", (due, *item.key))  # noqa: S608

    def untagged(self, registry: str) -> list[tuple[Item, Mapping[str, str]]]:
        """Return the versions whose tags the registry does not have yet."""
        query = (
            "SELECT registry,name,number,bundle,version,tags FROM versions "
            "WHERE registry=? AND tags IS NOT NULL AND NOT tagged"
        )
        return [(Item(*row[:5]), json.loads(row[5])) for row in self._run(query, (registry,))]

    def mark_tagged(self, item: Item) -> None:
        """Write that the registry has the tags of a version."""
        self._run(f"UPDATE versions SET tagged=1 WHERE {_KEY}", item.key)  # noqa: S608

    def receive(self, delivery: str, now: float, forget_before: float) -> bool:
        """Write that a webhook arrived; False if it did before. What is older than `forget_before` is removed."""
        self._run("DELETE FROM deliveries WHERE at<?", (forget_before,))
        return bool(self._run("INSERT OR IGNORE INTO deliveries VALUES (?,?)", (delivery, now)).rowcount)

    def counts(self) -> dict[str, int]:
        """Return the number of versions by state."""
        rows = self._run("SELECT state, COUNT(*) FROM versions GROUP BY state", ())
        return {"waiting": 0, "released": 0, "refused": 0, "failed": 0, **dict(rows)}

    def _run(self, query: str, values: tuple[JSON, ...]) -> sqlite3.Cursor:
        try:
            return self._base.execute(query, values)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StorageError:
        return StorageError(f"ledger `{self._path}` cannot be used: {error}", hint="is the disk full or read-only?")
