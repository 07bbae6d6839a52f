# SPDX-License-Identifier: Apache-2.0
"""Scratch of a running process, on the store's file system; what killed processes left is swept."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packager.files import (
    hold_lock,
    remove_tree,
    storage_errors,
)


@contextlib.contextmanager
def open_scratch(root: Path) -> Iterator[Path]:
    """Yield a private directory below the `tmp` of `root`; it is deleted with the process that made it."""
    gate, tmp = root / "tmp.gate", root / "tmp"
    with contextlib.ExitStack() as stack:
        with storage_errors(root), hold_lock(gate, shared=True):  # no sweeper may see it before its lock is held
            directory = Path(tempfile.mkdtemp(dir=tmp))
            lock = directory.with_suffix(".lock")
            stack.enter_context(hold_lock(lock))
        try:
            yield directory
        finally:
            remove_tree(directory)
            lock.unlink(missing_ok=True)


def sweep_scratch(root: Path) -> int:
    """Delete scratch of killed processes; return the number of directories."""
    removed = 0
    with (root / "tmp.gate").open("ab") as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # another process is creating scratch; the next run sweeps
        locks = {path for path in (root / "tmp").iterdir() if path.suffix == ".lock"}
        locks |= {path.with_suffix(".lock") for path in (root / "tmp").iterdir() if path.suffix != ".lock"}
        for lock in locks:  # a directory without a lock was being made when its process died
            removed += _sweep_one(lock)
    return removed


def _sweep_one(lock: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        remove_tree(lock.with_suffix(""))
        lock.unlink(missing_ok=True)
        return True
    return False
