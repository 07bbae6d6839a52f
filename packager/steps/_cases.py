# SPDX-License-Identifier: Apache-2.0
"""Inputs that parity is measured on: seeded, within the promised ranges, and at values where graphs usually break.

Every named dimension is swept over its low end, the next length, a prime in its middle and its high end while the
others stay small; then edge values at small lengths. Where the source lists samples (values that its own structure
makes critical), they are drawn instead, and cases are added until each was used `ROUNDS` times, beside other rows each
time. The cases follow from the interface, the samples, an estimate of the work and a seed alone (ADR 150).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from packager import error_causes
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.exporters._interface.described import lacking_locale
from packager.exporters._interface.integers import counted_axes
from packager.recipe.lengths import Lengths, Measured
from packager.steps import _numbers

Fill: TypeAlias = Literal["random", "zeros", "low", "high", "listed", "given"]
Samples: TypeAlias = Mapping[str, Any]  # for an input: an array whose first axis lists rows, or what draws itself
Run: TypeAlias = Callable[[Any], Sequence[Any]]
Work: TypeAlias = Callable[[Mapping[str, int]], "float | None"]

ROUNDS = 2
_LONG = 1024  # a span to beyond it is run at growing lengths, too

_FLOATS = 1 << 22  # elements of one input and case, where the source does not say what a run costs
_INTEGERS = 1 << 12  # the same of integers: an index costs a whole network per element
_BYTES = 1 << 28  # of one input, whatever a run costs
_WORK = 1e12  # multiplications and additions of one run: some 20 seconds of one thread
_ROWS = 256  # of one case that goes through samples
_TEXTS = (
    "",
    " ",
    "a",
    "Hello, World",
    "don't",
    "Straße",
    "café",
    "cafe\u0301",
    "İstanbul",
    "ΟΔΟΣ",
    "你好，世界",
    "😀",
    "\t\n",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: the length of every dimension, and how values are chosen.

    A `listed` case takes the samples of every input in its own shuffled order, from position `first` on.
    """

    name: str
    lengths: Mapping[str, int]
    fill: Fill = "random"
    first: int = 0


def build_cases(interface: JSON, samples: Samples | None = None, work: Work | None = None) -> list[Case]:
    """Return the cases of an interface (its JSON form), without duplicates, in a fixed order.

    `work` estimates the operations of one run at given lengths; a case beyond the budget is shortened.
    """
    samples = _rows_of(samples)
    ranges = read_spans(interface)
    few = {name: max(span.lengths.low, 3 + 4 * index) for index, (name, span) in enumerate(ranges.items())}
    small = apply_ties(ranges, {name: span.lengths.near(few[name]) for name, span in ranges.items()})
    free = {name: span.lengths for name, span in ranges.items() if not span.tied}
    swept = [{**small, name: length} for name, span in free.items() for length in _sweep(span)]
    found = [_case(apply_ties(ranges, lengths)) for lengths in (*swept, shortest_lengths(interface))]
    edges: tuple[Fill, ...] = ("zeros", "low", "high")
    if any(port["name"] not in samples for port in interface["inputs"]):
        found += [_case(small, fill) for fill in edges]
    budget = _Budget(interface, work)
    fitted = [_fit(case, budget, ranges) for case in found]
    return list({case.name: case for case in (*fitted, *_listed(interface, ranges, small, samples))}.values())


def read_spans(interface: JSON) -> dict[str, Measured]:
    """Return the dimensions of an interface, by name."""
    return {name: Measured.from_json(span) for name, span in sorted(interface["dimensions"].items())}


def shortest_lengths(interface: JSON) -> dict[str, int]:
    """Return the shortest length of every dimension."""
    found = read_spans(interface)
    return apply_ties(found, {name: span.lengths.near(0) for name, span in found.items()})


def apply_ties(ranges: Mapping[str, Measured], lengths: Mapping[str, int]) -> dict[str, int]:
    """Return lengths in which every dimension that follows another one does."""
    ties = {name: span.tied for name, span in ranges.items() if span.tied}
    return {**lengths, **{name: factor * lengths[other] for name, (factor, other) in ties.items()}}


