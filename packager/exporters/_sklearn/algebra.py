# SPDX-License-Identifier: Apache-2.0
"""Numerical building blocks of the writers: distances to points, sums that do not overflow, searches, curves.

Functions keep the accuracy that numpy and scipy have in binary64 where an operator of the same name loses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from packager.exporters._sklearn.builder import Builder, Frame, Value


def total(builder: Builder, values: Sequence[Value]) -> Value:
    """Return the sum of values, added in their order."""
    return reduce(builder.add, values)


def square(builder: Builder, value: Value) -> Value:
    return builder.mul(value, value)


def clip(builder: Builder, value: Value, low: float | None, high: float | None) -> Value:
    """Keep a value within bounds; NaN stays."""
    if low is not None:
        value = builder.binary("Max", value, low)
    return value if high is None else builder.binary("Min", value, high)


def expit(builder: Builder, value: Value) -> Value:
    """Write the logistic function by the formula of `scipy.special.expit`: far below zero both become zero together."""
    return builder.div(1.0, builder.add(builder.unary("Exp", builder.unary("Neg", value)), 1.0))


def softmax(builder: Builder, value: Value) -> Value:
    return Value(builder.node("Softmax", [value.name], axis=1), value.dtype, value.width)


def log_sum_exp(builder: Builder, value: Value) -> Value:
    """Return log(sum(exp(row))) of every row, without overflow."""
    largest = builder.reduce("ReduceMax", value)
    rest = builder.reduce("ReduceSum", builder.unary("Exp", builder.sub(value, largest)))
    return builder.add(builder.unary("Log", rest), largest)


def normalised(builder: Builder, value: Value) -> Value:
    """Divide every row by its sum; rows of zeros become uniform."""
    sums = builder.reduce("ReduceSum", value)
    empty = builder.binary("Equal", sums, 0.0)
    found = builder.div(value, builder.where(empty, 1.0, sums))
    return builder.where(empty, 1.0 / value.width, found)


def power(builder: Builder, value: Value, exponent: int) -> Value:
    """Return an integer power by repeated squaring."""
    found, factor = None, value
    while exponent > 0:
        if exponent % 2:
            found = factor if found is None else builder.mul(found, factor)
        exponent //= 2
        factor = square(builder, factor) if exponent else factor
    return found if found is not None else builder.add(builder.mul(value, 0.0), 1.0)


def erf(builder: Builder, value: Value) -> Value:
    """Write the error function in binary64, which has no operator: a Chebyshev series of the scaled complement."""
    numpy, special = importlib.import_module("numpy"), importlib.import_module("scipy.special")

    def scaled(position: Any) -> Any:
        t = (position + 1.0) / 2.0  # 1 / (1 + x / 2), from 0 (infinity) to 1 (zero)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            return numpy.where(t > 0, special.erfcx(2.0 * (1.0 / t - 1.0)) / t, 1.0 / (2.0 * numpy.sqrt(numpy.pi)))

    series = numpy.polynomial.chebyshev.chebinterpolate(scaled, 40)
    size = builder.unary("Abs", value)
    t = builder.div(1.0, builder.add(builder.mul(size, 0.5), 1.0))
    curve = builder.mul(t, _chebyshev(builder, builder.sub(builder.mul(t, 2.0), 1.0), series))
    rest = builder.mul(builder.unary("Exp", builder.unary("Neg", square(builder, size))), curve)
    return builder.mul(builder.unary("Sign", value), builder.sub(1.0, rest))


def _chebyshev(builder: Builder, position: Value, series: Any) -> Value:
    """Sum a Chebyshev series by Clenshaw's recurrence."""
    twice = builder.mul(position, 2.0)
    after, here = builder.mul(position, 0.0), builder.add(builder.mul(position, 0.0), float(series[-1]))
    for coefficient in reversed(series[1:-1].tolist()):
        after, here = here, builder.add(builder.sub(builder.mul(twice, here), after), coefficient)
    return builder.add(builder.sub(builder.mul(position, here), after), float(series[0]))


# -- tables


