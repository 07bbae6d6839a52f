# SPDX-License-Identifier: Apache-2.0
"""Write reference vectors: the inputs of the smallest cases and the source's outputs, which travel in the bundle.

    index.json                    the cases, and those that were too large to travel
    inputs/<file>.safetensors     one tensor per input, by name
    inputs/<file>.json            inputs of text, as `{"inputs": […]}` of the Open Inference Protocol
    outputs.safetensors           one tensor `<file>/<output>` per case and output
    outputs.json                  outputs of text, by `<file>/<output>`

Inputs follow from the interface and a seed, and are part of the bundle. Outputs depend on the instructions of the CPU
they were computed on: they are an observation, and go into a signed statement about the bundle.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager import canonical
from packager.canonical import JSON
from packager.formats import safetensors
from packager.steps._cases import Case, shape_at

INDEX = "index.json"
INPUTS = "inputs"
OUTPUTS = ("outputs.safetensors", "outputs.json")
MAX_BYTES = 1 << 20  # of all inputs together: a bundle of a small model stays small
MAX_OUTPUTS = 3 << 20  # bytes of all outputs together: they are signed, in a statement that other tools read whole
_LISTED = 8  # cases of samples that travel: the build ran all of them, and a bundle is no test suite
_TEXT = 32  # bytes that a text is counted as


class Vectors:
    """Collects the vectors of a run over `cases` below `out`. Which cases travel depends on shapes alone."""

    def __init__(self, out: Path, interface: JSON, cases: Sequence[Case]) -> None:
        self._out, self._interface = out, interface
        self._files, self._omitted = _chosen(interface, cases)
        self._kept: dict[str, tuple[Mapping[str, Any], Sequence[Any]]] = {}
        (out / INPUTS).mkdir(exist_ok=True)

    def add(self, case: Case, feeds: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """Keep one case, unless it is too large to travel."""
        if case.name in self._files and _weight(outputs) <= MAX_OUTPUTS:
            self._kept[case.name] = feeds, outputs

    def _small(self) -> list[str]:
        """Return the cases whose outputs fit together, the smallest first."""
        weights = {name: _weight(outputs) for name, (_, outputs) in self._kept.items()}
        chosen, left = [], MAX_OUTPUTS
        for name in sorted(weights, key=lambda name: weights[name]):
            if weights[name] <= left:
                chosen.append(name)
                left -= weights[name]
        return chosen

    def _write_inputs(self, file: str, feeds: Mapping[str, Any]) -> None:
        numbers, texts = _split(feeds)
        if numbers:
            (self._out / INPUTS / f"{file}.safetensors").write_bytes(safetensors.dump(numbers))
        if texts:
            listed = [{"name": name, "datatype": "BYTES", **texts[name]} for name in sorted(texts)]
            (self._out / INPUTS / f"{file}.json").write_bytes(canonical.dump({"inputs": listed}))

    def write(self, cases: Sequence[Case], seed: int) -> None:
        """Write the inputs, the index and the outputs."""
        chosen, names = self._small(), [port["name"] for port in self._interface["outputs"]]
        rows: list[JSON] = []
        made: dict[str, Any] = {}
        omitted = list(self._omitted)
        for case in cases:
            file = self._files.get(case.name)
            if file and case.name in chosen:
                feeds, outputs = self._kept[case.name]
                rows.append({"name": case.name, "file": file, "lengths": dict(case.lengths), "fill": case.fill})
                self._write_inputs(file, feeds)
                made |= {f"{file}/{name}": value for name, value in zip(names, outputs, strict=True)}
            elif file:
                omitted.append({"name": case.name, "bytes": _bytes(self._interface, case.lengths)})
        index = {"format": 1, "seed": seed, "cases": rows, "omitted": omitted, "max_bytes": MAX_BYTES}
        (self._out / INDEX).write_bytes(canonical.dump(index))
        numbers, texts = _split(made)
        (self._out / OUTPUTS[0]).write_bytes(safetensors.dump(numbers))
        if texts:
            (self._out / OUTPUTS[1]).write_bytes(canonical.dump(texts))


def _chosen(interface: JSON, cases: Sequence[Case]) -> tuple[dict[str, str], list[JSON]]:
    """Return the file names of the cases that fit together, the smallest first, and the others with their sizes.

    Of the cases of samples only the first few travel.
    """
    sizes = {case.name: _bytes(interface, case.lengths) for case in cases}
    late = [case.name for case in cases if case.fill == "listed"][_LISTED:]
    chosen, left = set(), MAX_BYTES
    for name in sorted((name for name in sizes if name not in late), key=lambda name: sizes[name]):
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    kept = (case.name for case in cases if case.name in chosen)
    files = {name: f"{number:02}-{_slug(name)}" for number, name in enumerate(kept, start=1)}
    return files, [{"name": name, "bytes": size} for name, size in sizes.items() if name not in chosen]


def _weight(outputs: Sequence[Any]) -> int:
    """Return the bytes of outputs; of a text, what it is counted as."""
    return sum(array.size * (_TEXT if array.dtype.kind in "OUS" else array.dtype.itemsize) for array in outputs)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80]


def _bytes(interface: JSON, lengths: Mapping[str, int]) -> int:
    numpy = importlib.import_module("numpy")
    total = 0
    for port in interface["inputs"]:
        count = 1
        for axis in shape_at(port, lengths):
            count *= axis
        total += count * (_TEXT if port["dtype"] == "string" else numpy.dtype(port["dtype"]).itemsize)
    return total


def _split(values: Mapping[str, Any]) -> tuple[dict[str, safetensors.Tensor], dict[str, JSON]]:
    """Return tensors of numbers as safetensors takes them, and tensors of text as their shape and flat data."""
    numpy = importlib.import_module("numpy")
    numbers: dict[str, safetensors.Tensor] = {}
    texts: dict[str, JSON] = {}
    for name, value in values.items():
        array = numpy.asarray(value)
        if array.dtype.kind in "OUS":
            texts[name] = {"shape": list(array.shape), "data": [str(item) for item in array.reshape(-1)]}
        else:
            data = array.astype(array.dtype.newbyteorder("<")).tobytes()
            numbers[name] = (array.dtype.name, array.shape, data)
    return numbers, texts
