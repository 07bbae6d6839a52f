# SPDX-License-Identifier: Apache-2.0
"""Compare two tensors without a threshold, keeping exactly what any threshold needs later.

A policy decides whether `|got - expected| <= atol + rtol * |expected|` holds everywhere. An element
with a larger difference and a smaller magnitude than another fails whenever the other does, for every `atol` and
`rtol` that are not negative. So only the Pareto frontier of (difference, magnitude) can decide, usually a dozen points
of a million:

    all elements within (atol, rtol)  <=>  all points of `frontier` have difference <= atol + rtol * magnitude

evaluated in binary64 with the numbers as recorded. If more than `POINTS` are left, those below the upper convex hull
go first (`reduced: hull`; the law still holds in real arithmetic, and in binary64 up to one rounding); if that is not
enough, neighbours are merged into (largest difference, smallest magnitude), which can only fail sooner
(`reduced: merged`); the element named is then the one with the largest difference.
"""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from typing import Any, TypeAlias

from packager.canonical import JSON, MAX_SAFE_INTEGER

POINTS = 64
_LARGEST = 1.7976931348623157e308

_Point: TypeAlias = tuple[float, float, int]  # difference, magnitude, flat index


def compare(expected: Any, got: Any, gaps: Any = None, other: Any = None) -> JSON:
    """Return what differs between two numpy arrays; the record is JSON without NaN and infinities.

    `gaps` say of every element of a label how far the source was from answering `got` instead: a wrong label whose gap
    is a rounding is a tie. The record keeps the largest gap, which decides for all, and its element.

    `other` is what the source computes in another way that is as right as `expected`, where there is one: `moved` says
    how far apart the two are, `flipped` how many elements are another label, or finite on one side only. An exact
    element is wrong where it is neither.

    `expected` and `got` of one element are numbers, or the texts `nan`, `inf`, `-inf`, digits beyond 2**53, or a label.
    """
    record: dict[str, JSON] = {"dtype": expected.dtype.name, "shape": list(expected.shape)}
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return {**record, "got": {"dtype": got.dtype.name, "shape": list(got.shape)}}
    if expected.dtype.kind == "f" or expected.dtype.name == "bfloat16":
        record |= {} if other is None else _moved(expected, other)
        return {**record, **_compare_floats(expected, got)}
    record |= {} if other is None else {"flipped": int((expected != other).sum())}
    return {**record, **_compare_exactly(expected, got, gaps, other)}


def _moved(expected: Any, other: Any) -> JSON:
    numpy = importlib.import_module("numpy")
    left, right = expected.astype("float64").reshape(-1), other.astype("float64").reshape(-1)
    finite = numpy.isfinite(left) & numpy.isfinite(right)
    flipped = ~finite & ~((left == right) | (numpy.isnan(left) & numpy.isnan(right)))
    with numpy.errstate(over="ignore", invalid="ignore"):
        apart = numpy.where(finite, numpy.minimum(abs(right - left), _LARGEST), 0.0)
    return {"moved": float(apart.max(initial=0.0)), "flipped": int(flipped.sum())}


def _compare_exactly(expected: Any, got: Any, gaps: Any, other: Any) -> JSON:
    numpy = importlib.import_module("numpy")
    differs = (expected != got).reshape(-1)
    if other is not None:
        differs &= (other != got).reshape(-1)
    if gaps is None or not differs.any():
        return {"unequal": int(differs.sum()), **_first(expected, got, differs, "first_unequal")}
    widest = numpy.where(differs, numpy.nan_to_num(gaps.reshape(-1), nan=_LARGEST, posinf=_LARGEST), -1.0)
    found = {"unequal": int(differs.sum()), "largest_gap": float(widest.max())}
    return {**found, "first_unequal": _element(expected, got, int(widest.argmax()))}


def _first(expected: Any, got: Any, differs: Any, key: str) -> JSON:
    if not differs.any():
        return {}
    return {key: _element(expected, got, int(differs.argmax()))}


def _element(expected: Any, got: Any, index: int) -> JSON:
    numpy = importlib.import_module("numpy")
    position = [int(i) for i in numpy.unravel_index(index, expected.shape)]
    return {
        "index": position,
        "expected": write_number(expected.reshape(-1)[index : index + 1].tolist()[0]),
        "got": write_number(got.reshape(-1)[index : index + 1].tolist()[0]),
    }


