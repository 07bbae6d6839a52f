# SPDX-License-Identifier: Apache-2.0
"""Distributions of columns, and how far new values lie from them: PSI and KS. The standard library alone.

A distribution holds no row. Of numbers it holds counts between quantiles that are rounded to a thousandth of their
spread, of texts those of their lengths, of categories the values that occur often. A bin holds nothing or at least
`LEAST` values, and a category is named where it occurs `LEAST` times, so what few people have is in no bundle.

Sources: N. Siddiqi, Credit Risk Scorecards (2006), for PSI and its bounds 0.1 and 0.25; B. Yurdakul and J. Naranjo,
Statistical properties of the population stability index, Journal of Risk Model Validation 14(4), 2020, for its
distribution where nothing has drifted; W. Cochran, Some methods for strengthening the common chi-squared tests,
Biometrics 10(4), 1954, for five expected values of a bin; Kolmogorov and Smirnov's statistic of two samples.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

LEAST = 10
"""Values that a bin or a category has at least."""
MOST_BINS = 100
MOST_FEATURES = 256  # of one tensor that are columns of their own
_MOST_CATEGORIES = 50
_LONGEST_CATEGORY = 64  # characters
_COVERED = 0.8  # of the values, by the categories that are named: what is below is a text
_GROUPS = 10  # bins of PSI, by convention
_EXPECTED = 5  # new values of a bin, at least
_FLOOR = 1e-4  # share of an empty bin in PSI
_MOST_NEW = 10_000  # values that are no named category and are counted one by one

Kind: TypeAlias = Literal["number", "text", "category"]
KINDS: tuple[Kind, ...] = ("number", "text", "category")
MISSING = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is known of one column: `counts` between `edges`, or of each of `values` and of all `other` ones.

    `counts[i]` is how many numbers lie above `edges[i - 1]` and not above `edges[i]`; of a text the number is its
    length in characters.
    """

    name: str
    kind: Kind
    missing: int = 0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
    other: int = 0

    @property
    def present(self) -> int:
        """How many values there are."""
        return sum(self.counts) if self.kind != "category" else sum(self.values.values()) + self.other

    @property
    def comparable(self) -> bool:
        """Whether there is more than one bin to count in."""
        return bool(self.values) if self.kind == "category" else bool(self.edges)

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {"name": self.name, "kind": self.kind, "missing": self.missing}
        if self.kind == "category":
            return {**about, "values": dict(self.values), "other": self.other}
        return {**about, "edges": list(self.edges), "counts": list(self.counts)}


def split_name(name: str) -> tuple[str, int | None]:
    """Return the input or output that a column is of, and its position there: `x[3]` is `x` and 3."""
    head, bracket, rest = name.rpartition("[")
    digits = rest.removesuffix("]")
    if bracket and rest.endswith("]") and digits.isdecimal() and digits.isascii() and head:
        return head, int(digits)
    return name, None


def name_columns(name: str, dtype: str, shape: Sequence[int | str]) -> list[str]:
    """Return the columns of a tensor: one for each feature of a matrix that has few, else one of all elements."""
    if len(shape) == 2 and isinstance(shape[1], int) and 1 < shape[1] <= MOST_FEATURES and dtype != "string":
        return [f"{name}[{index}]" for index in range(shape[1])]
    return [name]


def pick(value: Any, index: int | None) -> Iterator[Any]:
    """Yield the values that a cell has in a column: the element at `index`, or all elements of nested lists."""
    if index is not None:
        yield value[index] if isinstance(value, list) and index < len(value) else MISSING
    elif isinstance(value, list):
        for item in value:
            yield from pick(item, None)
    else:
        yield value


