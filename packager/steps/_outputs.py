# SPDX-License-Identifier: Apache-2.0
"""Find what a source returns by running it at several lengths: ranks, lengths, formulas, dependence on values.

What a graph states of its outputs is a hint: Torch states the traced length for what a loop makes, files state ranks
that no run has.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager import exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import SourceModel
from packager.recipe.lengths import OF_DATA, Measured, evaluate
from packager.steps import _cases

_STARTS = (0, 5, 96, 37, 201, 63)  # beyond the low end of every axis; of the first ones, which are rows, less
_PARTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 80, 100, 128, 160, 256, 320, 512)  # strides
_ELEMENTS = 1 << 20  # of all inputs of one run: shapes are what is looked for, and long axes multiply
_MOST_PORTS = 256  # inputs that are tried with missing values


@dataclass(frozen=True, slots=True)
class Observation:
    """The lengths of the named dimensions in one run of the source, and the shapes it returned."""

    lengths: Mapping[str, int]
    shapes: Sequence[tuple[int, ...]]


def observe(source: SourceModel, accepted: JSON, seed: int) -> list[Observation]:
    """Run the source at several sets of lengths, all different where the ranges allow it: short ones and real ones.

    What follows from a length by a formula may look like another length, or constant, while both are short. The last
    run has the lengths of an earlier one and other values: what differs then depends on values.
    """
    spans = _cases.read_spans(accepted)
    rows = {port["shape"][0] for port in accepted["inputs"] if port["shape"]}
    found = []
    for number, first in enumerate(_STARTS):
        lengths = {}
        for index, (name, span) in enumerate(spans.items()):
            start = min(first, 9 + number) if name in rows else first
            apart = 2 * index * span.lengths.step  # two axes of one length could not be distinguished
            lengths[name] = span.lengths.near(min(span.high, span.lengths.near(0) + start + apart))
        found.append(_observed(source, accepted, _shortened(accepted, spans, lengths), seed))
    found.append(_observed(source, accepted, found[1].lengths, seed + 1))
    return found


def _shortened(accepted: JSON, spans: Mapping[str, Measured], wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the lengths with their ties, the longest ones shorter where the inputs would be too large together."""
    lengths = _cases.apply_ties(spans, wanted)
    while sum(math.prod(_cases.shape_at(port, lengths)) for port in accepted["inputs"]) > _ELEMENTS:
        free = {name: span for name, span in spans.items() if not span.tied}
        shorter = {name: span.lengths.near(lengths[name] - lengths[name] // 8 - 1) for name, span in free.items()}
        longest = max((name for name in free if shorter[name] < lengths[name]), key=lengths.__getitem__, default=None)
        if longest is None:
            break
        lengths = _cases.apply_ties(spans, {**lengths, longest: shorter[longest]})
    return lengths


def _observed(source: SourceModel, accepted: JSON, lengths: Mapping[str, int], seed: int) -> Observation:
    case = _cases.Case(_cases.describe_lengths(lengths), lengths)
    feeds = exporters.make_plausible(source, draw_inputs(source, accepted, case, seed))
    results = _cases.run_or_explain("source", case, source.run, feeds, accepted)
    return Observation(lengths, [array.shape for array in results])


def draw_inputs(source: SourceModel, accepted: JSON, case: _cases.Case, seed: int) -> dict[str, Any]:
    """Return the inputs of a case as they are measured."""
    samples = exporters.samples_of(source)
    return _cases.draw_feeds(accepted, accepted["ranges"], case, seed, samples, accepted.get("values"))


def find_missing_inputs(source: SourceModel, accepted: JSON, seed: int) -> JSON:
    """Return `missing`: the inputs of which a row may be NaN throughout, and every number that comes back is finite."""
    numpy = importlib.import_module("numpy")
    ports = [port for port in accepted["inputs"] if port["dtype"].startswith("float") and port["shape"]]
    lengths = _cases.shortest_lengths(accepted)
    case = _cases.Case(_cases.describe_lengths(lengths), lengths)
    found = []
    for port in ports if len(ports) <= _MOST_PORTS else ():
        feeds = draw_inputs(source, accepted, case, seed)
        feeds[port["name"]][:1] = numpy.nan
        found += [port["name"]] if _is_finite(numpy, source, feeds) else []
    return {"missing": found} if found else {}


def _is_finite(numpy: Any, source: SourceModel, feeds: Mapping[str, Any]) -> bool:
    """Say whether a source answers with numbers, all of which are finite."""
    try:
        answers = source.run(feeds)
    except Exception:  # model code and runtimes raise whatever they like: it takes none
        return False
    floats = [array for array in answers if array.dtype.kind == "f"]
    return bool(floats) and all(numpy.isfinite(array).all() for array in floats)


def correct_output_shapes(model: Any, seen: Sequence[Observation]) -> None:
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
            own = f"{value.name}_{index}"
            found = _axis(axis.dim_param or axis.dim_value, lengths, OF_DATA + own if _moved(lengths) else own)
            axis.dim_param, axis.dim_value = "", 0
            setattr(axis, "dim_value" if isinstance(found, int) else "dim_param", found)


def _moved(seen: Sequence[tuple[Mapping[str, int], int]]) -> bool:
    """Say whether an axis had another length where only values differed."""
    return any(first == other and length != last for first, length in seen for other, last in seen)


def _axis(stated: int | str, seen: Sequence[tuple[Mapping[str, int], int]], own: str) -> int | str:
    """Return the length or name of an output's axis: the stated one if that was seen, else what was, else `own`.

    What was seen is a dimension, a formula of some, or one length; else `own`.
    """
    dimensions = seen[0][0]
    if all(length == stated for _, length in seen):
        return stated
    fitting = [name for name in dimensions if all(length == lengths[name] for lengths, length in seen)]
    if fitting:
        return stated if stated in fitting else fitting[0]
    if isinstance(stated, str) and all(evaluate(stated, lengths) == length for lengths, length in seen):
        return stated  # an expression such as `2*batch`
    if len({length for _, length in seen}) == 1 and (stated == seen[0][1] or not dimensions or _varied(seen)):
        return seen[0][1]
    return next(_formulas(seen), own)


def _varied(seen: Sequence[tuple[Mapping[str, int], int]]) -> list[str]:
    """Return the dimensions that had at least three lengths."""
    return [name for name in seen[0][0] if len({lengths[name] for lengths, _ in seen}) > 2]


def _formulas(seen: Sequence[tuple[Mapping[str, int], int]]) -> Iterator[str]:
    """Yield formulas of dimensions that hold in all runs: multiples and parts of one, shifted, products of two."""
    varied = _varied(seen)
    if len({length for _, length in seen}) == 1:
        return
    (least, got), (most, last) = seen[0], max(seen, key=lambda run: sum(run[0].values()))
    tried: list[str] = []
    for name in varied:
        rate = (last - got) // max(most[name] - least[name], 1)
        for factor in {rate, rate + 1} - {0}:
            base = name if factor == 1 else f"{factor}*{name}"
            shift = got - factor * least[name]
            tried.append(base if not shift else f"{base}{shift:+d}")
        tried += [form.format(name, part) for part in _PARTS for form in ("{}//{}", "ceil({}/{})", "{}//{}+1")]
    tried += [f"{a}*{b}" for a, b in itertools.combinations(varied, 2)]
    yield from (text for text in tried if all(evaluate(text, lengths) == length for lengths, length in seen))
