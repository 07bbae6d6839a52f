# SPDX-License-Identifier: Apache-2.0
"""Find the range of integer inputs that have none, by running the source, and state it in the interface.

An integer is a number, an index, a flag or a count, and its type does not say which. Wide values are tried first; where
the source raises (an index outside its table), gives infinities or NaN, or is lost in its own rounding, the widest
range that it answers is looked for. What a source refuses is no promise. Nothing here depends on the clock.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from packager.graph import value_flow

if TYPE_CHECKING:
    from packager.exporters import Arrays, Feeds, Interface, Port

Run: TypeAlias = "Callable[[Feeds], Arrays]"
Verdict: TypeAlias = Literal["fine", "raises", "vague"]

WIDEST = {"int64": (1 << 60) - 1, "int32": (1 << 31) - 1, "uint32": (1 << 32) - 1, "uint64": (1 << 60) - 1}
"""No powers of two: cast to 32 bits, those are 0."""
_MOST_ROUNDS = 64  # what a length or a count is tried up to: more is memory and time, not another answer
_TABLES = 8  # lengths of tables that are tried before searching
_VAGUE = 3e-5  # a float32 answer that far from the float64 one, of its largest number, would not be comparable
_LENGTHS = re.compile(r"(?i)(^|_)(len|lens|length|lengths)$")
_FEW = 0.01  # share of labels and positions that rounding may move
_NOISE = 8  # nor one so many times further away than for ordinary inputs


def bound_inputs(
    interface: Interface,
    run: Run,
    model: Any,
    given: Collection[str],
    exact: Callable[[], Run | None] | None = None,
) -> Interface:
    """Give integer inputs without a range the one in which the source answers; none where it answers everything.

    `model` is the graph made of the source, with the names of the interface; `given` are inputs that are measured on
    samples; `exact` opens the source in float64, where it can.
    """
    ports = [
        port
        for port in interface.inputs
        if port.range is None
        and port.dtype in WIDEST
        and port.name not in given
        and not counted_axes(port.name, port.shape, [other.shape for other in interface.inputs])
    ]
    trial = _trial(interface, run, exact() if exact else None) if ports else None
    if trial is None:
        return interface
    found: dict[str, tuple[int, int]] = {}
    firm: set[str] = set()
    for port in ports:
        search = _Search(trial, port, found, model.graph)
        if (span := search.span()) is not None:
            found[port.name] = span
            firm |= {port.name} if search.ends(span[1]) else set()
    fitted = (
        replace(port, range=found.get(port.name, port.range), firm=port.firm or port.name in firm)
        for port in interface.inputs
    )
    return replace(interface, inputs=tuple(fitted))


def find_answered_inputs(interface: Interface, longer: int) -> dict[str, Any]:
    """Return inputs that most sources answer, every named dimension `longer` than its shortest where it may be."""
    return dict(_Trial(interface, lambda feeds: [], None)._made({}, first=0, longer=longer))


def _trial(interface: Interface, run: Run, exact: Run | None) -> _Trial | None:
    """Return how to run the source: with the flags that let it answer, None if it does not answer anything.

    A flag may be a mask that hides everything. Where every answer has NaN in it, NaN is no evidence about integers.
    """
    trials = [_Trial(interface, run, exact, flag=flag) for flag in (False, True)]
    verdicts = [trial.verdict({}) for trial in trials]
    if "fine" in verdicts:
        return trials[verdicts.index("fine")].settled()
    if "vague" in verdicts:
        return replace(trials[verdicts.index("vague")], exact=None, finite=False)
    return None


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for the range of one port, while others have the ranges found before."""

    trial: _Trial
    port: Port
    others: Mapping[str, tuple[int, int]]
    main: Any

    def span(self) -> tuple[int, int] | None:
        """Return the range, None if there is no end to it."""
        if is_mask(self.port):
            return 0, 1
        widest = _MOST_ROUNDS if value_flow.sets_lengths(self.main, self.port.name) else WIDEST[self.port.dtype]
        lowest = 0 if self.port.dtype.startswith("u") else -widest
        if self._verdict(lowest, widest) == "fine":
            return None if widest == WIDEST[self.port.dtype] else (lowest, widest)
        high = self._reach(1, widest)
        low = self._reach(-1, -lowest)
        return (0 if low == high + 1 else -low), high  # ONNX counts from the end, which no index means

    def ends(self, high: int) -> bool:
        """Say whether the source refuses the number above: else it is only no longer exact, or takes long."""
        return not is_mask(self.port) and high < WIDEST[self.port.dtype] and self._answers(1, high + 1) == "raises"

    def _verdict(self, low: int, high: int) -> Verdict:
        return self.trial.verdict({**self.others, self.port.name: (low, high)})

    def _reach(self, sign: int, widest: int) -> int:
        """Return how far from zero the source answers on one side: a table's end, or by doubling, then halving."""
        for length in value_flow.table_lengths(self.main, self.port.name)[:_TABLES] if sign > 0 else ():
            if self._answers(sign, length - 1) == "fine" and self._answers(sign, length) == "raises":
                return length - 1
        fine, step, verdict = 0, 1, self._answers(sign, 1) if widest else "raises"
        while verdict == "fine" and step < widest:
            fine, step = step, min(step * 2, widest)
            verdict = self._answers(sign, step)
        if verdict == "fine":
            return step
        return fine if verdict == "vague" else self._halve(sign, fine, step)

    def _answers(self, sign: int, far: int) -> Verdict:
        return self._verdict(*sorted((0, sign * far)))

    def _halve(self, sign: int, fine: int, broken: int) -> int:
        while broken - fine > 1:
            middle = (fine + broken) // 2
            if self._answers(sign, middle) == "fine":
                fine = middle
            else:
                broken = middle
        return fine