def as_number(value: Any) -> float | None:
    """Return a cell as a number; None for one that is missing, not finite or no number."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: Any) -> str | None:
    """Return a cell as a text; None for one that is missing or empty."""
    if value is None or value == "" or value != value:
        return None
    return value if isinstance(value, str) else str(value)


def describe_numbers(name: str, values: Iterable[Any], bins: int = MOST_BINS) -> Distribution:
    """Return the distribution of numbers. The same values give the same one, in any order and on any host."""
    cells = [as_number(value) for value in values]
    found = sorted(value for value in cells if value is not None)
    edges, counts = _bin(found, bins)
    return Distribution(name, "number", len(cells) - len(found), edges, counts)


def describe_texts(name: str, values: Iterable[Any], bins: int = MOST_BINS) -> Distribution:
    """Return the distribution of categories where few values are most of all, else that of lengths."""
    cells = [as_text(value) for value in values]
    found = [value for value in cells if value is not None]
    missing = len(cells) - len(found)
    often = {value: count for value, count in Counter(found).items() if count >= LEAST}
    named = sorted((item for item in often.items() if len(item[0]) <= _LONGEST_CATEGORY), key=lambda x: (-x[1], x[0]))
    kept = dict(sorted(named[:_MOST_CATEGORIES]))
    if found and sum(kept.values()) >= _COVERED * len(found):
        return Distribution(name, "category", missing, values=kept, other=len(found) - sum(kept.values()))
    edges, counts = _bin(sorted(float(len(value)) for value in found), bins)
    return Distribution(name, "text", missing, edges, counts)


def _bin(ordered: Sequence[float], bins: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return edges and counts of sorted numbers: bins of about equal mass, each with none or at least `LEAST`."""
    count = len(ordered)
    bins = min(bins, count // LEAST)
    if bins < 2:
        return (), (count,)
    quantiles = [ordered[-(-index * count // bins) - 1] for index in range(1, bins)]
    digits = 3 - _exponent(quantiles[-1] - quantiles[0] or abs(quantiles[0]))
    edges = {round(value, digits) for value in quantiles}
    low, high = ordered[0], ordered[-1]
    if bisect_right(ordered, low) >= LEAST:
        edges.add(round(low - float(f"1e{-digits}"), digits))
    if count - bisect_left(ordered, high) >= LEAST:
        edges.add(high)
    kept = sorted(edges)
    while True:
        counts = _count_sorted(ordered, kept)
        wrong = next(
            (i for i, found in enumerate(counts) if 0 < found < LEAST or (not found and 0 < i < len(kept))), None
        )
        if wrong is None:
            return tuple(kept), tuple(counts)
        kept.pop(min(wrong, len(kept) - 1))


def _exponent(value: float) -> int:
    """Return the power of ten below a number, from its decimal digits: equal on every host."""
    return int(f"{value:e}".partition("e")[2])


def find_bounds(edges: Sequence[float]) -> list[float]:
    """Return the largest number of each bin but the last: an edge, and what float32 makes of it.

    So 0.1 lies on the same side of an edge at 0.1 whether a file, a request or a graph holds it.
    """
    most = 1e-4 * (edges[-1] - edges[0]) if edges else 0.0
    return [edge + min(1e-6 * abs(edge), most) for edge in edges]


def _count_sorted(ordered: Sequence[float], edges: Sequence[float]) -> list[int]:
    places = [0, *(bisect_right(ordered, bound) for bound in find_bounds(edges)), len(ordered)]
    return [right - left for left, right in pairwise(places)]


@dataclass(slots=True)
class Tally:
    """New values of a column, counted in the bins of its distribution; its size does not depend on how many."""

    about: Distribution
    missing: float = 0
    counts: list[float] = field(default_factory=list)
    new: Counter[str] = field(default_factory=Counter)
    unlisted: float = 0

    def __post_init__(self) -> None:
        width = len(self.about.values) if self.about.kind == "category" else len(self.about.counts)
        self.counts = self.counts or [0] * width
        self._places = {value: index for index, value in enumerate(self.about.values)}
        self._bounds = find_bounds(self.about.edges)

    _places: dict[str, int] = field(default_factory=dict, repr=False)
    _bounds: list[float] = field(default_factory=list, repr=False)

    def add(self, value: Any) -> None:
        """Count one cell."""
        if self.about.kind == "category":
            self._add_category(as_text(value))
            return
        text = as_text(value) if self.about.kind == "text" else None
        number = as_number(value) if self.about.kind == "number" else None if text is None else float(len(text))
        if number is None:
            self.missing += 1
        else:
            self.counts[bisect_left(self._bounds, number)] += 1

    def _add_category(self, value: str | None) -> None:
        if value is None:
            self.missing += 1
        elif value in self._places:
            self.counts[self._places[value]] += 1
        else:
            self.unlisted += 1
            if value in self.new or len(self.new) < _MOST_NEW:
                self.new[value] += 1

    @property
    def present(self) -> float:
        """How many values were counted."""
        return sum(self.counts) + self.unlisted

    def halve(self) -> None:
        """Halve all counts, so that what comes next weighs more than what was."""
        self.counts = [count / 2 for count in self.counts]
        self.missing, self.unlisted = self.missing / 2, self.unlisted / 2
        self.new.clear()


def measure_psi(expected: Sequence[float], got: Sequence[float]) -> float:
    """Return the population stability index of counts: the sum of (q - p) ln(q / p) over the bins.

    p and q are the shares of `expected` and `got`; an empty bin has the share 0.0001. Below 0.1 is called stable, from
    0.25 on another population (Siddiqi 2006). It is 0 where either has no count.
    """
    totals = sum(expected), sum(got)
    if not all(totals):
        return 0.0
    pairs = [(max(p / totals[0], _FLOOR), max(q / totals[1], _FLOOR)) for p, q in zip(expected, got, strict=True)]
    return math.fsum((q - p) * math.log(q / p) for p, q in pairs)


def psi_by_chance(bins: int, expected: float, got: float) -> float:
    """Return the PSI that equal populations exceed once in a thousand times, for samples of these sizes.

    PSI / (1/n + 1/m) is distributed as chi-squared with `bins` - 1 degrees of freedom (Yurdakul and Naranjo 2020); its
    quantile is Wilson and Hilferty's approximation.
    """
    freedom = bins - 1
    if freedom < 1 or not expected or not got:
        return math.inf
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.0902 * math.sqrt(part)) ** 3 * (1 / expected + 1 / got)


def measure_ks(expected: Sequence[float], got: Sequence[float]) -> float:
    """Return the largest distance of the two cumulative shares at the edges of the bins.

    It is at most the two-sample Kolmogorov-Smirnov statistic of the values, and less by at most the largest share of
    `expected` in one bin.
    """
    totals = sum(expected), sum(got)
    if not all(totals):
        return 0.0
    largest, sums = 0.0, [0.0, 0.0]
    for left, right in zip(expected, got, strict=True):
        sums = [sums[0] + left, sums[1] + right]
        largest = max(largest, abs(sums[0] / totals[0] - sums[1] / totals[1]))
    return largest


def _grouped(expected: Sequence[float], got: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the counts in at most ten groups of neighbours and the empty ends, as PSI is defined for.

    Of few new values there are fewer groups, so that five are expected in each: below that PSI is noise (Cochran 1954).
    """
    total = sum(expected)
    most = total * _least_share(sum(got))
    left, right, done = [0.0], [0.0], 0.0
    for index, (before, after) in enumerate(zip(expected, got, strict=True)):
        left[-1], right[-1] = left[-1] + before, right[-1] + after
        done += before
        full = left[-1] >= most - 1e-9 or (index == 0 and not before)
        if full and index < len(expected) - 1 and (total - done >= most - 1e-9 or not any(expected[index + 1 :])):
            left.append(0.0)
            right.append(0.0)
    return left, right


def _least_share(rows: float) -> float:
    """Return the share of the reference that a group has at least, for a number of new values."""
    return min(1.0, max(1 / _GROUPS, _EXPECTED / rows if rows else 1.0))


def _pooled(expected: Sequence[float], got: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the counts of categories, with those in one of which fewer than five new values are expected."""
    least = sum(expected) * min(1.0, _EXPECTED / (sum(got) or 1))
    pairs = [*zip(expected, got, strict=True)]
    small = [pair for pair in pairs if pair[0] < least]
    kept = [pair for pair in pairs if pair[0] >= least]
    pairs = [*kept, (sum(left for left, _ in small), sum(right for _, right in small))] if small else kept
    return [left for left, _ in pairs], [right for _, right in pairs]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far new values of a column lie from its distribution.

    `chance` is the PSI that samples of these sizes reach without any drift; `ks` is None of categories. `missing` are
    the shares before and now, `new` values that are no named category with their counts, the most frequent first, and
    `unlisted` their shares before and now.
    """

    name: str
    kind: Kind
    rows: float
    psi: float
    chance: float
    ks: float | None
    missing: tuple[float, float]
    new: tuple[tuple[str, int], ...] = ()
    unlisted: tuple[float, float] = (0.0, 0.0)


def compare(found: Tally) -> Drift:
    """Return how far counted values lie from the distribution; what is missing is a bin of its own."""
    about, ks = found.about, None
    left: list[float]
    if about.kind == "category":
        left, right = _pooled([*about.values.values()], found.counts)
        left, right = [*left, about.other], [*right, found.unlisted]
    else:
        left, right = _grouped(about.counts, found.counts)
        ks = measure_ks(about.counts, found.counts)
    if about.missing or found.missing:
        left, right = [*left, about.missing], [*right, found.missing]
    used = sum(1 for pair in zip(left, right, strict=True) if any(pair))
    psi = measure_psi(left, right) if about.comparable else 0.0
    rows = found.present + found.missing
    return Drift(
        about.name,
        about.kind,
        rows,
        psi,
        psi_by_chance(used, sum(left), rows),
        ks,
        (_share(about.missing, about.present), _share(found.missing, found.present)),
        tuple(sorted(found.new.items(), key=lambda item: (-item[1], item[0]))[:5]),
        (_part(about.other, sum(left)), _part(found.unlisted, rows)),
    )


def _share(part: float, rest: float) -> float:
    return _part(part, part + rest)


def _part(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
