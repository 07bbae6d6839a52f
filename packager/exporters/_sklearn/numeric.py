# SPDX-License-Identifier: Apache-2.0
"""Functions of numpy and scipy that ONNX Runtime lacks in binary64, search in sorted values, interpolation."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn.algebra import count_not_above
from packager.exporters._sklearn.builder import Builder, Value

# Wichura, AS 241 (1988), PPND16: numerators and denominators around the middle and in the tail, ascending powers.
_MIDDLE = (
    (
        3.3871328727963666080,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_TAIL = (
    (
        1.42343711074968357734,
        4.63033784615654529590,
        5.76949722146069140550,
        3.64784832476320460504,
        1.27045825245236838258,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187,
        1.67638483018380384940,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)


def matrix_and_wide(builder: Builder, frame: Any) -> tuple[Value, Value]:
    """Return the matrix of a frame in its own type, and the same in float64."""
    own = builder.matrix(frame)
    return own, builder.cast(own, "float64")


def bounded(builder: Builder, value: Value, low: Any = None, high: Any = None) -> Value:
    """Clip as numpy does: NaN stays NaN."""
    if low is not None:
        value = builder.where(builder.binary("Less", value, low), low, value)
    return value if high is None else builder.where(builder.binary("Greater", value, high), high, value)


def log1p(builder: Builder, value: Value) -> Value:
    """Compute `log(1 + x)`, exact for small `x` (Kahan): what rounding takes from `1 + x`, a quotient gives back."""
    whole = builder.add(value, 1.0)
    grown = builder.mul(builder.unary("Log", whole), builder.div(value, builder.sub(whole, 1.0)))
    grown = builder.where(builder.binary("Equal", whole, value), builder.unary("Log", whole), grown)
    return builder.where(builder.binary("Equal", whole, 1.0), value, grown)


def expm1(builder: Builder, value: Value) -> Value:
    """Compute `exp(x) - 1`, exact for small `x` (Kahan)."""
    whole = builder.unary("Exp", value)
    less = builder.sub(whole, 1.0)
    found = builder.mul(less, builder.div(value, builder.unary("Log", whole)))
    found = builder.where(builder.unary("IsInf", whole), whole, found)
    found = builder.where(builder.binary("Equal", less, -1.0), -1.0, found)
    return builder.where(builder.binary("Equal", whole, 1.0), value, found)


def cosine(builder: Builder, value: Value) -> Value:
    """Compute `cos(x)` as `1 - 2 sin²(x/2)`: ONNX Runtime has a sine in binary64, and no cosine."""
    half = builder.unary("Sin", builder.mul(value, 0.5))
    return builder.sub(1.0, builder.mul(builder.mul(half, half), 2.0))


def polynomial(builder: Builder, value: Value, ascending: tuple[float, ...]) -> Value:
    """Evaluate one polynomial at every element."""
    found = builder.add(builder.mul(value, ascending[-1]), ascending[-2])
    for coefficient in reversed(ascending[:-2]):
        found = builder.add(builder.mul(found, value), coefficient)
    return found


def normal_quantile(builder: Builder, share: Value) -> Value:
    """Compute the quantile of the normal distribution, for shares from 1e-10 to 1 - 1e-10; NaN stays."""
    away = builder.sub(share, 0.5)
    inside = builder.sub(0.180625, builder.mul(away, away))
    middle = builder.mul(away, _ratio(builder, inside, _MIDDLE))
    smaller = builder.where(builder.binary("Less", away, 0.0), share, builder.sub(1.0, share))
    root = builder.unary("Sqrt", builder.unary("Neg", builder.unary("Log", smaller)))
    tail = builder.mul(builder.unary("Sign", away), _ratio(builder, builder.sub(root, 1.6), _TAIL))
    near = builder.binary("LessOrEqual", builder.unary("Abs", away), 0.425)
    return builder.where(near, middle, tail)


def _ratio(builder: Builder, value: Value, parts: tuple[tuple[float, ...], tuple[float, ...]]) -> Value:
    return builder.div(*(polynomial(builder, value, part) for part in parts))


def position_among(builder: Builder, column: Value, edges: Any) -> Value:
    """Return what `numpy.searchsorted(edges, column, side="right")` does, as int64; any position for NaN."""
    return count_not_above(builder, builder.cast(column, "float64"), edges)


def interpolated(builder: Builder, column: Value, at: Any, values: Any) -> Value:
    """Return what `numpy.interp(column, at, values)` does; NaN gives NaN."""
    numpy = importlib.import_module("numpy")
    at, values = (numpy.asarray(given, dtype="float64").reshape(-1) for given in (at, values))
    if len(at) == 1:
        return builder.add(builder.mul(column, 0.0), values[0])
    with numpy.errstate(divide="ignore", invalid="ignore"):
        slopes = numpy.diff(values) / numpy.diff(at)
    last = len(at) - 1
    table = numpy.column_stack([at[:last], values[:last], numpy.nan_to_num(slopes)])
    table = numpy.vstack([table, [at[last], values[last], 0.0]])
    position = builder.binary("Max", builder.sub(position_among(builder, column, at), 1), 0)
    row = builder.look_up(table, position)
    start, base, slope = (builder.take(row, [index]) for index in range(3))
    found = builder.add(builder.mul(slope, builder.sub(column, start)), base)
    found = builder.where(builder.binary("Less", column, at[0]), float(values[0]), found)
    return builder.where(builder.binary("GreaterOrEqual", column, at[last]), float(values[last]), found)
