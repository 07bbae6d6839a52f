# SPDX-License-Identifier: Apache-2.0
"""Load one ONNX graph after the other in the tract of this interpreter, run it and hold it against what is expected.

    python trial.py GRAPHS FIRST      one JSON line `[index, "ok"]` or `[index, "what happened"]` for each
    python trial.py --about           one JSON line about the runtime and numpy of this environment

GRAPHS is what `runtimes/_trials.py` writes, its graphs serialised ONNX models. Runs in environments that hold nothing
of ours: standard library, numpy, tract. A graph on which tract aborts ends the output.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import tract

Record = tuple[bytes, bytes, bytes, float]  # graph, inputs, expected outputs, tolerance


def about() -> Any:
    return {
        "version": tract.version(),
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
    """Open a graph for the lengths of its inputs, run it and compare."""
    graph, feeds, expected, tolerance = record
    try:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(graph)
            loaded = tract.onnx().load(str(path))
        if not feeds:
            return "loads"
        names = [loaded.input_name(index) for index in range(loaded.input_count())]
        given = load(feeds)
        if set(given) != set(names):
            return f"it wants the inputs {sorted(names)}"
        for index, name in enumerate(names):
            loaded.set_input_fact(index, ",".join([*map(str, given[name].shape), name_type(given[name].dtype)]))
        opened = loaded.into_model().into_runnable()
        if not expected:
            return "loads"
        return compare([each.to_numpy() for each in opened.run([given[name] for name in names])], expected, tolerance)
    except Exception as error:  # the runtime's exceptions share no class
        return " ".join(str(error).split())[:400] or type(error).__name__


def name_type(kind: Any) -> str:
    """Return tract's name of an element type. Raises TypeError where it has none."""
    if kind.name == "bool":
        return "bool"
    if kind.kind not in "iuf":
        raise TypeError(f"tract has no type for {kind.name}")
    return f"{kind.kind}{8 * kind.itemsize}"


def load(feeds: bytes) -> dict[str, Any]:
    with numpy.load(io.BytesIO(feeds), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


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
    for index, record in enumerate(records(arguments[0])):
        if index >= int(arguments[1]):
            print(json.dumps([index, attempt(record)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
