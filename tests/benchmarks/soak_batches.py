# SPDX-License-Identifier: Apache-2.0
"""`packager run` over a long table, unbroken and killed at random: rows a second, memory over time, equal bytes.

    python tests/benchmarks/soak_batches.py [ROWS [KILLS]]      10,000,000 rows and 20 kills by default

A kill is SIGKILL to the whole process group after a time drawn from a seed. Memory is the sum of the resident sets of
the command and its workers; it is flat where the second half of an unbroken run has no more than the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.unit.deploy.test_mlflow import AGES, ages  # noqa: E402
from tests.unit.pipelines.test_run import installation  # noqa: E402

CHUNK = 8192
EVERY = 0.5  # seconds between two looks


def write_table(path: Path, rows: int) -> Path:
    with path.open("w") as sink:
        sink.write("id,age,unit\n")
        for number in range(rows):
            sink.write(f"{number},{number % 977 / 8},{1 if number % 3 else 0.5}\n")
    return path


def command(site: Path, source: Path, out: Path) -> list[str]:
    words = ["run", site, source, "-o", out, "--chunk", CHUNK, "--processes", 2, "--json"]
    return [sys.executable, "-m", "packager", *map(str, words)]


def children(pid: int) -> Iterator[int]:
    """Yield a process and those below it."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from children(int(child))
    except OSError:
        return


def resident(pid: int) -> int:
    """Return the bytes that a process and those below it hold."""
    total = 0
    for one in children(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def unbroken(words: list[str]) -> tuple[float, list[int]]:
    """Return the seconds of a run, and the memory over time."""
    begun, looks = time.monotonic(), []
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    while process.poll() is None:
        looks.append(resident(process.pid))
        time.sleep(EVERY)
    assert process.returncode == 0
    return time.monotonic() - begun, looks


def killed(words: list[str], out: Path, kills: int, seconds: float) -> int:
    """Kill a run until it was killed so often, then let it end; return how many kills met a running process."""
    draw, met = random.Random(22), 0
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(0.5, max(1.0, 2 * seconds / kills)))
        met += process.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            break
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return met


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path, rows: int, kills: int) -> dict[str, Any]:
    graph = folder / "graph" / "model"
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(ages())
    interface = {**AGES, "dimensions": {"rows": {"min": 1, "max": 4096}}}
    made: Any = SimpleNamespace(graph=folder / "graph", interface=interface)
    site = installation(folder, made, raw=False)
    source = write_table(folder / "in.csv", rows)
    seconds, looks = unbroken(command(site, source, folder / "whole.csv"))
    met = killed(command(site, source, folder / "out.csv"), folder / "out.csv", kills, seconds)
    half = len(looks) // 2
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_a_second": round(rows / seconds),
        "kills": met,
        "equal": digest(folder / "whole.csv") == digest(folder / "out.csv"),
        "largest_mib": [round(max(part, default=0) / 2**20) for part in (looks[:half], looks[half:])],
        "looks": len(looks),
    }


def main(arguments: list[str]) -> int:
    rows, kills = (int(value) for value in [*arguments, *("10000000", "20")[len(arguments) :]])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rows, kills)
    print(json.dumps(found))
    return 0 if found["equal"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