def pick(builder: Builder, table: Any, positions: Value) -> Value:
    """Return `table[positions]` of a constant row of numbers."""
    array = importlib.import_module("numpy").asarray(table).reshape(-1)
    made = builder.node("Gather", [builder.constant(array), positions.name], axis=0)
    return Value(made, array.dtype.name, positions.width)


def count_not_above(builder: Builder, value: Value, ascending: Any) -> Value:
    """Return how many of the sorted numbers are not above each element: `searchsorted(…, side="right")`."""
    numpy = importlib.import_module("numpy")
    table = numpy.asarray(ascending, dtype=value.dtype)
    steps = len(table).bit_length()
    padded = numpy.full(2**steps - 1, numpy.inf, dtype=value.dtype)
    padded[: len(table)] = table
    found = builder.cast(builder.mul(builder.where(builder.unary("IsNaN", value), 0.0, value), 0.0), "int64")
    for step in (2**exponent for exponent in reversed(range(steps))):
        reached = builder.binary("LessOrEqual", pick(builder, padded, builder.add(found, step - 1)), value)
        found = builder.add(found, builder.mul(builder.cast(reached, "int64"), step))
    return builder.binary("Min", found, len(table))


def smallest(builder: Builder, value: Value, count: int) -> tuple[Value, Value]:
    """Return the smallest numbers of every row, ascending, and their positions; of equal ones the first."""
    made = builder.node(
        "TopK", [value.name, builder.constant([count], "int64")], outputs=2, axis=1, largest=0, sorted=1
    )
    return Value(made, value.dtype, count), Value(f"{made}:1", "int64", count)


# -- distances


def products(builder: Builder, value: Value, points: Any) -> Value:
    """Return the product of every row with every point."""
    return builder.matmul(value, importlib.import_module("numpy").asarray(points, dtype="float64").T)


def row_norms(builder: Builder, value: Value) -> Value:
    """Return the square of the length of every row."""
    return builder.reduce("ReduceSum", square(builder, value))


def squared_distances(builder: Builder, value: Value, points: Any) -> Value:
    """Return |x|² - 2 x·p + |p|², about a centre near the points, where the least is lost; never below zero."""
    numpy = importlib.import_module("numpy")
    points = numpy.asarray(points, dtype="float64")
    centre = _round_centre(numpy, points)
    moved, kept = builder.sub(value, centre), points - centre
    cross = builder.mul(products(builder, moved, kept), -2.0)
    found = builder.add(builder.add(cross, row_norms(builder, moved)), (kept**2).sum(axis=1))
    return builder.binary("Max", found, 0.0)


def expanded_distances(builder: Builder, value: Value, points: Any) -> Value:
    """Return |x|² - 2 x·p + |p|², added in that order and not centred: equal where scikit-learn's search has equals."""
    points = importlib.import_module("numpy").asarray(points, dtype="float64")
    near = builder.add(row_norms(builder, value), builder.mul(products(builder, value, points), -2.0))
    return builder.binary("Max", builder.add(near, (points**2).sum(axis=1)), 0.0)


def _round_centre(numpy: Any, points: Any) -> Any:
    """Return the mean in multiples of a power of two: differences from it are exact for whole numbers."""
    spread = numpy.ptp(points, axis=0)
    unit = numpy.exp2(numpy.floor(numpy.log2(numpy.where(spread > 0, spread, 1.0))))
    return numpy.round(points.mean(axis=0) / unit) * unit


def over_features(
    builder: Builder,
    value: Value,
    points: Any,
    term: Callable[[Value, int], Value],
    join: Callable[[Value, Value], Value],
) -> Value:
    """Join a term of the difference from every point in each feature, in the order of features, as loops do."""
    array = importlib.import_module("numpy").asarray(points, dtype="float64")
    terms = (
        term(builder.sub(builder.take(value, [feature]), array[:, feature]), feature)
        for feature in range(array.shape[1])
    )
    return reduce(join, terms)


def direct_squares(builder: Builder, value: Value, points: Any) -> Value:
    """Return squared distances as a sum of squared differences: exact near zero."""
    return over_features(builder, value, points, lambda difference, _: square(builder, difference), builder.add)


def numbers(builder: Builder, frame: Frame) -> Value:
    """Return a frame as a matrix of binary64."""
    return builder.matrix(frame, "float64")
