# SPDX-License-Identifier: Apache-2.0
"""The lengths an axis takes: a span with or without an end, multiples of a step, a list, or single lengths besides.

The same form states what a recipe promises, what a build measured, and what a server accepts (the limit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from packager.canonical import JSON

MAX_LISTED = 256
_LISTS = ("values", "remainders", "also")
OF_DATA = "data_"
"""Begins the name of an output's axis whose length depends on values."""
FOLLOWS = r" *= *(([1-9][0-9]{0,5}) *\* *)?([A-Za-z_][A-Za-z0-9_]{0,127}) *"
"""`= batch` or `= 4 * width`: as long as another dimension, or so many times as long."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """From `low` to `high` (None: without end), multiples of `step`, and those of `also`; or only those `listed`.

    `remainders` are of the division by `step`: lengths that leave one of them are in the span, too. `also` holds single
    lengths outside the span. All three lists are in ascending order.
    """

    low: int = 1
    high: int | None = None
    step: int = 1
    listed: tuple[int, ...] = ()
    remainders: tuple[int, ...] = ()
    also: tuple[int, ...] = ()

    @staticmethod
    def of(values: Iterable[int]) -> Lengths:
        """Return the lengths of a list."""
        found = tuple(sorted(set(values)))
        return Lengths(found[0], found[-1], 1, found)

    def __contains__(self, length: int) -> bool:
        inside = self.low <= length and (self.high is None or length <= self.high)
        fits = length in self.listed if self.listed else length % self.step in (0, *self.remainders)
        return (inside and fits) or length in self.also

    def near(self, length: int) -> int:
        """Return the largest multiple of the step, or listed length, that is not above `length`; else the smallest.

        `remainders` and `also` do not count: what is measured are multiples.
        """
        if self.listed:
            return max((n for n in self.listed if n <= length), default=self.listed[0])
        first = -(-self.low // self.step) * self.step
        below = min(length, length if self.high is None else self.high)
        return max(first, below - below % self.step)

    def within(self, other: Lengths) -> bool:
        """Say whether `other` takes every one of these lengths."""
        if not all(length in other for length in (*self.listed, *self.also)):
            return False
        if self.listed:
            return True
        starts = [self.low + (rest - self.low) % self.step for rest in (0, *self.remainders)]
        if self.high is not None and (self.high - self.low) // self.step < MAX_LISTED:
            return all(length in other for start in starts for length in range(start, self.high + 1, self.step))
        ends = other.low <= min(starts) and (other.high is None or (self.high is not None and self.high <= other.high))
        fits = all(start % other.step in (0, *other.remainders) for start in starts)
        return ends and self.step % other.step == 0 and fits and not other.listed

    def to_json(self) -> JSON:
        """Return `min`, and of the other members those that differ from the default."""
        known = {
            "max": self.high,
            "step": self.step if self.step > 1 else None,
            "values": list(self.listed) or None,
            "remainders": list(self.remainders) or None,
            "also": list(self.also) or None,
        }
        return {"min": self.low} | {name: value for name, value in known.items() if value is not None}

    @staticmethod
    def from_json(value: JSON) -> Lengths:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for another form."""
        if unknown := sorted(set(value) - {"min", "max", "step", *_LISTS}):
            raise ValueError(f"lengths have the unknown member `{unknown[0]:.60}`")
        low, high, step = value["min"], value.get("max"), value.get("step", 1)
        lists = [value.get(name, []) for name in _LISTS]
        if not all(isinstance(item, list) and len(item) <= MAX_LISTED for item in lists):
            raise ValueError(f"expected lists of at most {MAX_LISTED} lengths, got `{value!s:.80}`")
        listed, remainders, also = map(tuple, lists)
        numbers = [low, step, *listed, *remainders, *also, *([] if high is None else [high])]
        if any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError(f"expected lengths from 1, got `{value!s:.80}`")
        span = Lengths(low, high, step, listed, remainders)
        found = replace(span, also=also)
        ordered = all(item == sorted(set(item)) for item in lists) and all(rest < step for rest in remainders)
        if not ordered or (listed and found != Lengths.of(listed)) or any(length in span for length in also):
            raise ValueError(f"lengths `{value!s:.80}` contradict each other")
        if high is not None and not low <= found.near(high) <= high:
            raise ValueError(f"dimension [{low}, {high}] is empty")
        return found

    def __str__(self) -> str:
        if self.also:
            return f"{replace(self, also=())}, and {_listed(self.also)}"
        if self.listed:
            return _listed(self.listed)
        rests = f" (and remainders {_listed(self.remainders)})" if self.remainders else ""
        multiples = f"multiples of {self.step}{rests} from " if self.step > 1 else ""
        if self.high is None:
            return f"{multiples or 'from '}{self.low} on" if multiples or self.low > 1 else "any length"
        return str(self.low) if self.low == self.high else f"{multiples}{self.low} to {self.high}"


def _listed(values: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown} … {values[-1]} ({len(values)})" if len(values) > 9 else ", ".join(map(str, values))


