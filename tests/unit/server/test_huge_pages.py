# SPDX-License-Identifier: Apache-2.0
"""Huge pages: memory in use gets them and keeps its bytes, nothing else grows, and a host that says no is obeyed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from packager.server.execution import huge_pages

MB = 2**20
ALLOWED = huge_pages._ENABLED.exists() and "[never]" not in huge_pages._ENABLED.read_text()
needed = pytest.mark.skipif(not ALLOWED, reason="this host has no huge pages")

# A process of its own: the tests' own memory is large and none of our business.
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
before, told = held("Rss:"), []
pages.gather_later(told.append).join()
stop.set()
assert (weights == np.arange(2**24, dtype=np.float32)).all()
print(held("AnonHugePages:") // 2**20, told[0] // 2**20, (held("Rss:") - before) // 2**20)
"""


def run(program: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@needed
def test_what_is_in_use_moves_and_nothing_grows():
    huge, told, grown = run(PROGRAM)
    assert huge >= 60
    assert told >= 60
    assert grown <= 16  # what is rounded up: a tenth of what moved, and the comparison's own


@needed
@pytest.mark.parametrize("place", ["_ENABLED", "_SIZE", "_MAPS"])
def test_a_host_without_them_is_left_alone(monkeypatch, tmp_path: Path, place: str):
    monkeypatch.setattr(huge_pages, place, tmp_path / "absent")
    assert huge_pages.gather() == 0


def test_a_host_that_says_never_is_obeyed(monkeypatch, tmp_path: Path):
    enabled = tmp_path / "enabled"
    enabled.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_ENABLED", enabled)
    weights = np.ones(16 * MB // 4, np.float32)
    assert huge_pages.gather() == 0
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


def test_only_whole_blocks_of_private_memory_in_use_are_taken():
    start = 100 * MB + 4096
    ends = [start, 105 * MB, 5 * 1024 - 4, *(200 * MB + 8 * MB * count for count in range(7))]
    ends[3], ends[4] = 200 * MB, 206 * MB
    blocks = list(huge_pages._blocks(ROWS.format(*ends), 2 * MB))
    assert [block // MB for block in blocks] == [102, 200, 202, 204]
