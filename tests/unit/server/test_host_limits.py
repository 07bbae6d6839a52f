# SPDX-License-Identifier: Apache-2.0
"""Quotas and limits as hosts and containers show them, and as this kernel sets them where it lets us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from packager.server.process import host_limits

HERE = float(len(os.sched_getaffinity(0)))
GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


CASES = {
    "version 2, own group": (
        "0::/a/b",
        {"a/b/cpu.max": "50000 100000", "a/b/memory.max": str(GIB // 2)},
        0.5,
        GIB // 2,
    ),
    "version 2, a group above is tighter": (
        "0::/a/b",
        {
            "a/b/cpu.max": "max 100000",
            "a/cpu.max": "25000 100000",
            "a/b/memory.max": "max",
            "a/memory.max": str(GIB // 4),
        },
        0.25,
        GIB // 4,
    ),
    "version 2, a container that sees itself as the root": (
        "0::/",
        {"cpu.max": "50000 100000", "memory.max": str(GIB // 2)},
        0.5,
        GIB // 2,
    ),
    "version 2, no limit": ("0::/a", {"a/cpu.max": "max 100000", "a/memory.max": "max"}, HERE, None),
    "version 2, more than there is": (
        "0::/a",
        {"a/cpu.max": "99900000 100000", "a/memory.max": str(2**60)},
        HERE,
        None,
    ),
    "version 1": (
        "4:memory:/m\n1:cpu:/c\n0::/",
        {
            "cpu/c/cpu.cfs_quota_us": "50000",
            "cpu/c/cpu.cfs_period_us": "100000",
            "memory/m/memory.limit_in_bytes": str(GIB // 2),
        },
        0.5,
        GIB // 2,
    ),
    "version 1, controllers mounted together, group not visible": (
        "7:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "50000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(GIB // 2),
        },
        0.5,
        GIB // 2,
    ),
    "version 1, no limit": (
        "4:memory:/\n1:cpu:/",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        HERE,
        None,
    ),
    "nonsense": ("0::/a", {"a/cpu.max": "half of it", "a/memory.max": "-5"}, HERE, None),
    "a path that leads out": ("0::/../../etc", {"cpu.max": "50000 100000"}, 0.5, None),
    "nothing there": ("", {}, HERE, None),
}


@pytest.mark.parametrize("case", CASES)
def test_lowest_of_affinity_and_quotas_counts(tmp_path: Path, case: str) -> None:
    groups, files, cpus, memory = CASES[case]
    (tmp_path / "groups").write_text(groups)
    found = host_limits.read_allowance(tree(tmp_path / "root", files), tmp_path / "groups")
    assert (found.cpus, found.memory) == (cpus, memory)
    assert found.whole_cpus == max(1, int(cpus))


def test_memory_needed_grows_with_processes_and_copies() -> None:
    body, model, small = 64 * 2**20, 100 * 2**20, host_limits.Traffic(1000, 1.0)

    def mib(processes: int, workers: int, traffic: host_limits.Traffic = small) -> float:
        return (host_limits.memory_needed(model, processes, workers, body, traffic)) / 2**20

    assert mib(1, 0) == 512 + 100
    assert mib(4, 0) - mib(3, 0) == 384 + 100
    assert mib(1, 2) - mib(1, 1) == 64 + 100
    assert mib(1, 0, host_limits.Traffic(None, 0.0)) == 768 + 100
    assert mib(1, 0, host_limits.Traffic(None, 1.0)) == 1536 + 100


def test_traffic_is_computed_from_ports() -> None:
    picture, classes = (4, [None, 3, 2, 2]), (4, [None, 3])
    assert host_limits.Traffic.of([picture], [classes]) == host_limits.Traffic(None, 0.25)
    assert host_limits.Traffic.of([(4, [8, 12])], [(8, [8, 3])]) == host_limits.Traffic(384, 0.5)


# --- the kernel's own ----------------------------------------------------------------------------------------------


@contextmanager
def group(controller: str, settings: dict[str, str]) -> Iterator[Path]:
    """A control group of our own, of version 1 or 2, or a skip."""
    name = f"packager-test-{os.getpid()}"
    bases = [Path("/sys/fs/cgroup") / controller, Path("/sys/fs/cgroup")]
    for base in bases:
        place = base / name
        with suppress(OSError):
            place.mkdir()
            try:
                for file, text in settings.items():
                    if (place / file).exists():
                        (place / file).write_text(text)
                if any((place / file).exists() for file in settings):
                    yield place
                    return
            finally:
                place.rmdir()
    pytest.skip("no control group can be made here")


def told_inside(place: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the group."""
    shell = 'echo $$ > "$0"/cgroup.procs && exec "$@"'
    return subprocess.run(["sh", "-c", shell, str(place), *program], capture_output=True, text=True, check=True)


ASK = "from packager.server.process import host_limits as allowance; found = allowance.read_allowance();"


def test_a_real_quota_of_processors() -> None:
    settings = {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}
    with group("cpu", settings) as place:
        assert told_inside(place, sys.executable, "-c", f"{ASK} print(found.cpus)").stdout == "0.5\n"


def test_a_real_limit_of_memory() -> None:
    settings = {"memory.max": str(GIB // 2), "memory.limit_in_bytes": str(GIB // 2)}
    with group("memory", settings) as place:
        assert told_inside(place, sys.executable, "-c", f"{ASK} print(found.memory)").stdout == f"{GIB // 2}\n"
