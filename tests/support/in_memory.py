# SPDX-License-Identifier: Apache-2.0
"""Run a command whose temporary files lie in memory, where there is room: `python -m tests.support.in_memory COMMAND...`.

A third of the time of a run of all tests was waiting for a disk: stores and installations are flushed at every step.
A run has up to 3 GB of them, which go where it passed and are kept where it failed. A directory in TMPDIR is used as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30


def has_room() -> bool:
    return os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free >= ROOM


def main(command: list[str]) -> int:
    if "TMPDIR" in os.environ or not has_room():
        return subprocess.run(command, check=False).returncode
    place = tempfile.mkdtemp(prefix="packager-tests-", dir=MEMORY)
    os.chmod(place, 0o1777)
    code = subprocess.run(command, check=False, env={**os.environ, "TMPDIR": place}).returncode
    if code:
        print(f"temporary files of this run are kept in {place}, which is memory", file=sys.stderr)
    else:
        shutil.rmtree(place, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