def _rows_of(samples: Samples | None) -> Samples:
    """Return the inputs that have rows to draw from; what draws itself, such as a mask, has none."""
    return {name: rows for name, rows in (samples or {}).items() if hasattr(rows, "shape")}


def _listed(interface: JSON, ranges: Mapping[str, Measured], small: Mapping[str, int], samples: Samples) -> list[Case]:
    """Return the cases that go through every sample, in batches as large as the first axis of the inputs may be."""
    rows = {port["shape"][0] for port in interface["inputs"] if port["name"] in samples}
    total = ROUNDS * max((len(values) for values in samples.values()), default=0)
    if not total:
        return []
    longest = {axis: ranges[axis].lengths.near(_ROWS) for axis in rows if axis in ranges}
    lengths = apply_ties(ranges, {**small, **longest})
    step = min((lengths.get(axis, axis) for axis in rows), default=1)
    at = describe_lengths(lengths)
    return [Case(f"listed from {first} at {at}", lengths, "listed", first) for first in range(0, total, step)]


def _case(lengths: Mapping[str, int], fill: Fill = "random") -> Case:
    return Case(
        describe_lengths(lengths) if fill == "random" else f"{fill} at {describe_lengths(lengths)}", lengths, fill
    )


def describe_lengths(lengths: Mapping[str, int]) -> str:
    """Return the lengths as a person reads them."""
    return ", ".join(f"{name}={length}" for name, length in lengths.items()) or "fixed shapes"


