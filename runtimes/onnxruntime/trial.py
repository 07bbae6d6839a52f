# SPDX-License-Identifier: Apache-2.0
"""Load (and run) one graph after the other in the runtime of this interpreter, and print the result of each.

    python trial.py GRAPHS FIRST      one JSON line `[index, "ok"]` or `[index, "the runtime's message"]` for each
    python trial.py --about           one JSON line about the runtime and numpy of this environment

GRAPHS is what `runtimes/_trials.py` writes, its graphs serialised ONNX models. Runs in environments that hold nothing
of ours, on any Python since 3.8: standard library, numpy, onnxruntime.
A graph that kills the process ends the output; the caller continues behind that graph.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def about() -> Any:
    import numpy
    import onnxruntime

    return {
        "version": onnxruntime.__version__,
        "numpy": numpy.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
        "providers": onnxruntime.get_available_providers(),
    }


def records(path: str) -> Iterator[tuple[bytes, bytes, bytes, float]]:
    with Path(path).open("rb") as file:
        while True:
            head = file.read(32)
            if not head:
                return
            graph, feeds, expected, millionths = struct.unpack(">QQQQ", head)
            yield file.read(graph), file.read(feeds), file.read(expected), millionths / 1e6


def attempt(graph: bytes, feeds: bytes, expected: bytes, tolerance: float, options: Any) -> str:
    import numpy
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        if feeds:
            with numpy.load(io.BytesIO(feeds), allow_pickle=False) as arrays:
                got = session.run(None, {name: arrays[name] for name in arrays.files})
            return compare(got, expected, tolerance) if expected else "ok"
    except Exception as error:  # the runtime's exceptions share no class
        return " ".join(str(error).split())[:400] or type(error).__name__
    return "ok"


def compare(got: list[Any], expected: bytes, tolerance: float) -> str:
    import numpy

    with numpy.load(io.BytesIO(expected), allow_pickle=False) as arrays:
        for position, found in enumerate(got):
            wanted, array = arrays[str(position)], numpy.asarray(found)
            if array.shape != wanted.shape:
                return f"differs: output {position} has the shape {array.shape}, expected {wanted.shape}"
            if array.dtype == object or wanted.dtype.kind in "USb":
                same = numpy.array_equal(array.astype(str), wanted.astype(str))
            else:
                same = numpy.allclose(array, wanted, rtol=tolerance, atol=max(1e-7, tolerance / 10), equal_nan=True)
            if not same:
                return f"differs: output {position} is not what the standard says"
    return "ok"


def main(arguments: list[str]) -> int:
    if arguments == ["--about"]:
        print(json.dumps(about()))
        return 0
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    first = int(arguments[1])
    for index, record in enumerate(records(arguments[0])):
        if index >= first:
            print(json.dumps([index, attempt(*record, options)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
