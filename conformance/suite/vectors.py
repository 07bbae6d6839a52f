# SPDX-License-Identifier: Apache-2.0
"""Reference vectors on disk: inputs and outputs of every case, and what the reference itself took and kept to.

    DIR/index.json   {"reference": {runtime, version, …}, "rowwise": true, "bench": {"case", "seconds": […]},
                      "cases": [{"name", "file", "source": "run" | "stated"}]}
    DIR/<n>.json     {"inputs": {name: tensor}, "outputs": {name: tensor}}

`python -m suite.vectors CELL.json DIR` makes them by running the cell's adapter, which is thereby the reference.
Inputs that a bundle carries (`vectors/inputs/NAME.safetensors`, or `NAME.json` as an Open Inference Protocol request)
come first where `CELL.options.inputs` names their directory. What the source model made of them when the bundle was
built (`outputs.safetensors`, `outputs.json`: tensors `NAME/OUTPUT`) stands for the adapter's answer, if
`CELL.options.outputs` names a directory that holds it: then the reference itself is judged like any other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suite import cases, cell, contract, judge, oip, wire
from suite.adapter import Process
from suite.cell import Cell
from suite.contract import Contract

_HEADER = 1 << 20
_SAFE = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors opened for reading; a case's arrays are loaded on request."""

    folder: Path
    index: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        return [item["name"] for item in self.index["cases"]]

    def case(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return inputs and outputs of a case."""
        file = next(item["file"] for item in self.index["cases"] if item["name"] == name)
        value = json.loads((self.folder / file).read_bytes())
        return wire.unpack_all(value["inputs"]), wire.unpack_all(value["outputs"])


def read(folder: Path) -> Vectors:
    """Open the vectors in `folder`."""
    return Vectors(folder, json.loads((folder / "index.json").read_bytes()))


def make(subject: Cell, folder: Path) -> None:
    """Run the adapter of `subject` on every case and write what it answers."""
    promise = contract.read(subject.contract)
    stated = outputs_of(Path(subject.options["outputs"]), promise) if "outputs" in subject.options else {}
    process = Process(subject.adapter, subject.environment, subject.scratch, subject.memory)
    try:
        hello = process.call("hello", 60)
        loaded = process.call(
            "load",
            subject.seconds,
            model=str(subject.model),
            contract=str(subject.contract),
            device=subject.device,
            options=dict(subject.options),
            threads=1,
        )
        rows = []
        for number, (name, feeds) in enumerate(inputs(promise, subject)):
            known = stated.get(name)
            outputs = process.infer(feeds, 300) if known is None else known
            value = {"inputs": wire.pack_all(feeds), "outputs": wire.pack_all(outputs)}
            (folder / f"{number}.json").write_text(json.dumps(value))
            rows.append({"name": name, "file": f"{number}.json", "source": "run" if known is None else "stated"})
        index = {
            "reference": {key: {**hello, **loaded}.get(key) for key in ("runtime", "version", "provider", "numpy")},
            "rowwise": _rowwise(process, promise, subject.target),
            "cases": rows,
            "bench": _bench(process, promise),
        }
        process.call("stop", 60)
    finally:
        process.close()
    (folder / "index.json").write_text(json.dumps(index))


def inputs(promise: Contract, subject: Cell) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and arrays of every case: those of the bundle if it has any, and the seeded ones."""
    folder = subject.options.get("inputs")
    if folder:
        yield from given(Path(folder))
    seed = int(promise.document.get("seed", 0))
    for case in cases.promised(promise):
        yield case.name, cases.feeds(promise, case, seed)


def given(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the inputs that lie in `folder`, by file name: a case may have its numbers and its texts in two files."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        feeds = found.setdefault(path.stem, {})
        if path.suffix == ".safetensors":
            feeds |= _safetensors(path.read_bytes())
        elif path.suffix == ".json":
            items = json.loads(path.read_bytes())["inputs"]
            feeds |= {item["name"]: oip.from_list(item["data"], item["datatype"], item["shape"]) for item in items}
    yield from found.items()


def outputs_of(folder: Path, promise: Contract) -> dict[str, dict[str, Any]]:
    """Return the stated outputs that lie in `folder`, by case; a case that lacks one of the outputs has none."""
    numbers, texts = folder / "outputs.safetensors", folder / "outputs.json"
    found: dict[str, Any] = _safetensors(numbers.read_bytes()) if numbers.is_file() else {}
    for name, item in json.loads(texts.read_bytes()).items() if texts.is_file() else ():
        found[name] = oip.from_list(item["data"], "BYTES", item["shape"])
    cases_of: dict[str, dict[str, Any]] = {}
    for name, array in found.items():
        case, _, output = name.partition("/")
        cases_of.setdefault(case, {})[output] = array
    names = {port.name for port in promise.outputs}
    return {case: arrays for case, arrays in cases_of.items() if set(arrays) == names}


def _safetensors(data: bytes) -> dict[str, Any]:
    """Read the format: the length of a JSON header, the header, the tensors' bytes."""
    size = int.from_bytes(data[:8], "little")
    if size > _HEADER or 8 + size > len(data):
        raise ValueError("not a safetensors file")
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*item["data_offsets"])], _SAFE[item["dtype"]]).reshape(item["shape"])
        for name, item in header.items()
        if name != "__metadata__"
    }


def _rowwise(process: Process, promise: Contract, target: str) -> bool:
    """Return whether the reference gives a row the same answer beside any others: only then is it a law to test."""
    batch = promise.batch
    if batch is None or promise.dimensions[batch][1] < 2:
        return False
    sample = cases.feeds(promise, rows_case(promise), 0)
    whole = process.infer(sample, 300)
    for row in range(next(iter(sample.values())).shape[0]):
        alone = process.infer({name: array[row : row + 1] for name, array in sample.items()}, 300)
        expected = {name: array[row : row + 1] for name, array in whole.items()}
        if judge.differences(promise, target, expected, alone)[1]:
            return False
    return True


def rows_case(promise: Contract) -> cases.Case:
    """Return the case that the laws about rows use: five rows, or as many as there may be."""
    batch = promise.batch
    assert batch
    lengths = promise.follow({**cases.smallish(promise), batch: promise.near(batch, 5)})
    return cases.Case(f"rows at {lengths}", lengths)


def _bench(process: Process, promise: Contract) -> dict[str, Any]:
    """Time the reference on the smallest inputs, in its own process: what every ratio refers to."""
    case = smallest(promise)
    feeds = wire.pack_all(cases.feeds(promise, case, 0))
    process.call("bench", 120, inputs=feeds, runs=20, seconds=1.0)
    return {"case": case.name, "seconds": process.call("bench", 120, inputs=feeds, runs=300, seconds=2.0)["seconds"]}


def smallest(promise: Contract) -> cases.Case:
    """Return the case that speed is measured on: every dimension at its low end."""
    return cases.Case("smallest", cases.shortest(promise))


if __name__ == "__main__":
    make(cell.read(Path(sys.argv[1])), Path(sys.argv[2]))
