# SPDX-License-Identifier: Apache-2.0
"""What is read of processes, below this one and gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from packager.server.telemetry.process_metrics import Processes, descendants, read_process

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ntime.sleep(600)"

ORPHAN = """
import os, tempfile, time
from pathlib import Path
from packager.server.telemetry.process_metrics import Processes
found = Processes(Path(tempfile.mkdtemp()))
parent = os.getppid()
print(os.getpid(), flush=True)
while os.getppid() == parent:
    time.sleep(0.05)
print(len([sample for family in found.collect() for sample in family.samples]), os.getppid(), flush=True)
"""


def values(collector: Processes) -> dict[str, float]:
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


def test_processor_time_of_children_counts_after_their_end() -> None:
    collector = Processes(None)
    before = values(collector)
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"done\n"
        assert child.pid in descendants(os.getpid())
        during = values(collector)
        child.kill()
    after = values(collector)
    assert during["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"] + 0.25
    assert after["process_cpu_seconds_total"] >= during["process_cpu_seconds_total"]
    own, both = read_process(os.getpid()), during["process_resident_memory_bytes"]
    assert own and both > own.resident and during["process_open_fds"] > own.open - 5
    assert after["process_resident_memory_bytes"] < both


def test_ended_process_and_lost_supervisor_are_tolerated() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert read_process(child.pid) is None
    shell = f"{sys.executable} -c '{ORPHAN}' & echo; wait"
    with subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        rows = [parent.stdout.readline(), parent.stdout.readline()]
        parent.send_signal(signal.SIGKILL)
        assert "5 " in parent.stdout.read(), rows


def test_processor_time_never_falls_between_processes(tmp_path: Path) -> None:
    first, second = Processes(tmp_path), Processes(tmp_path)
    assert first._highest(10.02) == 10.02
    assert second._highest(10.01) == 10.02
    assert second._highest(11.0) == 11.0 == first._highest(10.5)
