# SPDX-License-Identifier: Apache-2.0
"""Sum the resources of all processes of a confined step: memory, files in memory, processes, files on the disk.

The kernel's limits of a process (`setrlimit`) say nothing about the sum of several. The first process of the step sees
all the others and looks at them every quarter of a second. What is held without being mapped (socket buffers, pipes) is
not seen; the filter of system calls refuses files in memory that no file system shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY_FILES = ("/tmp", "/dev/shm")  # noqa: S108 - both are file systems of the step's own
_SHARE = 4  # times as long as a look took passes before the next
_ENTRIES, _DEPTH = 100_000, 128  # of the writable directories, while the step runs


class Watch:
    """Adds up what the processes of this process space use. `peak` is the most memory that was seen, in bytes."""

    def __init__(self, limits: Mapping[str, int], writable: Sequence[str]) -> None:
        self._limits = limits
        self._disks = [path for path in writable if path not in _MEMORY_FILES]
        self._looks, self._next = 0, 0.0
        self.peak = 0

    def exceeded(self) -> str | None:
        """Return which limit the step exceeds now: `memory`, `processes`, `disk`, `files`; None if it keeps them."""
        started = time.monotonic()
        if started < self._next:
            return None
        found = self._look()
        ended = time.monotonic()
        self._next = ended + _SHARE * (ended - started)
        return found

    def _look(self) -> str | None:
        with os.scandir("/proc") as entries:
            processes = [entry.name for entry in entries if entry.name.isdigit() and entry.name != "1"]
        if len(processes) > self._limits["processes"]:
            return "processes"
        if self._exceeds_memory(processes):
            return "memory"
        self._looks += 1
        return self._disk() if self._looks % 4 == 0 else None

    def _exceeds_memory(self, processes: Sequence[str]) -> bool:
        files = sum(map(_used, _MEMORY_FILES))
        found = files + sum(map(_private, processes))
        limit = self._limits["memory"]
        if limit and found > limit:  # pages that a fork shares were counted twice
            found = files + sum(map(_proportional, processes))
        self.peak = max(self.peak, found)
        return bool(limit) and found > limit

    def _disk(self) -> str | None:
        total, entries = 0, 0
        pending = [(path, 0) for path in self._disks]
        while pending:
            path, depth = pending.pop()
            for entry in _entries(path):
                entries += 1
                if entries > _ENTRIES or depth > _DEPTH:
                    return "files"
                try:
                    total += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, depth + 1))
                except OSError:
                    continue  # gone again
        return "disk" if total > self._limits["disk"] else None


def _entries(path: str) -> list[Any]:
    try:
        with os.scandir(path) as found:
            return [entry for entry, _ in zip(found, range(_ENTRIES + 1), strict=False)]
    except OSError:
        return []


def _used(path: str) -> int:
    status = os.statvfs(path)
    return status.f_frsize * (status.f_blocks - status.f_bfree)


def _private(process: str) -> int:
    """Return the bytes of a process that are no file's, as if it shared none of them."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:  # noqa: PTH123
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return _PAGE * (resident - shared)


def _proportional(process: str) -> int:
    """Return the bytes of a process that are no file's, each page divided by the number of processes that share it."""
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123
            rows = dict(row.split(":", 1) for row in file if ":" in row)
        return 1024 * int(rows["Pss_Anon"].split()[0])
    except (OSError, KeyError, ValueError):
        return _private(process)  # it hides, or is gone
