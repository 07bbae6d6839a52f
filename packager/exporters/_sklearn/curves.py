# SPDX-License-Identifier: Apache-2.0
"""Transformers of `sklearn.preprocessing` that bend each column: splines, powers and quantiles."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from packager.exporters._sklearn import emit, refuse, writes
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.numeric import (
    bounded,
    expm1,
    interpolated,
    log1p,
    matrix_and_wide,
    normal_quantile,
    position_among,
)

_NEAR = 1e-7  # of quantiles: what counts as their ends


_NOISE = 1e-6  # of the mean: a spread below it keeps less than ten digits, and powers are exact to fifteen


@writes("transform", "PowerTransformer")
def raise_to_power(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    if own.dtype == "float32":
        builder.inexact = "PowerTransformer` of float32 numbers"
    exponents = importlib.import_module("numpy").asarray(model.lambdas_, dtype="float64")
    bend = _box_cox if model.method == "box-cox" else _yeo_johnson
    found = builder.cast(bend(builder, given, exponents), own.dtype)
    if model.standardize:
        _refuse_noise(model)
    return emit(builder, model._scaler, "transform", Frame((found,))) if model.standardize else found


def _refuse_noise(model: Any) -> None:
    """Refuse a column whose powers differ in their last digits only: standardised, they are rounding made large."""
    numpy = importlib.import_module("numpy")
    noisy = numpy.flatnonzero(model._scaler.scale_ < _NOISE * numpy.abs(model._scaler.mean_))
    if len(noisy):
        names = getattr(model, "feature_names_in_", range(model.n_features_in_))
        refuse(
            model,
            f"makes numbers of column `{names[noisy[0]]}` that differ in their last digits only",
            hint="scale that column before the power, for example with `StandardScaler`",
        )


def _box_cox(builder: Builder, value: Value, exponents: Any) -> Value:
    return _power(builder, builder.unary("Log", value), exponents, 1e-19)


def _yeo_johnson(builder: Builder, value: Value, exponents: Any) -> Value:
    """Bend both sides of zero by themselves: above with λ, below with 2 - λ."""
    nearest = float(importlib.import_module("numpy").spacing(1.0))
    size = log1p(builder, builder.unary("Abs", value))
    above = _power(builder, size, exponents, nearest)
    below = builder.unary("Neg", _power(builder, size, 2 - exponents, nearest))
    return builder.where(builder.binary("GreaterOrEqual", value, 0.0), above, below)


def _power(builder: Builder, logarithm: Value, exponents: Any, nearest: float) -> Value:
    """Return `(x ** λ - 1) / λ` of `log(x)`, and `log(x)` itself where λ is zero."""
    numpy = importlib.import_module("numpy")
    zero = numpy.abs(exponents) < nearest
    by = numpy.where(zero, 1.0, exponents)
    found = builder.div(expm1(builder, builder.mul(logarithm, by)), by)
    none = Value(builder.constant(zero.reshape(1, -1)), "bool", len(zero))
    return builder.where(none, logarithm, found) if zero.any() else found


@writes("transform", "QuantileTransformer")
def rank_by_quantiles(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    columns = [_ranked(builder, model, builder.take(given, [position]), position) for position in range(given.width)]
    found = builder.concat(columns)
    if model.output_distribution == "normal":
        found = _clipped_quantile(builder, found)
    return builder.cast(found, own.dtype)


def _ranked(builder: Builder, model: Any, column: Value, position: int) -> Value:
    """Interpolate up and down, which differ where quantiles repeat, and take the mean; ends are exactly 0 and 1."""
    edges = model.quantiles_[:, position]
    up = interpolated(builder, column, edges, model.references_)
    down = interpolated(builder, builder.unary("Neg", column), -edges[::-1], -model.references_[::-1])
    found = builder.mul(builder.sub(up, down), 0.5)
    low, high = float(edges[0]), float(edges[-1])
    if model.output_distribution == "normal":
        below = builder.binary("Less", builder.sub(column, _NEAR), low)
        above = builder.binary("Greater", builder.add(column, _NEAR), high)
    else:
        below, above = builder.binary("Equal", column, low), builder.binary("Equal", column, high)
    return builder.where(below, 0.0, builder.where(above, 1.0, found))


def _clipped_quantile(builder: Builder, share: Value) -> Value:
    """Return the normal quantile within that of 1e-7; shares are moved inside first, where it is finite."""
    numpy, stats = importlib.import_module("numpy"), importlib.import_module("scipy.stats")
    least = _NEAR - float(numpy.spacing(1))
    found = normal_quantile(builder, bounded(builder, share, least / 2, 1 - least / 2))
    return bounded(builder, found, float(stats.norm.ppf(least)), float(stats.norm.ppf(1 - least)))


@writes("transform", "SplineTransformer")
def evaluate_splines(builder: Builder, model: Any, frame: Frame) -> Value:
    """Evaluate every basis function as scipy does, step by step: a tree behind it may depend on the last bit."""
    own, given = matrix_and_wide(builder, frame)
    made = []
    degree = int(model.degree)
    for position, spline in enumerate(model.bsplines_):
        made.append(_spline(builder, model, spline, builder.take(given, [position]), degree))
        degree += model.extrapolation == "linear" and degree <= 1  # so counts the library, and its ends move with it
    return builder.cast(builder.concat(made), own.dtype)


def _spline(builder: Builder, model: Any, spline: Any, column: Value, degree: int) -> Value:
    """Evaluate one column; the ends, beyond which it is continued, lie `degree` knots inside the first and last."""
    knots = spline.t
    low, high = float(knots[degree]), float(knots[len(knots) - degree - 1])
    missing = builder.unary("IsNaN", column)
    column = builder.where(missing, low, column)
    if model.extrapolation == "periodic":
        column = _wrapped(builder, column, low, high - low)
    found = _evaluated(builder, spline, column)
    if model.extrapolation in ("constant", "linear"):
        for beyond, end in (("Less", low), ("Greater", high)):
            value, slope = _continued(model, spline, end, degree, above=beyond == "Greater")
            line = builder.add(builder.mul(builder.sub(column, end), slope), value)
            found = builder.where(builder.binary(beyond, column, end), line, found)
    found = builder.where(missing, 0.0, found)
    return found if model.include_bias else builder.take(found, range(found.width - 1))


def _wrapped(builder: Builder, column: Value, start: float, period: float) -> Value:
    """Return `start + (x - start) % period`, the remainder as numpy has it: with the sign of the period."""
    if period <= 0:
        return builder.mul(column, 0.0)
    away = builder.sub(column, start)
    rest = Value(builder.node("Mod", [away.name, builder.of(period)], fmod=1), "float64", 1)
    rest = builder.where(builder.binary("Less", rest, 0.0), builder.add(rest, period), rest)
    return builder.add(rest, start)


def _evaluated(builder: Builder, spline: Any, column: Value) -> Value:
    """Evaluate all splines of a column by de Boor's recursion, in the order of scipy's `_deBoor_D`.

    Between two knots `degree + 1` basis functions are not zero; the outermost pieces go on beyond the last knots.
    Source: C. de Boor, A Practical Guide to Splines, chapter X.
    """
    numpy = importlib.import_module("numpy")
    degree, count = int(spline.k), len(spline.t) - 2 * int(spline.k) - 1
    piece = position_among(builder, column, spline.t[degree + 1 : degree + count])

    def knot(offset: int) -> Any:
        return spline.t[degree + offset : degree + offset + count]

    parts: list[Value | float] = [1.0]
    for order in range(1, degree + 1):
        before, parts = parts, [0.0]
        for position in range(1, order + 1):
            high, low = knot(position), knot(position - order)
            gap = numpy.where(high == low, numpy.inf, high - low)  # between equal knots nothing is shared
            share = builder.div(before[position - 1], builder.look_up(gap, piece))
            left = builder.mul(share, builder.sub(builder.look_up(high, piece), column))
            parts[-1] = builder.add(parts[-1], left)
            parts.append(builder.mul(share, builder.sub(column, builder.look_up(low, piece))))
    terms = [
        builder.mul(builder.look_up(spline.c[position : position + count], piece), part)
        for position, part in enumerate(parts)
    ]
    return functools.reduce(builder.add, terms)


def _continued(model: Any, spline: Any, end: float, degree: int, *, above: bool) -> tuple[Any, Any]:
    """Return value and slope of the line beyond an end, of as many splines as the library fills."""
    numpy = importlib.import_module("numpy")
    value = numpy.array(spline(end), dtype="float64")
    slope = numpy.zeros_like(value)
    if model.extrapolation == "linear":
        slope = numpy.array(spline(end, nu=1), dtype="float64") if spline.k else slope
        reach = degree + (degree <= 1)
        outside = slice(0, len(value) - reach) if above else slice(reach, None)
        value[outside] = slope[outside] = 0
    return value, slope