@dataclass(frozen=True, slots=True)
class Axis:
    """What a recipe says of a dimension: lengths that are taken, a span to measure, another dimension it follows.

    A span is a promise: a build that does not reach its end says so. Without one what can be measured is measured.
    """

    limit: Lengths = Lengths()
    measure: tuple[int, int] | None = None
    tied: tuple[int, str] | None = None

    @staticmethod
    def span(low: int, high: int) -> Axis:
        """Return the axis that takes these lengths alone, all of which are measured."""
        return Axis(Lengths(low, high))

    @property
    def promised(self) -> tuple[int, int] | None:
        """The span whose measurement is promised: the stated one, else the limit where it has an end."""
        if self.measure or self.tied or self.limit.high is None:
            return self.measure
        return self.limit.near(0), self.limit.near(self.limit.high)

    def to_json(self) -> JSON:
        """Return it as a recipe writes it."""
        if self.tied:
            return f"= {_times(self.tied)}"
        if self == Axis():
            return "default"
        if self.measure is None and self.limit == Lengths(self.limit.low, self.limit.high) and self.limit.high:
            return [self.limit.low, self.limit.high]
        known = {"values": list(self.limit.listed)} if self.limit.listed else self.limit.to_json()
        if known.get("min") == 1:
            del known["min"]
        return known | ({"measure": list(self.measure)} if self.measure else {})

    @staticmethod
    def from_json(value: JSON) -> Axis:
        """Read what `to_json` wrote."""
        if isinstance(value, str):
            follows = re.fullmatch(FOLLOWS, value)
            return Axis(tied=(int(follows[2] or 1), follows[3])) if follows else Axis()
        if not isinstance(value, dict):
            return Axis.span(*value)
        measure = value.get("measure")
        rest = {name: member for name, member in value.items() if name != "measure"}
        limit = Lengths.of(rest["values"]) if "values" in rest else Lengths.from_json({"min": 1, **rest})
        return Axis(limit, tuple(measure) if measure else None)


@dataclass(frozen=True, slots=True)
class Measured:
    """One dimension of an interface: the lengths that a build ran, and those that are taken (the limit).

    `tied` is a factor and another dimension: this one is always so many times as long.
    """

    lengths: Lengths
    limit: Lengths
    tied: tuple[int, str] | None = None

    def to_json(self) -> JSON:
        """Return what was measured, with `limit` where that is something else, and `is` for what it follows."""
        tied = {"is": list(self.tied)} if self.tied else {}
        limit = {} if self.limit == self.lengths else {"limit": self.limit.to_json()}
        return {**self.lengths.to_json(), **limit, **tied}

    @staticmethod
    def from_json(value: JSON) -> Measured:
        """Read what `to_json` wrote; without a limit, as in all contracts of format 1, it is what was measured."""
        own = {name: member for name, member in value.items() if name not in ("limit", "is")}
        lengths = Lengths.from_json(own)
        if lengths.high is None:
            raise ValueError("what was measured has no end")
        limit = Lengths.from_json(value["limit"]) if "limit" in value else lengths
        tied = value.get("is")
        if tied is None:
            return Measured(lengths, limit)
        factor, name = tied
        if type(factor) is not int or factor < 1 or not isinstance(name, str):
            raise ValueError(f"`{tied!s:.60}` is no factor of a dimension")
        return Measured(lengths, limit, (factor, name))

    @property
    def high(self) -> int:
        """The longest length that was measured."""
        return self.lengths.high or self.lengths.low

    def __str__(self) -> str:
        follows = f"= {_times(self.tied)}; " if self.tied else ""
        if self.limit == self.lengths:
            return f"{follows}{self.lengths}, measured; others are refused"
        beyond = "any other is taken" if self.limit == Lengths() else f"taken: {self.limit}"
        return f"{follows}measured {self.lengths}; {beyond}"


def _times(tied: tuple[int, str]) -> str:
    return tied[1] if tied[0] == 1 else f"{tied[0]} * {tied[1]}"


_TERM = r"[A-Za-z_][A-Za-z0-9_]*"
_FORMULA = re.compile(
    rf"(?:(?P<factor>[0-9]{{1,9}})\*)?(?P<name>{_TERM})(?://(?P<part>[1-9][0-9]{{0,8}}))?(?P<shift>[+-][0-9]{{1,9}})?"
    rf"|(?P<first>{_TERM})\*(?P<second>{_TERM})|ceil\((?P<above>{_TERM})/(?P<parts>[1-9][0-9]{{0,8}})\)"
)


def evaluate(text: str, lengths: Mapping[str, int]) -> int | None:
    """Return what a formula such as `4*width+1`, `width//8`, `ceil(width/8)` or `a*b` is; None where it is no such."""
    found = _FORMULA.fullmatch(text)
    if found is None or any(found[name] not in lengths for name in ("name", "first", "second", "above") if found[name]):
        return None
    if found["first"]:
        return lengths[found["first"]] * lengths[found["second"]]
    if found["above"]:
        return -(-lengths[found["above"]] // int(found["parts"]))
    value = int(found["factor"] or 1) * lengths[found["name"]]
    return value // int(found["part"] or 1) + int(found["shift"] or 0)
