# SPDX-License-Identifier: Apache-2.0
"""Which lengths an axis takes: a span with or without an end, multiples of something, or a list.

The same form says three things: what a recipe promises, what a build measured, and what a server refuses (the limit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packager.canonical import JSON

MAX_LISTED = 256
OF_DATA = "data_"
"""Begins the name of an output's axis whose length depends on values."""
FOLLOWS = r" *= *(([1-9][0-9]{0,5}) *\* *)?([A-Za-z_][A-Za-z0-9_]{0,127}) *"
"""`= batch` or `= 4 * width`: as long as another dimension, or so many times as long."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """From `low` to `high` (None: without end), multiples of `step`; or those `listed`, in order, and no others."""

    low: int = 1
    high: int | None = None
    step: int = 1
    listed: tuple[int, ...] = ()

    @staticmethod
    def of(values: Iterable[int]) -> Lengths:
        """Return the lengths of a list."""
        found = tuple(sorted(set(values)))
        return Lengths(found[0], found[-1], 1, found)

    def __contains__(self, length: int) -> bool:
        inside = self.low <= length and (self.high is None or length <= self.high)
        return inside and length % self.step == 0 and (not self.listed or length in self.listed)

    def near(self, length: int) -> int:
        """Return the largest length that is taken and not above `length`, else the smallest."""
        if self.listed:
            return max((n for n in self.listed if n <= length), default=self.listed[0])
        first = -(-self.low // self.step) * self.step
        below = min(length, length if self.high is None else self.high)
        return max(first, below - below % self.step)

    def within(self, other: Lengths) -> bool:
        """Say whether `other` takes every one of these lengths."""
        if self.listed:
            return all(length in other for length in self.listed)
        if other.listed:
            return self.high is not None and all(n in other for n in range(self.near(0), self.high + 1, self.step))
        ends = other.low <= self.near(0) and (other.high is None or (self.high is not None and self.high <= other.high))
        return ends and (self.step % other.step == 0 or self.near(0) == self.high)

    def to_json(self) -> JSON:
        """Return `min`, and of `max`, `step` and `values` those that say something."""
        known = {"max": self.high, "step": self.step if self.step > 1 else None, "values": list(self.listed) or None}
        return {"min": self.low} | {name: value for name, value in known.items() if value is not None}

    @staticmethod
    def from_json(value: JSON) -> Lengths:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError for another form."""
        if unknown := sorted(set(value) - {"min", "max", "step", "values"}):
            raise ValueError(f"lengths have the unknown member `{unknown[0]:.60}`")
        low, high, step = value["min"], value.get("max"), value.get("step", 1)
        listed = value.get("values", [])
        numbers = [low, step, *listed, *([] if high is None else [high])]
        if not isinstance(listed, list) or any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError(f"expected lengths from 1, got `{value!s:.80}`")
        found = Lengths(low, high, step, tuple(listed))
        if len(listed) > MAX_LISTED or (listed and found != Lengths.of(listed)):
            raise ValueError(f"lengths `{value!s:.80}` contradict each other")
        if high is not None and not low <= found.near(high) <= high:
            raise ValueError(f"dimension [{low}, {high}] is empty")
        return found

    def __str__(self) -> str:
        if self.listed:
            return _listed(self.listed)
        multiples = f"multiples of {self.step} from " if self.step > 1 else ""
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
