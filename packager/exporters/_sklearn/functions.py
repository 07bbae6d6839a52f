# SPDX-License-Identifier: Apache-2.0
"""`FunctionTransformer` without a function, and with numpy's elementwise ones; each column keeps numpy's type."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.builder import FLOATS, Builder, Frame, Value
from packager.exporters._sklearn.numeric import cosine, expm1, log1p

Function: TypeAlias = Callable[[Builder, Value], Value]


def _node(kind: str) -> Function:
    return lambda builder, value: builder.unary(kind, value)


def _log_to(base: float) -> Function:
    return lambda builder, value: builder.div(builder.unary("Log", value), math.log(base))


def _truncate(builder: Builder, value: Value) -> Value:
    lower, upper = (builder.unary(kind, value) for kind in ("Floor", "Ceil"))
    return builder.where(builder.binary("Less", value, 0.0), upper, lower)


_OF_FRACTIONS: dict[str, Function] = {  # the answer is a float, also for integers
    "exp": _node("Exp"),
    "expm1": expm1,
    "log": _node("Log"),
    "log1p": log1p,
    "log2": _log_to(2),
    "log10": _log_to(10),
    "sqrt": _node("Sqrt"),
    "sin": _node("Sin"),
    "cos": cosine,
    "tanh": _node("Tanh"),
    "expit": _node("Sigmoid"),
    "fabs": _node("Abs"),
    "exp2": lambda builder, value: builder.binary("Pow", 2.0, value),
    "deg2rad": lambda builder, value: builder.mul(value, math.pi / 180),
    "radians": lambda builder, value: builder.mul(value, math.pi / 180),
    "rad2deg": lambda builder, value: builder.mul(value, 180 / math.pi),
    "degrees": lambda builder, value: builder.mul(value, 180 / math.pi),
}
_SATURATED = ("tanh", "expit")  # many numbers become one and its neighbours, which libraries distinguish differently
_OF_NUMBERS: dict[str, Function] = {  # the answer has the type of the argument
    "absolute": _node("Abs"),
    "negative": _node("Neg"),
    "sign": _node("Sign"),
    "positive": lambda _, value: value,
    "square": lambda builder, value: builder.mul(value, value),
    "conjugate": lambda _, value: value,
}
_ROUNDING: dict[str, Function] = {  # integers stay as they are
    "floor": _node("Floor"),
    "ceil": _node("Ceil"),
    "rint": _node("Round"),
    "trunc": _truncate,
}
_TESTS: dict[str, Function] = {"isnan": _node("IsNaN"), "isinf": _node("IsInf")}


@writes("transform", "FunctionTransformer")
def apply_function(builder: Builder, model: Any, frame: Frame) -> Value | Frame:
    """Apply a function of numpy to every element; without a function, pass the frame on."""
    if model.func is None:
        return frame
    if model.kw_args:
        refuse(model, "passes arguments (`kw_args`) to its function")
    blocks = (builder.matrix(frame),) if model.validate and len(set(frame.dtypes)) > 1 else frame.blocks
    return Frame(tuple(_applied(builder, model, block) for block in blocks), frame.names)


def _applied(builder: Builder, model: Any, block: Value) -> Value:
    name = _known(model)
    if block.dtype not in (*FLOATS, "int64", "int32"):
        refuse(model, f"applies `{name}` to {'text' if block.dtype == 'string' else 'truth values'}")
    whole = block.dtype not in FLOATS
    if name == "reciprocal":
        if whole:
            refuse(model, "applies `reciprocal` to integers, of which it keeps no fraction")
        return builder.div(1.0, block)
    if name in _ROUNDING:
        return block if whole else _ROUNDING[name](builder, block)
    if name in _OF_NUMBERS:
        return _OF_NUMBERS[name](builder, block)
    if name in _SATURATED or (block.dtype == "float32" and name in _OF_FRACTIONS and name not in ("sqrt", "fabs")):
        builder.inexact = f"{name}` of {block.dtype} numbers"
    wide = builder.cast(block, "float64") if whole or name not in _TESTS else block
    found = (_TESTS | _OF_FRACTIONS)[name](builder, wide)
    return builder.cast(found, "float32") if block.dtype == "float32" and name in _OF_FRACTIONS else found


def _known(model: Any) -> str:
    """Return the name of a function of numpy (or of `scipy.special`) that has a form here."""
    ufunc = importlib.import_module("numpy").ufunc
    name = getattr(model.func, "__name__", type(model.func).__name__)
    known = {"reciprocal", *_OF_FRACTIONS, *_OF_NUMBERS, *_ROUNDING, *_TESTS}
    if not isinstance(model.func, ufunc) or name not in known:
        refuse(model, f"calls `{name:.80}`, which has no ONNX form here")
    return name
