# SPDX-License-Identifier: Apache-2.0
"""What a server takes of its host, with all its processes: `process_…` metrics as every Prometheus client has them.

One server may be many processes: a supervisor, those that serve, those that run the model. Prometheus sees one
instance, so its processor time is that of all of them and never falls: the kernel adds the time of a process that has
ended to its parent's (rounded anew, by some hundredths, so the highest sum that was told is kept). Memory and
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
    """Of one process: seconds of its own and of its children that have ended, bytes, and open descriptors."""

    seconds: float
    virtual: int
    resident: int
    open: int


def read(pid: int, proc: Path = PROC) -> Process | None:
    """Return what a process takes; None if it has ended, or is somebody else's."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        opened = sum(1 for _ in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return None
    times = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return Process(times / _TICKS, int(fields[20]), int(fields[21]) * resource.getpagesize(), opened)


def below(pid: int, proc: Path = PROC) -> Iterator[int]:
    """Yield the processes that a process has started, and those that these have."""
    for place in (proc / str(pid) / "task").glob("*/children"):
        try:
            found = [int(word) for word in place.read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from below(child, proc)


class Processes(Collector):
    """Collects over this process and all below it, or over all below the supervisor that started it.

    `shared`: the directory in which processes below a supervisor keep what they count; None: there is none.
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
        me, over = os.getpid(), self._supervisor
        alone = over is None or over != os.getppid()  # the supervisor may have been killed
        living = [me, *below(me)] if alone or over is None else [*below(over)]
        found = [process for pid in living or [me] if (process := read(pid))]
        above = None if alone or over is None else read(over)
        seconds = sum(process.seconds for process in found) + (above.seconds if above else 0.0)
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
        """Return the highest figure that any process has told, this one included."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                told = os.pread(self._file, _FIGURE.size, 0)
                if len(told) == _FIGURE.size:
                    seconds = max(seconds, *_FIGURE.unpack(told))
                os.pwrite(self._file, _FIGURE.pack(seconds), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return seconds