def compare_exactly(expected: Any, got: Any) -> JSON:
    """Compare what has no tolerance; of lists of unequal length up to the first difference."""
    numpy = importlib.import_module("numpy")
    if expected.shape == got.shape:
        return compare(expected, got)
    short = min(len(expected), len(got))
    differs = numpy.flatnonzero(expected[:short] != got[:short])
    place = int(differs[0]) if len(differs) else short
    first = {"index": [place], "expected": _at(expected, place), "got": _at(got, place)}
    return {"dtype": expected.dtype.name, "shape": list(expected.shape), "unequal": 1, "first_unequal": first}


def _at(values: Any, place: int) -> JSON:
    return write_number(values[place].item()) if place < len(values) else "nothing"


def write_number(value: Any) -> JSON:
    """Return `value` if every JSON reader agrees on it, else as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return str(value)
    return value if isinstance(value, bool | int | float) else str(value)


def _compare_floats(expected: Any, got: Any) -> JSON:
    numpy = importlib.import_module("numpy")
    left, right = expected.astype("float64").reshape(-1), got.astype("float64").reshape(-1)
    finite = numpy.isfinite(left) & numpy.isfinite(right)
    differs = ~finite & ~((left == right) | (numpy.isnan(left) & numpy.isnan(right)))
    with numpy.errstate(over="ignore", invalid="ignore"):
        difference = numpy.where(finite, numpy.minimum(abs(right - left), _LARGEST), 0.0)
    magnitude = numpy.where(finite, abs(left), 0.0)
    points, reduced = _reduce(_frontier(numpy, difference, magnitude))
    return {
        "max_abs": float(difference.max(initial=0.0)),
        "max_rel": _max_rel(numpy, difference, magnitude),
        "not_finite": int(differs.sum()),
        **_first(expected, got, differs, "first_not_finite"),
        "frontier": [{"difference": d, "magnitude": m, **_element(expected, got, i)} for d, m, i in points],
        "reduced": reduced,
    }


def _max_rel(numpy: Any, difference: Any, magnitude: Any) -> JSON:
    """Return the largest difference relative to the expected value; `inf` where a zero was expected and missed."""
    changed = difference > 0
    with numpy.errstate(divide="ignore", over="ignore"):
        return write_number(float((difference[changed] / magnitude[changed]).max(initial=0.0)))


def _frontier(numpy: Any, difference: Any, magnitude: Any) -> list[_Point]:
    """Return the points no other point dominates, by falling difference and falling magnitude."""
    changed = numpy.flatnonzero(difference)
    d, m = difference[changed], magnitude[changed]
    order = numpy.lexsort((changed, m, -d))
    d, m, changed = d[order], m[order], changed[order]
    lowest = numpy.minimum.accumulate(m)
    keep = numpy.ones(len(m), dtype=bool)
    keep[1:] = m[1:] < lowest[:-1]
    return [(float(a), float(b), int(i)) for a, b, i in zip(d[keep], m[keep], changed[keep], strict=True)]


def _reduce(points: list[_Point]) -> tuple[list[_Point], str]:
    if len(points) <= POINTS:
        return points, "none"
    hull = _hull(points)
    if len(hull) <= POINTS:
        return hull, "hull"
    size = -(-len(hull) // POINTS)
    groups = [hull[start : start + size] for start in range(0, len(hull), size)]
    return [(group[0][0], group[-1][1], group[0][2]) for group in groups], "merged"


def _hull(points: list[_Point]) -> list[_Point]:
    """Keep the corners of the upper hull, in exact arithmetic: a straight limit is exceeded at a corner first."""
    corners: list[_Point] = []
    for point in points:
        while len(corners) > 1 and not _is_corner(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def _is_corner(before: _Point, here: _Point, after: _Point) -> bool:
    """Say whether `here` lies above the line from `before` to `after` (difference over magnitude)."""
    (d0, m0), (d1, m1), (d2, m2) = (tuple(map(Fraction, point[:2])) for point in (before, here, after))
    return (d1 - d2) * (m0 - m2) > (d0 - d2) * (m1 - m2)
