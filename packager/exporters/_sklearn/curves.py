# SPDX-License-Identifier: Apache-2.0
"""Transformers of `sklearn.preprocessing` that bend each column: splines, powers and quantiles."""

from __future__ import annotations

import importlib
import math
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
    place_among,
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
        refuse(model, f"makes numbers of column `{names[noisy[0]]}` that differ in their last digits only",
               hint="scale that column before the power, for example with `StandardScaler`")  # fmt: skip


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
    columns = [_ranked(builder, model, builder.take(given, [place]), place) for place in range(given.width)]
    found = builder.concat(columns)
    if model.output_distribution == "normal":
        found = _clipped_quantile(builder, found)
    return builder.cast(found, own.dtype)


def _ranked(builder: Builder, model: Any, column: Value, place: int) -> Value:
    """Interpolate up and down, which differ where quantiles repeat, and take the mean; ends are exactly 0 and 1."""
    edges = model.quantiles_[:, place]
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
    """Evaluate every basis function as the polynomial it is between two knots, around the left one."""
    own, given = matrix_and_wide(builder, frame)
    made = []
    degree = int(model.degree)
    for place, spline in enumerate(model.bsplines_):
        made.append(_spline(builder, model, spline, builder.take(given, [place]), degree))
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
    starts, table = _pieces(spline)
    inner = len(starts)
    place = place_among(builder, column, starts[1:])
    if model.extrapolation in ("constant", "linear"):
        starts, table = _continued(model, spline, starts, table, degree)
        place = builder.where(builder.binary("Less", column, low), inner, place)
        place = builder.where(builder.binary("Greater", column, high), inner + 1, place)
    found = _horner(builder, table, place, builder.sub(column, builder.look_up(starts, place)))
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


def _pieces(spline: Any) -> tuple[Any, Any]:
    """Return the knot around which each polynomial is written, and coefficients [piece, power, spline]."""
    numpy = importlib.import_module("numpy")
    degree = int(spline.k)
    starts = spline.t[degree : len(spline.t) - degree - 1]
    powers = [spline(starts, nu=power) / math.factorial(power) for power in range(degree + 1)]
    return starts, numpy.stack(powers, axis=1)


def _continued(model: Any, spline: Any, starts: Any, table: Any, degree: int) -> tuple[Any, Any]:
    """Add the polynomials below and above the ends: constants or lines, of as many splines as the library fills."""
    numpy = importlib.import_module("numpy")
    ends = spline.t[[degree, len(spline.t) - degree - 1]]
    beyond = numpy.zeros((2, *table.shape[1:]))
    beyond[:, 0] = spline(ends)
    if model.extrapolation == "linear":
        beyond[:, 1:2] = spline(ends, nu=1)[:, None] if spline.k else 0.0
        reach = degree + (degree <= 1)
        beyond[0, :, reach:] = 0
        beyond[1, :, : table.shape[2] - reach] = 0
    return numpy.concatenate([starts, ends]), numpy.concatenate([table, beyond])


def _horner(builder: Builder, table: Any, place: Value, away: Value) -> Value:
    found = builder.look_up(table[:, -1], place)
    for power in reversed(range(table.shape[1] - 1)):
        found = builder.add(builder.mul(found, away), builder.look_up(table[:, power], place))
    return found
