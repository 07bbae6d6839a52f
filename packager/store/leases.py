# SPDX-License-Identifier: Apache-2.0
"""What running processes use of a store, so that the collector keeps it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

from packager.files import (
    storage_errors,
)


class Lease:
    """The digests and names of environments that this process uses, in a file of the store that it keeps locked.

    It is written when something is held first, and ends with the process or with the object.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file: BinaryIO | None = None
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def holds(self, name: str) -> bool:
        """Return whether `name` is held already."""
        return name in self._held

    def hold(self, *names: str) -> None:
        """Add `names`; the caller locks the collector out meanwhile. Raises StorageError."""
        with self._lock, storage_errors(self._root):
            if self._file is None:
                descriptor, path = tempfile.mkstemp(dir=self._root / "leases")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._file = os.fdopen(descriptor, "wb", buffering=0)
                self._end = weakref.finalize(self, _end_lease, self._file, Path(path))
            if fresh := [name for name in names if name not in self._held]:
                lines = "".join(f"{name}\n" for name in fresh).encode()
                if self._file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._held.update(fresh)

    def release(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            if self._file is not None:
                self._end()
                self._file = None
                self._held.clear()


def read_living(root: Path) -> set[str]:
    """Return what running processes hold, and delete the leases of dead ones; for the collector only."""
    needed: set[str] = set()
    for path in (root / "leases").iterdir():
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # its process may end this instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                needed.update(file.read().decode().split())
    return needed


def _end_lease(lease: BinaryIO, path: Path) -> None:
    with contextlib.suppress(OSError):  # one that stays is void: the next collection deletes it
        path.unlink(missing_ok=True)
    lease.close()
