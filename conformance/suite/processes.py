# SPDX-License-Identifier: Apache-2.0
"""Read the processes under test from the kernel, which does not depend on their own reports (Linux's /proc)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """Return `pid` and all its living descendants."""
    parents = dict(_parents())
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found if pid in parents else []


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                yield int(entry.name), int(fields[1])


def maps(pid: int, word: str) -> bool:
    """Return whether the process has mapped a file with `word` in its path: the proof that it loaded a library."""
    try:
        rows = (_PROC / str(pid) / "maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(word in row.partition("/")[2] for row in rows)


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for member in family(pid):
        try:
            total += int((_PROC / str(member) / "statm").read_text().split()[1]) * page
        except OSError:
            continue
    return total
