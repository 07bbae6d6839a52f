# SPDX-License-Identifier: Apache-2.0
"""Convert one ONNX graph after the other in the MNN of this interpreter, run it and hold it against what is expected.

    python trial.py GRAPHS FIRST      one JSON line `[index, "ok"]` or `[index, "what happened"]` for each
    python trial.py --about           one JSON line about the runtime and numpy of this environment

GRAPHS is what `runtimes/_trials.py` writes; a graph is the length of a JSON list as a big-endian number, the list
(names of the inputs, names of the outputs), and the serialised ONNX model. Runs in environments that hold nothing of
ours: standard library, numpy, MNN.

`MNN.tools` is not imported: it installs a package that reports its use. Its extension module converts without it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

Record = tuple[bytes, bytes, bytes, float]  # graph, inputs, expected outputs, tolerance

PATIENCE = 30  # seconds for a graph of one operator: the converter has endless loops
HELD_AS = {"int64": "int32", "bool": "int32", "float64": "float32"}  # MNN has the second for the first


def about() -> Any:
    return {
        "version": importlib.metadata.version("mnn"),
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
    """Convert a graph, run it and compare."""
    graph, feeds, expected, tolerance = record
    (length,) = struct.unpack(">Q", graph[:8])
    inputs, outputs = json.loads(graph[8 : 8 + length])
    try:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            module = convert(graph[8 + length :], inputs, outputs, Path(folder))
        given = load(feeds) if feeds else {}
        if not feeds:
            return "loads"
        if set(given) != set(inputs):
            return f"it wants the inputs {sorted(inputs)}"
        answers = module.onForward([to_variable(given[name]) for name in inputs])
        if not expected:
            return "loads"
        if len(answers) != len(outputs):
            return f"MNN cannot run the graph: {len(answers)} outputs"
        return compare([to_array(answer) for answer in answers], expected, tolerance)
    except Exception as error:  # the runtime's exceptions share no class
        return " ".join(str(error).split())[:400] or type(error).__name__


def convert(model: bytes, inputs: list[str], outputs: list[str], folder: Path) -> Any:
    """Return the module of an ONNX model. Raises ValueError where the converter leaves none."""
    source, made = folder / "model.onnx", folder / "model.mnn"
    source.write_bytes(model)
    words = ("-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(made), "--bizCode", "packager")
    importlib.import_module("_tools").mnnconvert(["mnnconvert", *words])
    if not made.is_file():
        raise ValueError("MNN cannot convert the graph")
    module = importlib.import_module("MNN").nn.load_module_from_file(str(made), inputs, outputs)
    if module is None:
        raise ValueError("MNN cannot open what it converted")
    return module


def to_variable(array: Any) -> Any:
    """Return an array as MNN holds it. Raises TypeError where it has no such type."""
    expr = importlib.import_module("MNN").expr
    held = array.astype(HELD_AS.get(array.dtype.name, array.dtype.name))
    kinds = {"float32": expr.float, "int32": expr.int, "uint8": expr.uint8, "int8": getattr(expr, "int8", None)}
    if kinds.get(held.dtype.name) is None:
        raise TypeError(f"MNN has no type for {array.dtype}")
    if array.dtype.kind == "i" and array.dtype.itemsize == 8 and not numpy.array_equal(held, array):
        raise ValueError("MNN cannot hold whole numbers beyond 32 bits")
    return expr.const(numpy.ascontiguousarray(held), list(held.shape), expr.NCHW, kinds[held.dtype.name])


def to_array(variable: Any) -> Any:
    """Return a result as an array. Raises ValueError where it has none."""
    expr = importlib.import_module("MNN").expr
    if variable.data_format == expr.NC4HW4:
        variable = expr.convert(variable, expr.NCHW)
    found = variable.read()
    if found is None:
        raise ValueError("MNN cannot compute the graph")
    return numpy.array(found).reshape(variable.shape)


def load(feeds: bytes) -> dict[str, Any]:
    with numpy.load(io.BytesIO(feeds), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def compare(got: list[Any], expected: bytes, tolerance: float) -> str:
    with numpy.load(io.BytesIO(expected), allow_pickle=False) as arrays:
        for position, array in enumerate(got):
            wanted = arrays[str(position)]
            if wanted.dtype.kind in "US":
                return "MNN has no type for texts"
            held = HELD_AS.get(wanted.dtype.name, wanted.dtype.name)
            if (array.shape, array.dtype.name) != (wanted.shape, held):
                return f"differs: output {position} is {array.dtype}{array.shape}, expected {held}{wanted.shape}"
            exact = wanted.dtype.kind in "iub"
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
    kept = os.fdopen(os.dup(1), "w")  # the runtime prints on the standard output
    with Path(os.devnull).open("w") as nothing, contextlib.closing(kept):
        os.dup2(nothing.fileno(), 1)
        for index, record in enumerate(records(arguments[0])):
            if index >= int(arguments[1]):
                signal.alarm(PATIENCE)  # ends the process
                print(json.dumps([index, attempt(record)]), file=kept, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
