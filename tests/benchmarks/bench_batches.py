# SPDX-License-Identifier: Apache-2.0
"""Rows a second of `packager run` over a table, against scripts that do the same in one process.

    python tests/benchmarks/bench_batches.py [ROWS [ROUNDS]] [--trees] [WORDS OF A CASE …]

1,000,000 rows and 3 rounds by default, of a graph of two operators, so that all time is the table's; with `--trees` of a
hundred trees of six levels.

A script is what a person would write: it reads the file with pyarrow (one of them with `csv`), runs ONNX Runtime in its
own process on batches of 8192 rows, and writes lines of JSON, CSV or Parquet. `packager run` reads the same file with one
worker and with two, and checks, resumes and refuses rows besides. Rounds alternate; a ratio is that of the medians, with
start and end of the programs. Times of processors are those of all processes. Every cell is compared, up to two million
rows.
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
from collections.abc import Iterator, Mapping
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
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
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
_KINDS = {"float32": 1, "bool": 9}
_MOST_COMPARED = 2_000_000


def timed(words: list[Any]) -> tuple[float, float]:
    """Return the seconds of a command, and those that processors spent on it and its workers."""
    begun, before = time.monotonic(), os.times()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begun, spent


def trees(count: int = 100, depth: int = 6) -> bytes:
    """Return a graph of seeded trees over both columns, which says whether their sum is above zero."""
    helper, numpy = importlib.import_module("onnx").helper, importlib.import_module("numpy")
    draw, inner = numpy.random.default_rng(5), 2**depth - 1
    size, whole = 2 * inner + 1, {"nodes_treeids": [], "nodes_nodeids": [], "nodes_featureids": [], "nodes_values": []}
    for tree in range(count):
        whole["nodes_treeids"] += [tree] * size
        whole["nodes_nodeids"] += [*range(size)]
        columns = draw.integers(0, 2, size)
        whole["nodes_featureids"] += columns.tolist()
        whole["nodes_values"] += (draw.random(size) * numpy.where(columns, 1.0, 122.0)).tolist()
    places = [*range(inner)]
    whole["nodes_modes"] = (["BRANCH_LEQ"] * inner + ["LEAF"] * (inner + 1)) * count
    whole["nodes_truenodeids"] = ([2 * place + 1 for place in places] + [0] * (inner + 1)) * count
    whole["nodes_falsenodeids"] = ([2 * place + 2 for place in places] + [0] * (inner + 1)) * count
    whole["target_treeids"] = [tree for tree in range(count) for _ in range(inner + 1)]
    whole["target_nodeids"] = [*range(inner, size)] * count
    whole["target_ids"] = [0] * count * (inner + 1)
    whole["target_weights"] = draw.normal(0, 1, count * (inner + 1)).tolist()
    nodes = [
        helper.make_node("Unsqueeze", ["age", "one"], ["a"]),
        helper.make_node("Unsqueeze", ["unit", "one"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
        helper.make_node("TreeEnsembleRegressor", ["both"], ["sums"], domain="ai.onnx.ml", n_targets=1, **whole),
        helper.make_node("Squeeze", ["sums", "one"], ["sum"]),
        helper.make_node("Greater", ["sum", "zero"], ["old"]),
    ]
    ports = {
        role: [helper.make_tensor_value_info(p["name"], _KINDS[p["dtype"]], p["shape"]) for p in AGES[role]]
        for role in ("inputs", "outputs")
    }
    constants = [helper.make_tensor("one", 7, [1], [1]), helper.make_tensor("zero", 1, [], [0.0])]
    made = helper.make_graph(nodes, "trees", ports["inputs"], ports["outputs"], constants)
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    found: bytes = helper.make_model(made, opset_imports=domains, ir_version=8).SerializeToString()
    return found


def prepare(folder: Path, rows: int, model: bytes) -> tuple[Path, Path]:
    """Write the tables and an installation; return it and its graph."""
    graph = folder / "graph" / "model"
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(model)
    interface = {**AGES, "dimensions": {"rows": {"min": 1, "max": 8192}}}
    made: Any = SimpleNamespace(graph=folder / "graph", interface=interface)
    write_table(folder / "in.csv", rows)
    arrow, parquet = importlib.import_module("pyarrow.csv"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.read_csv(folder / "in.csv"), folder / "in.parquet")
    return installation(folder, made, raw=False), graph / "model.onnx"


def measure(
    folder: Path, rows: int, rounds: int, cases: Mapping[str, tuple[str, str, str]], model: bytes
) -> Iterator[dict[str, Any]]:
    site, graph = prepare(folder, rows, model)
    for case, (name, suffix, script) in cases.items():
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
        if rows <= _MOST_COMPARED:
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
    words = [word for word in arguments if not word.startswith("--")]
    numbers = [int(words.pop(0)) for _ in range(2) if words and words[0].isdigit()]
    rows, rounds = [*numbers, *(1_000_000, 3)[len(numbers) :]]
    cases = {name: case for name, case in CASES.items() if not words or any(word in name for word in words)}
    with tempfile.TemporaryDirectory() as folder:
        for found in measure(Path(folder), rows, rounds, cases, trees() if "--trees" in arguments else ages()):
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