@dataclass(frozen=True, slots=True)
class _Trial:
    """Runs of a source at its shortest lengths, where an index has the fewest positions to point to."""

    interface: Interface
    run: Run
    exact: Run | None
    flag: bool = False
    finite: bool = True
    noise: float = 0.0

    def verdict(self, spans: Mapping[str, tuple[int, int]]) -> Verdict:
        """Say how the source answers integers from these ranges, both ends included."""
        verdicts = {self._one(feeds) for feeds in self._feeds(spans)}
        return "raises" if "raises" in verdicts else "vague" if "vague" in verdicts else "fine"

    def _one(self, feeds: Feeds) -> Verdict:
        try:
            answers = self.run(feeds)
        except MemoryError:
            raise
        except Exception:  # model code and runtimes raise whatever they like
            return "raises"
        numpy = importlib.import_module("numpy")
        floats = [array for array in answers if array.dtype.kind == "f"]
        if self.finite and not all(numpy.isfinite(array).all() for array in floats):
            return "vague"
        limit = max(_VAGUE, _NOISE * self.noise)
        return "fine" if _distance(numpy, answers, self._exactly(feeds)) <= limit else "vague"

    def settled(self) -> _Trial:
        """Return the same trial, which knows how far float32 is off on ordinary inputs."""
        feeds = self._made({}, first=0, longer=6)
        try:
            answers = self.run(feeds)
        except Exception:  # longer inputs are no promise yet
            return self
        return replace(self, noise=_distance(importlib.import_module("numpy"), answers, self._exactly(feeds)))

    def _exactly(self, feeds: Feeds) -> Arrays | None:
        try:
            return self.exact(feeds) if self.exact else None
        except Exception:  # a module that insists on float32 cannot be run in float64
            return None

    def _feeds(self, spans: Mapping[str, tuple[int, int]]) -> Iterator[Feeds]:
        """Yield inputs in which every end of every range occurs, then longer ones, where rounding has room to show."""
        shortest = self._made(spans, first=0, longer=0)
        yield shortest
        if any(shortest[name].size == 1 for name in spans):
            yield self._made(spans, first=1, longer=0)
        if spans and self.exact:
            yield self._made(spans, first=0, longer=6)

    def _made(self, spans: Mapping[str, tuple[int, int]], first: int, longer: int) -> Feeds:
        numpy = importlib.import_module("numpy")
        generator = numpy.random.Generator(numpy.random.PCG64([first, longer]))
        lengths = {name: min(low + longer, high) for name, (low, high) in self.interface.dimensions.items()}
        made = {}
        for port in self.interface.inputs:
            size = tuple(lengths[axis] if isinstance(axis, str) else axis for axis in port.shape)
            made[port.name] = self._values(numpy, generator, port, size, spans.get(port.name), first)
        return made

    def _values(
        self, numpy: Any, generator: Any, port: Port, size: tuple[int, ...], span: tuple[int, int] | None, first: int
    ) -> Any:
        if port.dtype == "string":
            return numpy.full(size, "a", dtype="object")
        if port.dtype.startswith("float"):
            low, high = port.range or (-1, 1)
            return (low + (high - low) * generator.random(size)).astype(port.dtype)
        if port.dtype == "bool" or is_mask(port):
            return numpy.full(size, self.flag or port.dtype != "bool", dtype=port.dtype)
        ones = counted_axes(port.name, port.shape, [other.shape for other in self.interface.inputs])
        low, high = span or port.range or ((1, 1) if ones else (0, 0))
        values = generator.integers(int(low), int(high), size=size, endpoint=True)
        ends = numpy.array([low, high][first:])[: values.size]
        values.reshape(-1)[: len(ends)] = ends
        return values.astype(port.dtype)


def is_mask(port: Port) -> bool:
    """Say whether an input is a mask by its name: ones and zeros, whatever its type."""
    return port.name.rsplit(".", 1)[-1].endswith("mask")


def counted_axes(name: str, shape: Sequence[int | str], others: Sequence[Sequence[int | str]]) -> tuple[str, ...]:
    """Return the free axes that an input says the used length of, row by row (`input_lengths`); none if it does not.

    That is known by its name, as for masks: one number per row of other inputs, which have those axes.
    """
    if len(shape) != 1 or not isinstance(shape[0], str) or not _LENGTHS.search(name):
        return ()
    rows = (other[1:] for other in others if len(other) > 1 and other[0] == shape[0])
    return tuple(dict.fromkeys(axis for row in rows for axis in row if isinstance(axis, str)))


def _distance(numpy: Any, answers: Arrays, exact: Arrays | None) -> float:
    """Return how far answers are from those in float64, relative to the largest; 0 where nothing is known."""
    found = [0.0]
    for got, wanted in zip(answers, exact, strict=True) if exact is not None else ():
        if got.shape != wanted.shape:
            return math.inf
        if got.dtype.kind == "f":
            scale = max(1.0, float(abs(wanted).max(initial=0.0)))
            found.append(float(abs(got.astype("float64") - wanted).max(initial=0.0)) / scale)
        else:
            found.append(math.inf if (got != wanted).mean() > _FEW else 0.0)
    return max(found)
