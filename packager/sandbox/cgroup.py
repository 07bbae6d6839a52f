# SPDX-License-Identifier: Apache-2.0
"""A control group for each step: the kernel limits memory and processes of all of it together, at every moment.

That needs the second version of control groups (cgroups(7)) and a part of their tree that is ours: what systemd
delegates (`systemd-run --user --scope -p Delegate=yes packager build`; its CGROUP_DELEGATION states the rules),
or the top of a container's own tree. Elsewhere `watch` alone looks, four times a second.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager.sandbox.process import Outcome

_CONTROLLERS = {"memory", "pids"}
_MAIN, _STEP = "packager.main", "packager.step."
_OWN = 8  # processes in the group that are not the step's: the shell that enters it, bubblewrap, the first process
_GRACE = 5.0  # seconds until a group whose processes are dead can be removed
_ENTER = 'echo 0 > "$0" && exec "$@"'
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one step, in the directory `path`."""

    path: Path

    def entered(self, line: Sequence[str]) -> list[str]:
        """Return a command that goes into the group and then becomes `line`."""
        return ["/bin/sh", "-c", _ENTER, str(self.path / "cgroup.procs"), *line]

    def judge(self, outcome: Outcome) -> Outcome:
        """Return how a step ended, by what the kernel counted in its group."""
        used = max(outcome.used, _number(self.path / "memory.peak"))
        stopped = outcome.stopped
        if _counted(self.path / "memory.events", "oom_kill"):
            stopped = stopped or "memory"
        elif _counted(self.path / "pids.events", "max"):
            stopped = stopped or "processes"
        return replace(outcome, used=used, stopped=stopped)


@contextlib.contextmanager
def new_group(tree: Path, memory: int, processes: int) -> Iterator[Group]:
    """Make a group below `tree` for one step, and kill and remove it afterwards. `memory` in bytes, 0 for no limit."""
    group = Group(tree / f"{_STEP}{os.getpid()}.{next(_numbers)}")
    group.path.mkdir()
    try:
        _write(group.path / "memory.max", str(memory) if memory else "max")
        _write(group.path / "memory.swap.max", "0" if memory else "max")
        _write(group.path / "memory.oom.group", "1")
        _write(group.path / "pids.max", str(processes + _OWN))
        yield group
    finally:
        _remove(group.path)


@functools.cache
def delegated_tree() -> Path | None:
    """Return the directory below which this process may make groups that bound memory and processes, or None."""
    return own_tree(Path("/proc/self/mountinfo"), Path("/proc/self/cgroup"))


def own_tree(mounts: Path, membership: Path) -> Path | None:
    """Return the directory of our group, made ready for groups below it; None where it is not ours to do so.

    A group that bounds others holds no process itself: we go to one below it, where no other process is in our way.
    """
    path = _own_directory(mounts, membership)
    if path is None or not _words(path / "cgroup.controllers") >= _CONTROLLERS or not _is_ours(path):
        return None
    try:
        if not _words(path / "cgroup.subtree_control") >= _CONTROLLERS:
            if not _words(path / "cgroup.procs") <= {str(os.getpid())}:
                return None
            main = path / _MAIN
            main.mkdir(exist_ok=True)
            (main / "cgroup.procs").write_text(str(os.getpid()), "ascii")
            (path / "cgroup.subtree_control").write_text("+memory +pids", "ascii")
        for left in path.glob(f"{_STEP}*"):
            _remove(left, 0.0)  # of a run that was killed
    except OSError:
        return None
    return path


def _own_directory(mounts: Path, membership: Path) -> Path | None:
    """Return the directory of this process's group, None where the second version of groups is not mounted."""
    with contextlib.suppress(OSError, StopIteration):
        path = next(row[3:] for row in membership.read_text().splitlines() if row.startswith("0::"))
        for row in mounts.read_text().splitlines():
            about, _, kind = row.partition(" - ")
            root, point = about.split(" ")[3:5]
            if kind.startswith("cgroup2 ") and Path(path).is_relative_to(root):
                return Path(point) / Path(path).relative_to(root)
    return None


def _is_ours(path: Path) -> bool:
    """Say whether a directory was delegated: to this user, by systemd's mark, or as the top of a container's tree."""
    if not os.access(path, os.W_OK):
        return False
    if not (path.parent / "cgroup.procs").exists() or os.geteuid() == path.stat().st_uid != 0:
        return True
    marks = []
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            marks.append(os.getxattr(path, name))
    return b"1" in marks


def _remove(path: Path, grace: float = _GRACE) -> None:
    """Kill what is in a group, and remove it once that is gone; the kernel keeps what is not."""
    end = time.monotonic() + grace
    if grace:
        _write(path / "cgroup.kill", "1")
    while True:
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() < end:
                time.sleep(0.01)
                continue
        return


def _write(path: Path, text: str) -> None:
    """Set what this kernel knows: swap and `cgroup.kill` may be missing."""
    with contextlib.suppress(OSError), path.open("r+", encoding="ascii") as file:
        file.write(text)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text("ascii").split())
    except OSError:
        return set()


def _number(path: Path) -> int:
    found = _words(path)
    return int(word) if len(found) == 1 and (word := found.pop()).isdigit() else 0


def _counted(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        rows = dict(row.split(" ", 1) for row in path.read_text("ascii").splitlines())
        return int(rows.get(name, 0))
    return 0
