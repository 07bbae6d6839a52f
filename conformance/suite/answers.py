# SPDX-License-Identifier: Apache-2.0
"""Run tensors through the runtime of a cell, and write what it answers.

    python -m suite.answers CELL.json INPUTS.jsonl OUT.jsonl

Each line of INPUTS is an object of tensors as adapters take them (`wire`); OUT has a line for each, in order. Nothing
is judged here: `packager conform --evaluate` reads labels from the answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from suite import cell, contract, wire
from suite.cell import Cell
from suite.subject import Subject


def run(subject: Cell, inputs: Path, out: Path) -> None:
    """Answer every line of `inputs`. Raises UnavailableError, AdapterError, RefusedError."""
    runtime = Subject(subject, contract.read(subject.contract))
    runtime.start()
    try:
        with inputs.open("rb") as lines, out.open("w") as sink:
            for line in lines:
                got = runtime.primary.infer(wire.unpack_all(json.loads(line)))
                sink.write(json.dumps(wire.pack_all(got)) + "\n")
    finally:
        runtime.finish()


if __name__ == "__main__":
    run(cell.read(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
