# SPDX-License-Identifier: Apache-2.0
"""Graphs whose values lie outside what an operator's row is about: missing numbers, whole numbers beyond 32 bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from onnx import TensorProto as T

from tests.support.asked_graphs import drawn, node, one, with_constants
from tests.support.graphs import Graph, nodes

HUGE = np.array([2**40 + 2**33, 2**33 + 5], "int64")
ZEROS = np.zeros(3, "float32")
GAP = np.array([[np.nan, 1, -1], [0.5, np.nan, 2]], "float32")
BEYOND: dict[str, Callable[[], Graph]] = {
    **{
        f"{name} of NaN": functools.partial(one, name, 14, GAP)
        for name in ("Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Sqrt", "Softmax", "LeakyRelu", "HardSwish", "Softplus")
    },
    **{
        f"{name} with NaN": functools.partial(with_constants, name, 13, GAP, np.zeros(3, "float32"))
        for name in ("Max", "Min", "Add", "Mul", "Div")
    },
    "Clip of NaN": lambda: with_constants("Clip", 13, GAP, np.float32(0), np.float32(1)),
    "ReduceMean of NaN": lambda: one("ReduceMean", 13, GAP, axes=[1]),
    "MatMul of NaN": lambda: with_constants("MatMul", 13, GAP, drawn(3, 2)),
    "Where NaN is larger": lambda: nodes(
        13, node("Greater", ["x", "o"], ["m"]), node("Where", ["m", "x", "o"], ["y"]), weights={"o": ZEROS}, x=GAP
    ),
    "Where NaN is filled": lambda: nodes(
        13, node("IsNaN", ["x"], ["m"]), node("Where", ["m", "o", "x"], ["y"]), weights={"o": ZEROS}, x=GAP
    ),
    "NaN, twice Relu": lambda: nodes(14, node("Relu", ["x"], ["m"]), node("Add", ["m", "m"], ["y"]), x=GAP),
    **{
        f"{name} beyond 32 bits": functools.partial(with_constants, name, 14, HUGE, np.array([3, 1]), kind=T.INT64)
        for name in ("Add", "Mul", "Sub", "Div", "Max")
    },
    "Equal beyond 32 bits": lambda: with_constants("Equal", 13, HUGE, HUGE % 2**32, kind=T.BOOL),
    "Greater beyond 32 bits": lambda: with_constants("Greater", 13, HUGE, HUGE % 2**32, kind=T.BOOL),
    "Gather beyond 32 bits": lambda: with_constants("Gather", 13, HUGE, np.array([1, 0]), kind=T.INT64),
    "Cast of 2^40": lambda: one("Cast", 13, HUGE, T.FLOAT, to=T.FLOAT),
    "ReduceSum beyond 32 bits": lambda: with_constants("ReduceSum", 13, HUGE, np.array([0]), kind=T.INT64),
}
