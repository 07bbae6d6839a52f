# SPDX-License-Identifier: Apache-2.0
"""The inputs that parity is measured on: seeded, within the promised ranges, and where graphs usually break.

Every named dimension is swept over its low end, the next length, a prime in its middle and its high end while the
others stay small; then edge values at small lengths. Where the source lists samples (values that its own structure
makes critical), they are drawn instead, and cases are added until each was used `ROUNDS` times, in other company each
time. The cases follow from the interface, the samples and a seed alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from packager.canonical import JSON
from packager.errors import PackagerError, StepError

Fill: TypeAlias = Literal["random", "zeros", "low", "high", "listed", "given"]
Samples: TypeAlias = Mapping[str, Any]  # for an input: a numpy array whose first axis lists rows to draw from

ROUNDS = 2

_FLOATS = 1 << 20  # elements of one input and case, so that the eager reference takes seconds on one thread
_UNSTATED = {"uint8": (0, 255), "int8": (-128, 127)}  # bytes are data; wider integers are more often indices: 0 and 1
_INTEGERS = 1 << 12  # an index costs a whole network per element
_ROWS = 256  # of one case that goes through samples
_TEXTS = (
    "", " ", "a", "Hello, World", "don't", "Straße", "café", "cafe\u0301", "İstanbul", "ΟΔΟΣ", "你好，世界", "😀",
    "\t\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: the length of every dimension, and how values are chosen.

    A `listed` case takes the samples of every input in a shuffled order of its own, from place `first` on.
    """

    name: str
    lengths: Mapping[str, int]
    fill: Fill = "random"
    first: int = 0


def cases(interface: JSON, samples: Samples | None = None) -> list[Case]:
    """Return the cases of an interface (its JSON form), without duplicates, in a fixed order."""
    samples = samples or {}
    ranges = {name: (bounds["min"], bounds["max"]) for name, bounds in sorted(interface["dimensions"].items())}
    small = {name: min(high, max(low, 3 + 4 * index)) for index, (name, (low, high)) in enumerate(ranges.items())}
    found = [_case({**small, name: length}) for name, bounds in ranges.items() for length in _sweep(*bounds)]
    found.append(_case({name: low for name, (low, _) in ranges.items()}))
    edges: tuple[Fill, ...] = ("zeros", "low", "high")
    if any(port["name"] not in samples for port in interface["inputs"]):
        found += [_case(small, fill) for fill in edges]
    fitted = [_fit(case, interface, ranges) for case in found]
    return list({case.name: case for case in (*fitted, *_listed(interface, ranges, small, samples))}.values())


def _listed(
    interface: JSON, ranges: Mapping[str, tuple[int, int]], small: Mapping[str, int], samples: Samples
) -> list[Case]:
    """Return the cases that go through every sample, in batches as large as the first axis of the inputs may be."""
    rows = {port["shape"][0] for port in interface["inputs"] if port["name"] in samples}
    total = ROUNDS * max((len(values) for values in samples.values()), default=0)
    if not total:
        return []
    lengths = {**small, **{axis: min(ranges[axis][1], _ROWS) for axis in rows if axis in ranges}}
    step = min((lengths.get(axis, axis) for axis in rows), default=1)
    at = named(lengths)
    return [Case(f"listed from {first} at {at}", lengths, "listed", first) for first in range(0, total, step)]


def _case(lengths: Mapping[str, int], fill: Fill = "random") -> Case:
    return Case(named(lengths) if fill == "random" else f"{fill} at {named(lengths)}", lengths, fill)


def named(lengths: Mapping[str, int]) -> str:
    """Return the lengths as a person reads them."""
    return ", ".join(f"{name}={length}" for name, length in lengths.items()) or "fixed shapes"


