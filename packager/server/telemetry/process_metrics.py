# SPDX-License-Identifier: Apache-2.0
"""Resource usage of a server with all its processes: the `process_…` metrics of every Prometheus client.

One server may be many processes: a supervisor, those that serve, those that run the model. Prometheus sees one
instance, so its processor time is that of all of them and never falls: the kernel adds the time of a process that has
ended to its parent's (rounded anew, by some hundredths, so the highest sum that was exposed is kept). Memory and
descriptors are those of the processes that live, without the supervisor; pages that several share count for each.

Source: proc(5), `/proc/PID/stat` and `/proc/PID/task/TID/children`.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PROC = Path("/proc")
_HIGHEST = "processor.seconds"
_FIGURE = struct.Struct("<d")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """Usage of one process: seconds of it and its ended children, bytes, and open descriptors."""

    seconds: float
    virtual: int
    resident: int
    open: int


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """Return the usage of a process; None if it has ended, or belongs to another user."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        opened = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    times = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return Process(times / _TICKS, int(fields[20]), int(fields[21]) * resource.getpagesize(), opened)


def descendants(pid: int, proc: Path = PROC) -> Iterator[int]:
    """Yield the child processes of a process, and theirs."""
    for listing in (proc / str(pid) / "task").glob("*/children"):
        try:
            found = [int(word) for word in listing.read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from descendants(child, proc)


class Processes(Collector):
    """Collects over this process and all below it, or over all below the supervisor that started it.

    `shared`: the directory of the counters of processes below a supervisor; None: there is no supervisor.
    """

    def __init__(self, shared: Path | None) -> None:
        self._supervisor = None if shared is None else os.getppid()
        if shared is None:
            self._file = os.memfd_create(_HIGHEST, os.MFD_CLOEXEC)
        else:
            self._file = os.open(shared / _HIGHEST, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        own, supervisor = os.getpid(), self._supervisor
        alone = supervisor is None or supervisor != os.getppid()  # the supervisor may have been killed
        living = [own, *descendants(own)] if alone or supervisor is None else [*descendants(supervisor)]
        found = [process for pid in living or [own] if (process := read_process(pid))]
        supervisor_usage = None if alone or supervisor is None else read_process(supervisor)
        seconds = sum(process.seconds for process in found) + (supervisor_usage.seconds if supervisor_usage else 0.0)
        seconds = self._highest(seconds)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] * len(found)
        yield CounterMetricFamily("process_cpu_seconds", "Processor time in seconds.", value=seconds)
        for name, text, value in (
            ("virtual_memory_bytes", "Virtual memory.", sum(process.virtual for process in found)),
            ("resident_memory_bytes", "Resident memory.", sum(process.resident for process in found)),
            ("open_fds", "Open descriptors.", sum(process.open for process in found)),
            ("max_fds", "Descriptors that may be open.", most),
        ):
            yield GaugeMetricFamily(f"process_{name}", text, value=value)

    def _highest(self, seconds: float) -> float:
        """Return the highest figure that any process has exposed, this one included."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                stored = os.pread(self._file, _FIGURE.size, 0)
                if len(stored) == _FIGURE.size:
                    seconds = max(seconds, *_FIGURE.unpack(stored))
                os.pwrite(self._file, _FIGURE.pack(seconds), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return seconds
