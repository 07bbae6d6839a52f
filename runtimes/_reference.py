# SPDX-License-Identifier: Apache-2.0
"""Run one ONNX graph after the other in this interpreter's ONNX Runtime and keep what it gives: a program of trials.

    python _reference.py GRAPHS FIRST OUT      OUT/<index>.npz holds the outputs `0`, `1`, …

`runtimes/_trials.py` says what GRAPHS is and what is printed. A graph that is only loaded is reported as such.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

sys.path.remove(str(Path(__file__).parent))  # it holds a folder of the name of the library

numpy: Any = importlib.import_module("numpy")
onnxruntime: Any = importlib.import_module("onnxruntime")
trials: Any = importlib.import_module("packager.runtimes._trials")


def attempt(graph: bytes, feeds: bytes, out: Path, options: Any) -> str:
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        if not feeds:
            return "loads"
        with numpy.load(io.BytesIO(feeds), allow_pickle=False) as arrays:
            got = session.run(None, {name: arrays[name] for name in arrays.files})
        if not all(isinstance(array, numpy.ndarray | numpy.generic) for array in got):
            return "loads"
        plain = (array.astype(str) if array.dtype.kind == "O" else array for array in map(numpy.asarray, got))
        out.write_bytes(trials.pack_arrays({str(position): array for position, array in enumerate(plain)}))
    except Exception as error:  # the runtime's exceptions share no class
        return " ".join(str(error).split())[:400] or type(error).__name__
    return "ok"


def main(arguments: list[str]) -> int:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for index, (graph, feeds, _, _) in enumerate(trials.read_trials(Path(arguments[0]))):
        if index >= int(arguments[1]):
            reported = attempt(graph, feeds, Path(arguments[2]) / f"{index}.npz", options)
            print(json.dumps([index, reported]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
