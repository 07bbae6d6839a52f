# SPDX-License-Identifier: Apache-2.0
"""Read the processors and memory that this process may use, and estimate the memory that a server needs.

Processors are limited by affinity and by quota, memory by control groups; a limit of a group further up holds as well.
Version 1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`) and version 2 (`cpu.max`, `memory.max`) are read, as they are
mounted in hosts and in containers, which may see their own group as the root.

Sources: the kernel's admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and scheduler/sched-bwc.rst; cgroups(7).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from packager.server.knobs import read_default

ROOT = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")
_MIB = 2**20
_PROGRAM = 128 * _MIB  # an interpreter with a runtime and its threads
_WORKER = 64 * _MIB
_IN_FLIGHT = int(read_default("server.max_in_flight"))

Port: TypeAlias = tuple[int, Sequence[int | None]]
"""Bytes of an element, and the most of each dimension, None where there is no limit."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """`cpus`: processors, a fraction under a quota. `memory`: bytes; None: as much as the host has."""

    cpus: float
    memory: int | None

    @property
    def whole_cpus(self) -> int:
        """Processors that are there all the time, at least one."""
        return max(1, int(self.cpus))


def read_allowance(root: Path = ROOT, groups: Path = GROUPS) -> Allowance:
    """Return the limits of this process; a limit that cannot be read is ignored."""
    cpus, memory = float(len(os.sched_getaffinity(0))), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [memory]
    for folder in _folders(root, groups):
        cpus = min(cpus, _quota(folder))
        limits += [found for name in ("memory.max", "memory.limit_in_bytes") if (found := _number(folder / name)) > 0]
    least = min(limits)
    return Allowance(cpus, least if least < memory else None)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sizes of a model's requests. `largest`: bytes of the largest, None where nothing bounds it.

    `growth`: bytes of an answer to each byte of a request.
    """

    largest: int | None
    growth: float

    @staticmethod
    def of(inputs: Sequence[Port], outputs: Sequence[Port]) -> Traffic:
        """Compute them from the ports; a dimension without a limit has the same size in all of them."""
        bounded = all(size is not None for _, sizes in inputs for size in sizes)
        request, answer = (
            sum(item * math.prod(size or 1 for size in sizes) for item, sizes in ports) for ports in (inputs, outputs)
        )
        return Traffic(request if bounded else None, answer / max(request, 1))


def memory_needed(model: int, processes: int, workers: int, max_body: int, traffic: Traffic) -> int:
    """Return the bytes that a server takes at most.

    `model`: of one loaded copy; `processes` serve, each with `workers` that run the model (0: it does so itself);
    `max_body`: `server.max_body`, four of which requests may hold in each process. A request is there twice when it
    shares a run, its answer three times until the kernel has it (measured: docs/measurements/serve.md).
    """
    held = 4 * max_body
    numbers = held if traffic.largest is None else min(held, _IN_FLIGHT * traffic.largest)
    requests = max(held, int(numbers * (2 + 3 * traffic.growth)))
    copies = processes * max(workers, 1)
    return _PROGRAM + processes * (_PROGRAM + requests) + processes * workers * _WORKER + copies * model


def _folders(root: Path, groups: Path) -> Iterator[Path]:
    """Yield the directories of the groups of this process and of those above them, where they can be seen."""
    try:
        rows = groups.read_text().splitlines()
    except OSError:
        rows = []
    for row in rows:
        _, _, rest = row.partition(":")
        controllers, _, path = rest.partition(":")
        for base in _bases(root, controllers):
            group_path = PurePosixPath(path.lstrip("/"))
            for part in (group_path, *group_path.parents):
                if ".." not in part.parts and (base / part).is_dir():
                    yield base / part


def _bases(root: Path, controllers: str) -> list[Path]:
    """Return where a hierarchy may be mounted; one without controllers is version 2."""
    if not controllers:
        return [root, root / "unified"]
    return [root / name for name in {controllers, *controllers.split(",")} if name in ("cpu", "memory") or "," in name]


def _quota(folder: Path) -> float:
    """Return the processors that a group may use, infinite without a quota."""
    quota, period = (
        _words(folder / "cpu.max", 2)
        or (*_words(folder / "cpu.cfs_quota_us", 1), *_words(folder / "cpu.cfs_period_us", 1))
        or ("max", "0")
    )
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return float("inf")


def _words(path: Path, count: int) -> tuple[str, ...]:
    try:
        words = tuple(path.read_text().split())
    except OSError:
        return ()
    return words if len(words) == count else ()


def _number(path: Path) -> int:
    (word,) = _words(path, 1) or ("",)
    return int(word) if word.isdecimal() else -1