def _sweep(span: Lengths) -> list[int]:
    """Return lengths to run: the first two, growing ones where the span is long, one in the middle, the last."""
    low, high = span.near(0), span.high or span.low
    middle = next((n for n in range((low + high) // 2, high) if _is_prime(n)), (low + high) // 2)
    second = span.listed[1] if len(span.listed) > 1 else low + span.step
    growing = [low << shift for shift in range(6, 30, 3) if low << shift < high // 2] if high > _LONG else []
    return sorted({low, span.near(min(second, high)), *map(span.near, growing), span.near(middle), span.near(high)})


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


@dataclass(frozen=True, slots=True)
class _Budget:
    """What one case may cost. It follows from shapes alone, so that every build has the same cases."""

    interface: JSON
    work: Work | None

    def excess(self, lengths: Mapping[str, int]) -> float:
        """Return by what factor a case at these lengths is too large, at most 1 for one that is not."""
        work = self.work(lengths) if self.work else None
        parts = [_elements(port, lengths) / self._elements(port, work) for port in self.interface["inputs"]]
        return max([*parts, (work or 0.0) / _WORK], default=0.0)

    def _elements(self, port: JSON, work: float | None) -> float:
        if work is not None:
            return _BYTES / 8
        return _FLOATS if port["dtype"].startswith("float") else _INTEGERS


def _fit(case: Case, budget: _Budget, ranges: Mapping[str, Measured]) -> Case:
    """Shorten the longest dimension until the case is within the budget; the name then says what was run."""
    lengths = dict(case.lengths)
    free = [name for name, span in ranges.items() if not span.tied]
    while free and (excess := budget.excess(lengths)) > 1:
        name = max(free, key=lambda dimension: lengths[dimension])
        shorter = ranges[name].lengths.near(int(lengths[name] / excess))
        if shorter >= lengths[name]:
            break
        lengths = apply_ties(ranges, {**lengths, name: shorter})
    return case if lengths == case.lengths else _case(lengths, case.fill)


def _elements(port: JSON, lengths: Mapping[str, int]) -> int:
    count = 1
    for axis in shape_at(port, lengths):
        count *= axis
    return count


def shape_at(port: JSON, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a port at the given lengths of the named dimensions."""
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in port["shape"])


def shortened_dimensions(done: list[Case], interface: JSON) -> JSON:
    """Return for every dimension the longest length among `done` that is shorter than its promised maximum."""
    ends = {name: span.lengths.near(span.high) for name, span in read_spans(interface).items() if not span.tied}
    reached = {name: max(case.lengths[name] for case in done) for name in ends}
    return {name: length for name, length in reached.items() if length < ends[name]}


def draw_feeds(
    interface: JSON,
    ranges: Mapping[str, JSON],
    case: Case,
    seed: int,
    samples: Samples | None = None,
    choices: Mapping[str, JSON] | None = None,
) -> dict[str, Any]:
    """Return the numpy arrays of one case. The same arguments give the same values.

    `choices` lists all values of an input.

    Raises StepError for an input that numpy has no numbers for.
    """
    numpy = importlib.import_module("numpy")
    words = [seed, *case.name.encode()]
    generator = numpy.random.Generator(numpy.random.PCG64(words))
    made = {}
    for port in interface["inputs"]:
        rows = (samples or {}).get(port["name"])
        listed = (choices or {}).get(port["name"])
        if listed:
            made[port["name"]] = _chosen(numpy, generator, port, listed, case)
            continue
        axes = counted_axes(port["name"], port["shape"], [other["shape"] for other in interface["inputs"]])
        if rows is None and axes and port["dtype"].startswith(("int", "uint")) and port["name"] not in ranges:
            values = _lengths(generator, shape_at(port, case.lengths), min(case.lengths[axis] for axis in axes))
        elif rows is None:
            values = _values(generator, port, ranges.get(port["name"]), case, ties=not _counts(interface))
        elif hasattr(rows, "draw"):
            values = rows.draw(generator, shape_at(port, case.lengths), whole=case.fill not in ("random", "listed"))
        else:
            values = _drawn(numpy, generator, port, rows, case, seed)
        kind = "object" if port["dtype"] == "string" else port["dtype"]
        made[port["name"]] = numpy.asarray(values).astype(kind)  # of no axes, numpy draws a number and not an array
    return made


def _chosen(numpy: Any, generator: Any, port: JSON, listed: Sequence[Any], case: Case) -> Any:
    """Return values of a list: any of them, or the first or last one throughout."""
    size, kind = shape_at(port, case.lengths), "object" if port["dtype"] == "string" else port["dtype"]
    positions = {"zeros": 0, "low": 0, "high": len(listed) - 1}.get(case.fill)
    if positions is None:
        positions = generator.integers(0, len(listed), size=size)
    return numpy.broadcast_to(numpy.asarray(listed, kind)[positions], size).copy()


def _drawn(numpy: Any, generator: Any, port: JSON, rows: Any, case: Case, seed: int) -> Any:
    """Return samples of a port: at random, or, in a listed case, its stretch of one shuffled order after the other."""
    count = shape_at(port, case.lengths)[0]
    if case.fill != "listed":
        return rows[generator.integers(0, len(rows), size=count)]
    order = numpy.random.Generator(numpy.random.PCG64([seed, *port["name"].encode()]))
    rounds = -(-(case.first + count) // len(rows))
    positions = numpy.concatenate([order.permutation(len(rows)) for _ in range(rounds)])
    return rows[positions[case.first : case.first + count]]


def _check_numeric(port: JSON) -> None:
    if port["dtype"] == "bfloat16":
        raise StepError(
            f"input `{port['name']}` is {port['dtype']}, for which no test inputs can be made",
            hint="export the model with integer or float32 inputs",
        )


def _counts(interface: JSON) -> bool:
    """Say whether an output is a position or a label: where all inputs are equal, any of them is as good."""
    return any(not port["dtype"].startswith(("float", "bfloat")) for port in interface.get("outputs", ()))


def _values(generator: Any, port: JSON, bounds: JSON, case: Case, *, ties: bool) -> Any:
    numpy = importlib.import_module("numpy")
    _check_numeric(port)
    size, dtype = shape_at(port, case.lengths), port["dtype"]
    role = port["name"].rsplit(".", 1)[-1]
    if role.endswith("attention_mask") or (role.endswith("mask") and bounds == [0, 1] and "int" in dtype):
        return _mask(numpy, generator, size) if case.fill == "random" else numpy.ones(size)
    if dtype == "string":
        return numpy.array(_TEXTS, dtype="object")[generator.integers(0, len(_TEXTS), size=size)]
    if bounds is None and dtype in _numbers.OPEN:
        return _numbers.draw(generator, dtype, size, case.fill)
    whole = not dtype.startswith("float")
    low, high = bounds or ((0, 1) if whole else (-1, 1))
    edge = {"zeros": min(max(0, low), high), "low": low, "high": high}.get(case.fill)
    if edge is not None and ties:
        return numpy.full(size, edge)
    if whole:
        values = generator.integers(int(low), int(high), size=size, endpoint=True)
    else:
        values = low + (high - low) * generator.random(size) if bounds else generator.standard_normal(size)
    if edge is not None:
        values = numpy.asarray(values)
        _numbers.mark_rows(generator, values, edge)
    return values


def _lengths(generator: Any, size: tuple[int, ...], longest: int) -> Any:
    """Return how much of every row is used: all of the first, one of the last, a random share of the others."""
    found = generator.integers(1, longest, size=size, endpoint=True)
    found[-1:] = 1
    found[:1] = longest
    return found


def _mask(numpy: Any, generator: Any, size: tuple[int, ...]) -> Any:
    """Return prefixes of ones: one row without padding, one with a single token, the others of random lengths."""
    rows = generator.integers(1, size[-1], size=size[:-1], endpoint=True)
    flat = rows.reshape(-1)
    flat[:1] = size[-1]
    flat[1:][-1:] = 1
    return numpy.arange(size[-1]) < rows[..., None]


def run_or_explain(
    who: str, case: Case, run: Run, given: Mapping[str, Any], interface: JSON | None = None
) -> list[Any]:
    """Run one side, `source` or `artefact`, on the inputs of a case.

    The StepError of a failure says whose fault it is: of some values, of some lengths (known where the interface is
    given), of a file that never runs, or of a conversion.
    """
    try:
        return list(run(given))
    except PackagerError:
        raise
    except Exception as error:  # model code and runtimes raise whatever they like
        raise _failed(who, case, run, given, interface, error_causes.find_cause(error)) from error


def _failed(who: str, case: Case, run: Run, given: Mapping[str, Any], interface: JSON | None, line: str) -> StepError:
    if missing := lacking_locale(line, who):
        return missing
    others = any(_runs(run, _filled(given, number)) for number in (0, 1))
    if who == "artefact" and not others:
        return StepError(
            f"the converted graph does not run, although the source does: {line}",
            hint="the conversion is at fault, not the inputs: another version of the converter, or another form of "
            "the layer it names, may be converted",
        )
    if who == "artefact":
        return StepError(
            f"the {who} fails on inputs that the source answers ({case.name}): {line}", hint=f"{_NARROW} there as well"
        )
    if others or interface is None:
        return StepError(f"the {who} fails on inputs within the promised ranges ({case.name}): {line}", hint=_NARROW)
    if any(_runs(run, _constant(interface, shortest_lengths(interface), number)) for number in (0, 1)):
        return StepError(
            f"the {who} does not accept these lengths ({case.name}): {line}",
            hint="narrow the dimension under `dynamic`, or write its length as a number under `inputs`",
        )
    return StepError(
        f"the {who} does not run, whatever its inputs are: {line}",
        hint="the file is at fault, or needs another version of its library: run it where it was made, "
        "then save it again",
    )


def _runs(run: Run, given: Mapping[str, Any]) -> bool:
    try:
        run(given)
    except MemoryError:
        raise
    except Exception:  # as above: what it says was said already
        return False
    return True


def _filled(given: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return inputs of the same shapes that hold one number throughout; texts stay."""
    numpy = importlib.import_module("numpy")
    return {name: v if v.dtype.kind in "OUS" else numpy.full_like(v, number) for name, v in given.items()}


def _constant(interface: JSON, lengths: Mapping[str, int], number: int) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    return {
        port["name"]: numpy.full(shape_at(port, lengths), "a", dtype="object")
        if port["dtype"] == "string"
        else numpy.full(shape_at(port, lengths), number, dtype=port["dtype"])
        for port in interface["inputs"]
    }


_NARROW = "narrow the ranges under `dynamic` and `inputs` to what the model accepts"
