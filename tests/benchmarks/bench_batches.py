# SPDX-License-Identifier: Apache-2.0
"""Rows a second of `packager run` over a table, against a script that does the same in one process.

    python tests/benchmarks/bench_batches.py [ROWS [ROUNDS]]      1,000,000 rows and 3 rounds by default

The script is what a person would write: `csv` reads the table, numpy makes columns of 1024 rows, ONNX Runtime runs them
on one thread, `json` writes a line for each row. `packager run` reads the same file with one worker and with two, and
checks, resumes and refuses rows besides. Rounds alternate; the ratio is that of the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.soak_batches import write_table  # noqa: E402
from tests.unit.deploy.test_mlflow import AGES, ages  # noqa: E402
from tests.unit.pipelines.test_run import installation  # noqa: E402

SCRIPT = """
import csv, itertools, json, sys
import numpy, onnxruntime
graph, source, target = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
outputs = [output.name for output in session.get_outputs()]
with open(source, newline="") as file, open(target, "w") as sink:
    rows = csv.DictReader(file)
    while chunk := list(itertools.islice(rows, 1024)):
        feeds = {
            item.name: numpy.array([float(row[item.name]) for row in chunk], numpy.float32).reshape(
                -1, *([1] * (len(item.shape) - 1))
            )
            for item in session.get_inputs()
        }
        found = [values.tolist() for values in session.run(None, feeds)]
        for row, *values in zip(chunk, *found):
            sink.write(json.dumps({**row, "answer": dict(zip(outputs, values))}) + "\\n")
"""


def timed(words: list[Any]) -> tuple[float, float]:
    """Return the seconds of a command, and those that processors spent on it and its workers."""
    begun, before = time.monotonic(), os.times()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begun, spent


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    graph = folder / "graph" / "model"
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(ages())
    interface = {**AGES, "dimensions": {"rows": {"min": 1, "max": 4096}}}
    made: Any = SimpleNamespace(graph=folder / "graph", interface=interface)
    site, source = installation(folder, made, raw=False), write_table(folder / "in.csv", rows)
    (folder / "script.py").write_text(SCRIPT)
    plain = [sys.executable, folder / "script.py", graph / "model.onnx", source, folder / "plain.jsonl"]
    ours = [sys.executable, "-m", "packager", "run", site, source, "-o", folder / "ours.jsonl", "--json"]
    seconds: dict[str, list[tuple[float, float]]] = {"script": [], "one worker": [], "two workers": []}
    for _ in range(rounds):
        seconds["script"].append(timed(plain))
        for workers, name in ((1, "one worker"), (2, "two workers")):
            seconds[name].append(timed([*ours, "--processes", workers]))
    check(folder / "plain.jsonl", folder / "ours.jsonl")
    rate = {name: rows / statistics.median(wall for wall, _ in found) for name, found in seconds.items()}
    spent = {name: statistics.median(own for _, own in found) for name, found in seconds.items()}
    ours_named = ("one worker", "two workers")
    return {
        "rows": rows,
        "rows_a_second": {name: round(value) for name, value in rate.items()},
        "processor_microseconds_a_row": {name: round(value / rows * 1e6, 1) for name, value in spent.items()},
        "ratio": {name: round(rate[name] / rate["script"], 2) for name in ours_named},
        "ratio_of_processor_time": {name: round(spent["script"] / spent[name], 2) for name in ours_named},
    }


def check(plain: Path, ours: Path) -> None:
    """Both wrote the same rows and answers."""
    with plain.open() as one, ours.open() as other:
        for left, right in zip(one, other, strict=True):
            assert json.loads(left) == json.loads(right), (left, right)


def main(arguments: list[str]) -> int:
    rows, rounds = (int(value) for value in [*arguments, *("1000000", "3")[len(arguments) :]])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), rows, rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
