# SPDX-License-Identifier: Apache-2.0
"""Compile one ONNX graph after the other as a build does: a program of trials, run where `packager` is installed.

    python convert.py GRAPHS FIRST OUT      OUT/<index>.xml and OUT/<index>.bin are what a bundle would hold

`runtimes/_trials.py` says what GRAPHS is and what is printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from packager.runtimes import _trials
from packager.runtimes.openvino import compile as compiling

from packager.errors import StepError


def attempt(graph: bytes, out: Path) -> str:
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(graph)
        try:
            params = {"path": "model.onnx", "precision": "fp32"}
            compiling.compile_graph({"graph": folder}, folder, params, None)
        except StepError as error:
            return error.message
        for suffix in (".xml", ".bin"):
            (folder / compiling.FILE).with_suffix(suffix).rename(out.with_suffix(suffix))
    return "ok"


def main(arguments: list[str]) -> int:
    for index, (graph, *_) in enumerate(_trials.read_trials(Path(arguments[0]))):
        if index >= int(arguments[1]):
            print(json.dumps([index, attempt(graph, Path(arguments[2]) / str(index))]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
