# SPDX-License-Identifier: Apache-2.0
"""Export: a source tree to a canonical ONNX graph, with the files that must travel with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import Interface, Port, SourceModel, Wishes
from packager.graphs import graph, graphneeds, saturation
from packager.steps import _answers, _cases
from packager.types import check_path

VERSION = 4  # 4: sums that depend on the processor; ONNX as its runtime comes; 3: own writers, ranges that are found
ANSWER = _answers.EXPORT


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `model/model.onnx`, its weights and `tokenizer/…`; return the interface and what the graph needs to run."""
    exporter = exporters.exporter(params["kind"])
    source = exporter.load(inputs["source"], params["payload"], Wishes.from_params(params))
    model = graph.canonicalise(source.to_onnx(params["opset"]), opset=params["opset"], ir=params["ir"])
    accepted = describe_inputs(exporters.probed(source, model))
    state_outputs(model, observe(source, accepted, params.get("seed", 0)))
    for path, file in source.extra_files().items():
        _copy(file, out / check_path(path))
    saturates = saturation.saturating(model)
    graph.write(model, out / "model", shard_bytes=params.get("shard_bytes", graph.SHARD_BYTES))
    classes = {name: list(labels) for name, labels in exporters.classes_of(source).items()}
    about = {"classes": classes} if classes else {}
    # The weights have left memory: what is left is small enough to be analysed.
    return {**describe(model, accepted, saturates), **about}


def describe_inputs(interface: Interface) -> JSON:
    """Return what callers may send, as JSON."""
    return {
        "inputs": [port.to_json() for port in interface.inputs],
        "dimensions": {name: {"min": low, "max": high} for name, (low, high) in interface.dimensions.items()},
        "ranges": {port.name: list(port.range) for port in interface.inputs if port.range},
    }


def describe(model: Any, accepted: JSON, saturates: Mapping[str, int] | None = None) -> JSON:
    """Return the facts of a canonical graph; its weights may have been written already.

    `saturates` counts the operators whose sums depend on the processor (`saturation`).
    """
    bounds = {name: (span["min"], span["max"]) for name, span in accepted["dimensions"].items()}
    outputs = [Port(*graph.port(value)).to_json() for value in model.graph.output]
    return {
        "interface": {"inputs": accepted["inputs"], "outputs": outputs, "dimensions": accepted["dimensions"]},
        "ranges": accepted["ranges"],
        "graph": {
            **graph.facts(model),
            **graphneeds.needs(model, bounds),
            **({"saturates": dict(saturates)} if saturates else {}),
        },
        "nondeterministic": graph.nondeterministic(model),
    }


_REAL = 96  # beyond the low end of every axis but the first ones, which are rows


@dataclass(frozen=True, slots=True)
class Observation:
    """The lengths of the named dimensions in one run of the source, and the shapes it returned."""

    lengths: Mapping[str, int]
    shapes: Sequence[tuple[int, ...]]


def observe(source: SourceModel, accepted: JSON, seed: int) -> list[Observation]:
    """Run the source at three sets of lengths, all different where the ranges allow it: two short ones and a real one.

    What follows from a length by a formula may look like another length, or constant, while both are short.
    """
    bounds = [(name, span["min"], span["max"]) for name, span in accepted["dimensions"].items()]
    rows = {port["shape"][0] for port in accepted["inputs"] if port["shape"]}
    samples = exporters.samples_of(source)
    found = []
    for first in (0, 5, _REAL):
        starts = [9 if first == _REAL and name in rows else first for name, _, _ in bounds]
        lengths = {
            name: min(high, low + start + 2 * index)
            for index, ((name, low, high), start) in enumerate(zip(bounds, starts, strict=True))
        }
        case = _cases.Case(_cases.named(lengths), lengths)
        feeds = exporters.plausible(source, _cases.feeds(accepted, accepted["ranges"], case, seed, samples))
        results = _cases.attempt("source", case, source.run, feeds, accepted)
        found.append(Observation(lengths, [array.shape for array in results]))
    return found


def state_outputs(model: Any, seen: Sequence[Observation]) -> None:
    """Correct the shapes the graph states for its outputs by what the source returned.

    Torch states the traced length for what a loop makes, and symbols (`u0`) for lengths that depend on values.
    """
    for position, value in enumerate(model.graph.output):
        stated = value.type.tensor_type.shape
        runs = [(run.lengths, run.shapes[position]) for run in seen]
        if any(len(shape) != len(runs[0][1]) for _, shape in runs):
            raise StepError(
                f"output `{value.name}` has another number of axes from run to run", hint="return tensors of one rank"
            )
        if not value.type.tensor_type.HasField("shape") or len(runs[0][1]) != len(stated.dim):
            del stated.dim[:]  # a graph may leave the rank of an output open, or state one that no run has
            for _ in runs[0][1]:
                stated.dim.add()
        for index, axis in enumerate(stated.dim):
            lengths = [(dimensions, shape[index]) for dimensions, shape in runs]
            found = _axis(axis.dim_param or axis.dim_value, lengths, own=f"{value.name}_{index}")
            axis.dim_param, axis.dim_value = "", 0
            setattr(axis, "dim_value" if isinstance(found, int) else "dim_param", found)


def _axis(stated: int | str, seen: Sequence[tuple[Mapping[str, int], int]], own: str) -> int | str:
    """Return the length or name of an output's axis: the stated one if that was seen, else what was, else `own`."""
    dimensions = seen[0][0]
    if all(length == stated for _, length in seen):
        return stated
    fitting = [name for name in dimensions if all(length == lengths[name] for lengths, length in seen)]
    if fitting:
        return stated if stated in fitting else fitting[0]
    if isinstance(stated, str) and stated and stated not in dimensions and not re.fullmatch(r"u\d+", stated):
        return stated  # an expression such as `2*batch`
    return seen[0][1] if isinstance(stated, int) and len({length for _, length in seen}) == 1 else own


def _copy(file: Path, target: Path) -> None:
    if file.is_symlink() or not file.is_file():
        raise StepError(f"`{file.name}` of the source is not a regular file")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
