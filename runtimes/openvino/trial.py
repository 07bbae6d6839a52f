# SPDX-License-Identifier: Apache-2.0
"""Open one IR after the other in the OpenVINO of this interpreter, run it and hold it against what is expected.

    python trial.py GRAPHS FIRST      one JSON line `[index, "ok"]` or `[index, "what happened"]` for each
    python trial.py --about           one JSON line about the runtime and numpy of this environment

GRAPHS is what `runtimes/_trials.py` writes, its graphs the two files of an IR: the length of the first as eight bytes,
the first, the second. Runs in environments that hold nothing of ours, on `session.py` beside it, as installations do.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

session: Any = importlib.import_module("session")  # the file beside this one, where Python looks first

import openvino  # noqa: E402 - after `session`, which keeps it from reporting to its maker

Record = tuple[bytes, bytes, bytes, float]  # graph, inputs, expected outputs, tolerance
BATCH = 12


def about() -> Any:
    return {
        "version": openvino.get_version().partition("-")[0],
        "numpy": numpy.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def records(path: str) -> Iterator[Record]:
    with Path(path).open("rb") as file:
        while True:
            head = file.read(32)
            if not head:
                return
            graph, feeds, expected, millionths = struct.unpack(">QQQQ", head)
            yield file.read(graph), file.read(feeds), file.read(expected), millionths / 1e6


def attempt(record: Record) -> str:
    """Open a graph as an installation does, run it and compare."""
    graph, feeds, expected, tolerance = record
    try:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder, "model.xml")
            for suffix, data in zip((".xml", ".bin"), split_graph(graph), strict=True):
                path.with_suffix(suffix).write_bytes(data)
            opened = session.open_session(path, threads=1)
            given = load(feeds)
            if not feeds:
                return "loads"
            if set(given) != {port.name for port in opened.inputs}:
                return f"it wants the inputs {sorted(port.name for port in opened.inputs)}"
            return compare(opened.run(given), expected, tolerance) if expected else "loads"
    except Exception as error:  # the runtime's exceptions share no class
        return " ".join(str(error).split())[-400:] or type(error).__name__


def run_together(batch: list[Record]) -> list[str]:
    """Run graphs as parts of one model, which costs a tenth; `?` for each that has to run alone."""
    doubt = ["?"] * len(batch)
    if len(batch) < 2:
        return doubt
    try:
        core = openvino.Core()
        models = [core.read_model(*split_graph(graph)) for graph, *_ in batch]
        given = {}
        for number, (model, record) in enumerate(zip(models, batch, strict=True)):
            for port in (*model.inputs, *model.outputs):
                port.get_tensor().set_names({f"{number}/{name}" for name in port.get_names()})
            given.update({f"{number}/{name}": array for name, array in load(record[1]).items()})
        results = [result for model in models for result in model.get_results()]
        whole = openvino.Model(results, [port for model in models for port in model.get_parameters()], "together")
        got = session.opened(core, whole, threads=1).run(given)
    except Exception:  # the halves show which one it was
        middle = len(batch) // 2
        return run_together(batch[:middle]) + run_together(batch[middle:])
    counts = [len(model.get_results()) for model in models]
    starts = [sum(counts[:number]) for number in range(len(counts))]
    reported = [
        compare(got[start : start + count], expected, tolerance)
        for start, count, (_, _, expected, tolerance) in zip(starts, counts, batch, strict=True)
    ]
    return [text if text == "ok" else "?" for text in reported]


def split_graph(graph: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack(">Q", graph[:8])
    return graph[8 : 8 + length], graph[8 + length :]


def load(feeds: bytes) -> dict[str, Any]:
    if not feeds:
        return {}
    with numpy.load(io.BytesIO(feeds), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def can_join(record: Record) -> bool:
    """Return whether a graph may be a part of a larger one: quantisation changes how all of a model is compiled."""
    return bool(record[1] and record[2]) and b"FakeQuantize" not in record[0]


def compare(got: list[Any], expected: bytes, tolerance: float) -> str:
    with numpy.load(io.BytesIO(expected), allow_pickle=False) as arrays:
        if len(got) != len(arrays.files):
            return f"differs: {len(got)} outputs, expected {len(arrays.files)}"
        for position, array in enumerate(got):
            wanted = arrays[str(position)]
            if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                return (
                    f"differs: output {position} is {array.dtype}{array.shape}, expected {wanted.dtype}{wanted.shape}"
                )
            exact = wanted.dtype.kind in "iubUS"
            same = numpy.array_equal(array, wanted) if exact else close(array, wanted, tolerance)
            if not same:
                return f"differs: output {position} has other values"
    return "ok"


def close(array: Any, wanted: Any, tolerance: float) -> bool:
    return bool(numpy.allclose(array, wanted, rtol=tolerance, atol=tolerance / 10, equal_nan=True))


def main(arguments: list[str]) -> int:
    if arguments == ["--about"]:
        print(json.dumps(about()))
        return 0
    waiting: list[tuple[int, Record]] = []
    for index, record in enumerate(records(arguments[0])):
        if index >= int(arguments[1]):
            waiting.append((index, record))
            if len(waiting) == BATCH:
                answer(waiting)
                waiting = []
    answer(waiting)
    return 0


def answer(waiting: list[tuple[int, Record]]) -> None:
    """Print what happened to some graphs, in their order."""
    joined = [index for index, record in waiting if can_join(record)]
    reported = dict(zip(joined, run_together([record for index, record in waiting if index in joined]), strict=True))
    for index, record in waiting:
        text = reported.get(index, "?")
        print(json.dumps([index, attempt(record) if text == "?" else text]), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