def _sweep(low: int, high: int) -> list[int]:
    middle = next((n for n in range((low + high) // 2, high) if _is_prime(n)), (low + high) // 2)
    return sorted({low, min(low + 1, high), middle, high})


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _fit(case: Case, interface: JSON, ranges: Mapping[str, tuple[int, int]]) -> Case:
    """Shorten the longest dimension until no input is larger than the budget; the name then says what was run."""
    lengths = dict(case.lengths)
    while lengths and _excess(interface, lengths) > 1:
        name = max(lengths, key=lambda dimension: lengths[dimension])
        shorter = max(ranges[name][0], int(lengths[name] / _excess(interface, lengths)))
        if shorter == lengths[name]:
            break
        lengths[name] = shorter
    return case if lengths == case.lengths else _case(lengths, case.fill)


def _excess(interface: JSON, lengths: Mapping[str, int]) -> float:
    return max((_elements(port, lengths) / _budget(port) for port in interface["inputs"]), default=0.0)


def _budget(port: JSON) -> int:
    return _FLOATS if port["dtype"].startswith("float") else _INTEGERS


def _elements(port: JSON, lengths: Mapping[str, int]) -> int:
    count = 1
    for axis in shape(port, lengths):
        count *= axis
    return count


def shape(port: JSON, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a port at the given lengths of the named dimensions."""
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in port["shape"])


def longest(done: list[Case], interface: JSON) -> JSON:
    """Return for every dimension the longest length among `done` that is shorter than its promised maximum."""
    reached = {name: max(case.lengths[name] for case in done) for name in interface["dimensions"]}
    return {name: length for name, length in reached.items() if length < interface["dimensions"][name]["max"]}


def feeds(
    interface: JSON, ranges: Mapping[str, JSON], case: Case, seed: int, samples: Samples | None = None
) -> dict[str, Any]:
    """Return the numpy arrays of one case. The same interface, case, seed and samples give the same values.

    Raises StepError for an input that numpy has no numbers for.
    """
    numpy = importlib.import_module("numpy")
    words = [seed, *case.name.encode()]
    generator = numpy.random.Generator(numpy.random.PCG64(words))
    made = {}
    for port in interface["inputs"]:
        rows = (samples or {}).get(port["name"])
        if rows is None:
            values = _values(numpy, generator, port, ranges.get(port["name"]), case)
        else:
            values = _drawn(numpy, generator, port, rows, case, seed)
        made[port["name"]] = values.astype("object" if port["dtype"] == "string" else port["dtype"])
    return made


def _drawn(numpy: Any, generator: Any, port: JSON, rows: Any, case: Case, seed: int) -> Any:
    """Return samples of a port: at random, or, in a listed case, its stretch of one shuffled order after the other."""
    count = shape(port, case.lengths)[0]
    if case.fill != "listed":
        return rows[generator.integers(0, len(rows), size=count)]
    order = numpy.random.Generator(numpy.random.PCG64([seed, *port["name"].encode()]))
    rounds = -(-(case.first + count) // len(rows))
    places = numpy.concatenate([order.permutation(len(rows)) for _ in range(rounds)])
    return rows[places[case.first : case.first + count]]


def _check_numeric(port: JSON) -> None:
    if port["dtype"] == "bfloat16":
        raise StepError(
            f"input `{port['name']}` is {port['dtype']}, for which no test inputs can be made",
            hint="export the model with integer or float32 inputs",
        )


def _values(numpy: Any, generator: Any, port: JSON, bounds: JSON, case: Case) -> Any:
    _check_numeric(port)
    size = shape(port, case.lengths)
    role = port["name"].rsplit(".", 1)[-1]
    if role.endswith("attention_mask"):
        return _mask(numpy, generator, size) if case.fill == "random" else numpy.ones(size)
    if port["dtype"] == "string":
        return numpy.array(_TEXTS, dtype="object")[generator.integers(0, len(_TEXTS), size=size)]
    whole = not port["dtype"].startswith("float")
    low, high = bounds or _UNSTATED.get(port["dtype"], (0, 1) if whole else (-1, 1))
    if case.fill in ("zeros", "low", "high"):
        return numpy.full(size, {"zeros": min(max(0, low), high), "low": low, "high": high}[case.fill])
    if whole:
        return generator.integers(int(low), int(high), size=size, endpoint=True)
    return low + (high - low) * generator.random(size) if bounds else generator.standard_normal(size)


def _mask(numpy: Any, generator: Any, size: tuple[int, ...]) -> Any:
    """Return prefixes of ones: one row without padding, one with a single token, the others of random lengths."""
    rows = generator.integers(1, size[-1], size=size[:-1], endpoint=True)
    flat = rows.reshape(-1)
    flat[:1] = size[-1]
    flat[1:][-1:] = 1
    return numpy.arange(size[-1]) < rows[..., None]


def attempt(who: str, case: Case, run: Callable[[Any], Sequence[Any]], given: Mapping[str, Any]) -> list[Any]:
    """Run one side on the inputs of a case; the StepError of a failure names the inputs it happened on."""
    try:
        return list(run(given))
    except PackagerError:
        raise
    except Exception as error:  # model code and runtimes raise whatever they like
        raise StepError(
            f"the {who} fails on inputs within the promised ranges ({case.name}): {first_line(error)}",
            hint="narrow the ranges under `dynamic` and `inputs` to what the model accepts",
        ) from error


def first_line(error: Exception) -> str:
    """Return the class and the first line of a foreign error."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]:.300}"
