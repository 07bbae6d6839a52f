# SPDX-License-Identifier: Apache-2.0
"""A model of more than 2 GB: external data, little memory in the process that organises, seconds from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GB = 1_000_000_000
RECIPE = """
name: large
version: 1.0.0
source: ./model/model.pt2
inputs:
  x: {dtype: float32, shape: [batch, 8192], range: [-1, 1]}
dynamic: {batch: [1, 4]}
"""


@dataclass(frozen=True)
class Watched:
    """What one command took: seconds, and the largest resident memory in bytes of itself and of any process below."""

    answer: dict[str, object]
    seconds: float
    own: int
    below: int


def watched(*arguments: str, cwd: Path, **variables: str) -> Watched:
    """Run the command line and look at `VmHWM`, which the kernel keeps, of it and of its descendants."""
    start, peak = time.monotonic(), {True: 0, False: 0}
    command = [sys.executable, "-m", "packager", *arguments, "--json", "--quiet"]
    with subprocess.Popen(command, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            for pid, high in memory_below(process.pid):
                peak[pid == process.pid] = max(peak[pid == process.pid], high)
            time.sleep(0.02)
        assert process.stdout
        text = process.stdout.read()
    assert process.returncode == 0
    return Watched(json.loads(text), time.monotonic() - start, peak[True], peak[False])


def memory_below(root: int) -> list[tuple[int, int]]:
    """Return (pid, VmHWM in bytes) of a process and everything that it started."""
    parents: dict[int, int] = {}
    highest: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                rows = dict(row.split(":", 1) for row in (entry / "status").read_text().splitlines() if ":" in row)
            except (OSError, ValueError):
                continue
            parents[int(entry.name)] = int(rows["PPid"])
            highest[int(entry.name)] = int(rows.get("VmHWM", "0 kB").split()[0]) * 1024
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [(pid, highest[pid]) for pid in found if pid in highest]


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    project = tmp_path / "project"
    subprocess.run([sys.executable, HERE / "large_model.py", project / "model"], check=True)
    (project / "bundle.yaml").write_text(RECIPE)
    store = {"PACKAGER_STORE": str(tmp_path / "store")}
    watched("lock", cwd=project, **store)
    built = watched("build", "--locked", cwd=project, **store)
    again = watched("build", "--locked", cwd=project, **store)
    for name, run in (("first build", built), ("from the cache", again)):
        print(f"{name}: {run.seconds:.1f} s, packager {run.own / 1e6:.0f} MB, worker {run.below / 1e6:.0f} MB")
    assert int(str(built.answer["size"])) > 2 * GB
    assert built.own < GB
    assert (again.answer["executed"], again.answer["digest"]) == (0, built.answer["digest"])
    assert again.seconds < 10
    assert again.own < GB
