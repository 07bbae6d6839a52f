# SPDX-License-Identifier: Apache-2.0
"""Control groups of steps: where one may be made, how a process enters, what the kernel's counters say, how it ends.

The decisions are tested on directories that look like the kernel's; entering and ending on the kernel's own tree, where
this machine shows one to write to. Limits of memory need a kernel that delegates them (docs/limits.md).
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.sandbox import cgroup
from packager.sandbox.process import Outcome


class Tree:
    """A directory that looks like a mounted tree of control groups, with this process in `path` of it."""

    def __init__(self, folder: Path, path: str = "/user.slice/run-1.scope") -> None:
        self.mount = folder / "cgroup"
        self.place = self.mount / path.lstrip("/")
        self.place.mkdir(parents=True)
        for place in {self.mount, *self.place.parents} - set(folder.parents) - {folder}:
            (place / "cgroup.procs").touch()
        for name, text in (
            ("cgroup.controllers", "cpu memory pids"),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", str(os.getpid())),
        ):
            (self.place / name).write_text(text)
        self.mounts, self.membership = folder / "mountinfo", folder / "membership"
        self.mounts.write_text(
            "24 1 0:21 / /proc rw - proc proc rw\n"
            f"30 24 0:26 / {self.mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        )
        self.membership.write_text(f"1:name=systemd:/elsewhere\n0::{path}\n")

    def found(self) -> Path | None:
        return cgroup.own_tree(self.mounts, self.membership)


@pytest.fixture
def delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every directory carry systemd's mark, as file systems of tests seldom do."""
    monkeypatch.setattr(os, "getxattr", lambda place, name: b"1")


@pytest.mark.usefixtures("delegated")
def test_a_delegated_group_is_set_apart(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    assert tree.found() == tree.place
    assert (tree.place / "packager.main" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.place / "cgroup.subtree_control").read_text() == "+memory +pids"


@pytest.mark.usefixtures("delegated")
def test_one_that_bounds_others_already_is_taken_as_it_is(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tree.place / "cgroup.subtree_control").write_text("memory pids")
    assert tree.found() == tree.place
    assert not (tree.place / "packager.main").exists()


@pytest.mark.usefixtures("delegated")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cgroup.controllers", "cpu io"),
        ("cgroup.procs", f"1\n{os.getpid()}\n"),
    ],
    ids=["without memory", "with others"],
)
def test_one_that_cannot_bound_or_is_shared_is_left_alone(tmp_path: Path, name: str, text: str) -> None:
    tree = Tree(tmp_path)
    (tree.place / name).write_text(text)
    assert tree.found() is None
    assert not (tree.place / "packager.main").exists()


def test_cgroup_not_delegated_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getxattr", _no_mark)
    assert tree.found() is None
    assert Tree(tmp_path / "container", "/").found() is not None, "the top of a container's own tree"


def _no_mark(place: Path, name: str) -> bytes:
    raise OSError(61, "No data available")


def test_without_the_second_version_there_is_none(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.mounts.write_text("30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    assert tree.found() is None
    tree.membership.unlink()
    assert tree.found() is None


@pytest.mark.parametrize(
    ("files", "stopped"),
    [
        ({}, None),
        ({"memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\n"}, "memory"),
        ({"memory.events": "max 7\noom_kill 0\n", "pids.events": "max 3\n"}, "processes"),
    ],
    ids=["kept", "memory", "processes"],
)
def test_the_kernels_counters_say_why_a_step_ended(tmp_path: Path, files: dict[str, str], stopped: str | None) -> None:
    for name, text in {**files, "memory.peak": "4096\n"}.items():
        (tmp_path / name).write_text(text)
    found = cgroup.Group(tmp_path).judge(Outcome(-9, b"", b"", used=100))
    assert (found.stopped, found.used) == (stopped, 4096)


@pytest.fixture
def kernels_own() -> Iterator[Path]:
    """A group in the kernel's tree, without controllers where those belong to the first version."""
    found = cgroup._own_directory(Path("/proc/self/mountinfo"), Path("/proc/self/cgroup"))
    if found is None or not os.access(found, os.W_OK):
        pytest.skip("no control groups of the second version to write to")
    place = found / f"packager-test-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    yield place
    place.rmdir()


def test_a_step_enters_its_group_and_nothing_in_it_outlives_it(kernels_own: Path) -> None:
    """What a step left behind in a session of its own dies with the group."""
    script = "setsid sleep 600 >/dev/null 2>&1 & cat /proc/self/cgroup"
    with cgroup.new_group(kernels_own, 1 << 30, 100) as group:
        line = group.entered(["/bin/sh", "-c", script])
        said = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
        assert f"{kernels_own.name}/{group.path.name}" in said
        left = (group.path / "cgroup.procs").read_text().split()
        assert left
    assert not group.path.exists()
    end = time.monotonic() + 30
    while any(_lives(pid) for pid in left) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_lives(pid) for pid in left)


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
