# SPDX-License-Identifier: Apache-2.0
"""Rows a second of `packager run` over a table, against scripts that do the same in one process.

    python tests/benchmarks/bench_batches.py [ROWS [ROUNDS]]      1,000,000 rows and 3 rounds by default

A script is what a person would write: it reads the file with pyarrow (one of them with `csv`), runs ONNX Runtime in its
own process on batches of 8192 rows, and writes lines of JSON, CSV or Parquet. `packager run` reads the same file with one
worker and with two, and checks, resumes and refuses rows besides. Rounds alternate; a ratio is that of the medians, with
start and end of the programs. Times of processors are those of all processes.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.soak_batches import write_table  # noqa: E402
from tests.unit.deploy.test_mlflow import AGES, ages  # noqa: E402
from tests.unit.pipelines.test_run import installation  # noqa: E402

OPEN = """
import sys
import numpy, onnxruntime
graph, source, target = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
(output,) = [output.name for output in session.get_outputs()]
"""
ROWS = """
import csv, itertools, json
with open(source, newline="") as file, open(target, "w") as sink:
    rows = csv.DictReader(file)
    while chunk := list(itertools.islice(rows, 8192)):
        feeds = {item.name: numpy.array([float(row[item.name]) for row in chunk], "f4") for item in session.get_inputs()}
        (found,) = session.run(None, feeds)
        for row, value in zip(chunk, found.tolist()):
            sink.write(json.dumps({**row, "answer": {output: value}}) + "\\n")
"""
TABLES = """
import json, pyarrow, pyarrow.csv, pyarrow.parquet
def batches():
    if source.endswith(".csv"):
        return pyarrow.csv.open_csv(source, pyarrow.csv.ReadOptions(block_size=1 << 18))
    return pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=8192)
def answered():
    for batch in batches():
        feeds = {item.name: batch[item.name].to_numpy().astype("f4") for item in session.get_inputs()}
        yield batch.append_column("answer", pyarrow.array(session.run(None, feeds)[0]))
"""
LINES = """
with open(target, "w") as sink:
    for batch in answered():
        for row in batch.to_pylist():
            sink.write(json.dumps({**row, "answer": {output: row["answer"]}}) + "\\n")
"""
WHOLE = """
writer = None
for batch in answered():
    if writer is None:
        kind = pyarrow.csv.CSVWriter if target.endswith(".csv") else pyarrow.parquet.ParquetWriter
        writer = kind(target, batch.schema)
    writer.write_batch(batch)
writer.close()
"""
CASES = {
    "csv to JSON lines, csv": ("in.csv", "jsonl", OPEN + ROWS),
    "csv to JSON lines, pyarrow": ("in.csv", "jsonl", OPEN + TABLES + LINES),
    "csv to csv, pyarrow": ("in.csv", "csv", OPEN + TABLES + WHOLE),
    "parquet to JSON lines, pyarrow": ("in.parquet", "jsonl", OPEN + TABLES + LINES),
    "parquet to parquet, pyarrow": ("in.parquet", "parquet", OPEN + TABLES + WHOLE),
}


def timed(words: list[Any]) -> tuple[float, float]:
    """Return the seconds of a command, and those that processors spent on it and its workers."""
    begun, before = time.monotonic(), os.times()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begun, spent


def prepare(folder: Path, rows: int) -> tuple[Path, Path]:
    """Write the tables and an installation; return it and its graph."""
    graph = folder / "graph" / "model"
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(ages())
    interface = {**AGES, "dimensions": {"rows": {"min": 1, "max": 8192}}}
    made: Any = SimpleNamespace(graph=folder / "graph", interface=interface)
    write_table(folder / "in.csv", rows)
    arrow, parquet = importlib.import_module("pyarrow.csv"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.read_csv(folder / "in.csv"), folder / "in.parquet")
    return installation(folder, made, raw=False), graph / "model.onnx"


def measure(folder: Path, rows: int, rounds: int) -> Iterator[dict[str, Any]]:
    site, graph = prepare(folder, rows)
    for case, (name, suffix, script) in CASES.items():
        (folder / "script.py").write_text(script)
        source, plain, own = folder / name, folder / f"plain.{suffix}", folder / f"own.{suffix}"
        commands = {"script": [sys.executable, folder / "script.py", graph, source, plain]}
        for workers in (1, 2):
            words = ["run", site, source, "-o", own, "--json", "--processes", workers]
            commands[f"{workers} workers"] = [sys.executable, "-m", "packager", *words]
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                seconds[name].append(timed(words))
        check(plain, own)
        walls = {name: statistics.median(wall for wall, _ in found) for name, found in seconds.items()}
        spent = {name: statistics.median(own for _, own in found) for name, found in seconds.items()}
        yield {
            "case": case,
            "rows": rows,
            "rows_a_second": {name: round(rows / wall) for name, wall in walls.items()},
            "processor_microseconds_a_row": {name: round(value / rows * 1e6, 2) for name, value in spent.items()},
            "ratio": {name: round(walls["script"] / wall, 2) for name, wall in walls.items() if name != "script"},
        }


def read(path: Path) -> Iterator[list[Any]]:
    """Yield the cells of every row as numbers, the answer last."""
    if path.suffix == ".parquet":
        rows: Any = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
    elif path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        with path.open() as file:
            rows = map(json.loads, file.readlines())
    for row in rows:
        answer = row.pop("answer")
        answer = json.loads(answer) if isinstance(answer, str) else answer
        yield [*map(float, row.values()), answer["old"] if isinstance(answer, dict) else answer]


def check(plain: Path, ours: Path) -> None:
    """Both wrote the same rows and answers."""
    for left, right in zip(read(plain), read(ours), strict=True):
        assert left == right, (left, right)


def main(arguments: list[str]) -> int:
    rows, rounds = (int(value) for value in [*arguments, *("1000000", "3")[len(arguments) :]])
    with tempfile.TemporaryDirectory() as folder:
        for found in measure(Path(folder), rows, rounds):
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
