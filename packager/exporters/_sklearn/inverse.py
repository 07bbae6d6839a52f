# SPDX-License-Identifier: Apache-2.0
"""Inverse transformations of a target, and numpy's functions of one number."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from packager.exporters._sklearn import emit, refuse, writes
from packager.exporters._sklearn.algebra import clip, erf, expit, square
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.calibration import interpolate

_FUNCTIONS: dict[str, Callable[[Builder, Value], Value]] = {
    "numpy.exp": lambda builder, value: builder.unary("Exp", value),
    "numpy.expm1": lambda builder, value: builder.sub(builder.unary("Exp", value), 1.0),
    "numpy.exp2": lambda builder, value: builder.binary("Pow", 2.0, value),
    "numpy.log": lambda builder, value: builder.unary("Log", value),
    "numpy.log1p": lambda builder, value: builder.unary("Log", builder.add(value, 1.0)),
    "numpy.log2": lambda builder, value: builder.div(builder.unary("Log", value), math.log(2.0)),
    "numpy.log10": lambda builder, value: builder.div(builder.unary("Log", value), math.log(10.0)),
    "numpy.sqrt": lambda builder, value: builder.unary("Sqrt", value),
    "numpy.square": square,
    "numpy.absolute": lambda builder, value: builder.unary("Abs", value),
    "numpy.negative": lambda builder, value: builder.unary("Neg", value),
    "numpy.positive": lambda builder, value: value,
    "numpy.reciprocal": lambda builder, value: builder.div(1.0, value),
    "numpy.tanh": lambda builder, value: builder.unary("Tanh", value),
    "numpy.sin": lambda builder, value: builder.unary("Sin", value),
    "numpy.sign": lambda builder, value: builder.unary("Sign", value),
    "numpy.floor": lambda builder, value: builder.unary("Floor", value),
    "numpy.ceil": lambda builder, value: builder.unary("Ceil", value),
    "numpy.rint": lambda builder, value: builder.unary("Round", value),
    "numpy.cbrt": lambda builder, value: _cube_root(builder, value),
    "numpy.sinh": lambda builder, value: _sinh(builder, value),
    "numpy.arcsinh": lambda builder, value: _arcsinh(builder, value),
    "scipy.special.expit": expit,
    "scipy.special.logit": lambda builder, value: builder.unary("Log", builder.div(value, builder.sub(1.0, value))),
}


def _cube_root(builder: Builder, value: Value) -> Value:
    return builder.mul(builder.unary("Sign", value), builder.binary("Pow", builder.unary("Abs", value), 1.0 / 3.0))


def _sinh(builder: Builder, value: Value) -> Value:
    up = builder.unary("Exp", value)
    return builder.div(builder.sub(up, builder.unary("Exp", builder.unary("Neg", value))), 2.0)


def _arcsinh(builder: Builder, value: Value) -> Value:
    size = builder.unary("Abs", value)
    root = builder.unary("Sqrt", builder.add(square(builder, size), 1.0))
    return builder.mul(builder.unary("Sign", value), builder.unary("Log", builder.add(size, root)))


def apply_function(builder: Builder, owner: Any, function: Any, value: Value) -> Value:
    """Write a function of numpy or scipy; none is the identity. Raises StepError, about `owner`, for any other."""
    if function is None:
        return value
    for name, write in _FUNCTIONS.items():
        module, _, attribute = name.rpartition(".")
        if function is getattr(importlib.import_module(module), attribute):
            return write(builder, value)
    name = getattr(function, "__name__", str(function))
    return refuse(owner, f"calls `{name}`, which has no ONNX form here", hint="use a function of numpy, such as expm1")


def undo(builder: Builder, transformer: Any, value: Value) -> Value:
    """Write `transformer.inverse_transform(value)`."""
    return emit(builder, transformer, "inverse_transform", Frame((value,)))


def _only(frame: Frame) -> Value:
    (value,) = frame.blocks
    return value


@writes("inverse_transform", "FunctionTransformer")
def undo_function(builder: Builder, model: Any, frame: Frame) -> Value:
    if model.inv_kw_args:
        refuse(model, "calls its inverse with custom arguments")
    return apply_function(builder, model, model.inverse_func, _only(frame))


@writes("inverse_transform", "Pipeline")
def undo_steps(builder: Builder, model: Any, frame: Frame) -> Value:
    value = _only(frame)
    for _, step in reversed(model.steps):
        value = value if step in (None, "passthrough") else undo(builder, step, value)
    return value


@writes("inverse_transform", "StandardScaler")
def undo_standard(builder: Builder, model: Any, frame: Frame) -> Value:
    value = _only(frame)
    value = builder.mul(value, model.scale_) if model.with_std and model.scale_ is not None else value
    return builder.add(value, model.mean_) if model.with_mean else value


@writes("inverse_transform", "MinMaxScaler")
def undo_range(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.div(builder.sub(_only(frame), model.min_), model.scale_)


@writes("inverse_transform", "MaxAbsScaler")
def undo_size(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.mul(_only(frame), model.scale_)


@writes("inverse_transform", "RobustScaler")
def undo_robust(builder: Builder, model: Any, frame: Frame) -> Value:
    value = _only(frame)
    value = builder.mul(value, model.scale_) if model.with_scaling else value
    return builder.add(value, model.center_) if model.with_centering else value


@writes("inverse_transform", "PowerTransformer")
def undo_power(builder: Builder, model: Any, frame: Frame) -> Value:
    value = _only(frame)
    if model.standardize:
        value = undo(builder, model._scaler, value)
    curve = _undo_box_cox if model.method == "box-cox" else _undo_yeo_johnson
    columns = [
        curve(builder, builder.take(value, [position]), float(lam)) for position, lam in enumerate(model.lambdas_)
    ]
    return builder.concat(columns)


def _undo_box_cox(builder: Builder, value: Value, lam: float) -> Value:
    if lam == 0:
        return builder.unary("Exp", value)
    return builder.binary("Pow", builder.add(builder.mul(value, lam), 1.0), 1 / lam)


def _undo_yeo_johnson(builder: Builder, value: Value, lam: float) -> Value:
    """Invert each side of zero; the other side's numbers are replaced by nought before powers see them."""
    up, down = clip(builder, value, 0.0, None), builder.unary("Neg", clip(builder, value, None, 0.0))
    if abs(lam) < 2.220446049250313e-16:
        above = builder.sub(builder.unary("Exp", up), 1.0)
    else:
        above = builder.sub(builder.binary("Pow", builder.add(builder.mul(up, lam), 1.0), 1 / lam), 1.0)
    rest = 2 - lam
    if abs(rest) <= 2.220446049250313e-16:
        below = builder.sub(1.0, builder.unary("Exp", down))
    else:
        below = builder.sub(1.0, builder.binary("Pow", builder.add(builder.mul(down, rest), 1.0), 1 / rest))
    return builder.where(builder.binary("GreaterOrEqual", value, 0.0), above, below)


@writes("inverse_transform", "QuantileTransformer")
def undo_quantiles(builder: Builder, model: Any, frame: Frame) -> Value:
    """Look the number up among the quantiles, after the normal distribution's where that is the output."""
    value, columns = _only(frame), []
    if model.output_distribution == "normal":
        value = builder.mul(builder.add(erf(builder, builder.div(value, math.sqrt(2.0))), 1.0), 0.5)
    value = clip(builder, value, 0.0, 1.0)
    for position in range(value.width):
        columns.append(
            interpolate(builder, builder.take(value, [position]), model.references_, model.quantiles_[:, position])
        )
    return builder.concat(columns)
