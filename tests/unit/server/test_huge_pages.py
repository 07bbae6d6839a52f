# SPDX-License-Identifier: Apache-2.0
"""Huge pages: memory in use moves and keeps its bytes, nothing else grows; the knob and the host can forbid it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from packager.server import config
from packager.server.__main__ import _parse_arguments, _settings
from packager.server.execution import engine, huge_pages, worker
from tests.e2e.test_server import mlp

MB = 2**20
ALLOWED = huge_pages._ENABLED.exists() and "[never]" not in huge_pages._ENABLED.read_text()
needed = pytest.mark.skipif(not ALLOWED, reason="this host has no huge pages")

# A separate process, because the memory of the tests is large and not under test.
PROGRAM = """
import mmap, sys, threading
import numpy as np
from pathlib import Path
from packager.server.execution import huge_pages as pages

def held(what):
    return sum(int(row.split()[1]) for row in Path("/proc/self/smaps_rollup").read_text().splitlines()
               if row.startswith(what)) * 1024

weights = np.arange(2**24, dtype=np.float32)  # 64 MiB
empty = mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE)  # reserved, one page of it used
empty[0] = 1
stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(8)]  # stacks of 8 MiB each
for thread in threads: thread.start()
before, moved = held("Rss:"), []
pages.start_collapse(moved.append).join()
stop.set()
assert (weights == np.arange(2**24, dtype=np.float32)).all()
print(held("AnonHugePages:") // 2**20, moved[0] // 2**20, (held("Rss:") - before) // 2**20)
"""


def run(program: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@needed
def test_memory_in_use_moves_and_nothing_grows():
    huge, moved, grown = run(PROGRAM)
    assert huge >= 60
    assert moved >= 60
    assert grown <= 16  # what is rounded up: a tenth of what moved, and the comparison's own


@needed
@pytest.mark.parametrize("place", ["_ENABLED", "_SIZE", "_MAPS"])
def test_host_without_huge_pages_changes_nothing(monkeypatch, tmp_path: Path, place: str):
    monkeypatch.setattr(huge_pages, place, tmp_path / "absent")
    assert huge_pages.collapse() == 0


def test_host_that_says_never_changes_nothing(monkeypatch, tmp_path: Path):
    enabled = tmp_path / "enabled"
    enabled.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_ENABLED", enabled)
    weights = np.ones(16 * MB // 4, np.float32)
    assert huge_pages.collapse() == 0
    assert weights.all()


ROWS = """\
{0:x}-{1:x} rw-p 00000000 00:00 0
Size:               {2} kB
Rss:                {2} kB
AnonHugePages:         0 kB
{3:x}-{4:x} rw-p 00000000 00:00 0                          [heap]
Rss:                6144 kB
{4:x}-{5:x} rw-p 00000000 fe:01 1234                       /model/weights.bin
Rss:                8192 kB
{5:x}-{6:x} rw-p 00000000 00:00 0                          [stack]
Rss:                8192 kB
{6:x}-{7:x} r--p 00000000 00:00 0
Rss:                8192 kB
{7:x}-{8:x} rw-s 00000000 00:01 0                          /dev/zero (deleted)
Rss:                8192 kB
{8:x}-{9:x} rw-p 00000000 00:00 0
Rss:                1024 kB
"""


def test_only_whole_private_blocks_in_use_are_taken():
    start = 100 * MB + 4096
    ends = [start, 105 * MB, 5 * 1024 - 4, *(200 * MB + 8 * MB * count for count in range(7))]
    ends[3], ends[4] = 200 * MB, 206 * MB
    blocks = list(huge_pages._blocks(ROWS.format(*ends), 2 * MB))
    assert [block // MB for block in blocks] == [102, 200, 202, 204]


@pytest.mark.parametrize(("words", "moves"), [((), False), (("--runtime-huge-pages", "true"), True)])
def test_server_and_workers_move_memory_only_when_the_knob_is_set(words, moves: bool, monkeypatch, tmp_path: Path):
    path, started = mlp(tmp_path), []
    monkeypatch.setattr(huge_pages, "start_collapse", lambda on_done: started.append("server"))
    monkeypatch.setattr(worker, "start_collapse", lambda: started.append("worker"))
    settings = _settings(_parse_arguments([str(path), *words]))
    asyncio.run(engine.Engine(config.read(path), settings.limits, settings.execution).load())

    apart = _settings(_parse_arguments([str(path), "--runtime-processes", "1", *words])).execution.worker_settings
    assert apart is not None
    with pytest.raises(EOFError):
        worker._serve(
            Ended(), Ended(), "onnxruntime", str(path.parent / "model.onnx"), "1", "cpu", str(int(apart.huge_pages))
        )
    assert started == (["server", "worker"] if moves else [])


class Ended:
    """A channel that sends into the void and has nothing to receive."""

    def send(self, *_: object) -> None:
        pass

    def receive(self) -> None:
        raise EOFError
