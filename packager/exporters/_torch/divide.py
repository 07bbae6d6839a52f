# SPDX-License-Identifier: Apache-2.0
"""Integer division for torch's exporter, whose own goes through float32 and loses what is beyond 2**24.

A millisecond count divided by 1000 would be off by minutes. ONNX's `Div` of integers truncates exactly, as C's does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def translations(lib: Any) -> Mapping[Any, Callable[..., Any]]:
    """Return what `torch.onnx.export` takes as `custom_translation_table`."""
    op = importlib.import_module("onnxscript").opset18
    kinds = importlib.import_module("onnx_ir").DataType

    def divide(self: Any, other: Any, rounding_mode: str | None = None) -> Any:  # torch reads the names
        if not self.dtype.is_integer():
            quotient = op.Div(self, other)
            return quotient if rounding_mode is None else _whole(op, quotient, rounding_mode)
        if rounding_mode is None:
            return op.Div(op.Cast(self, to=kinds.FLOAT), op.Cast(other, to=kinds.FLOAT))
        quotient = op.Div(self, other)
        return quotient if rounding_mode == "trunc" else _floor(op, quotient, self, other)

    return {lib.ops.aten.div.Tensor_mode: divide}


def _whole(op: Any, quotient: Any, mode: str) -> Any:
    down = op.Floor(quotient)
    return down if mode == "floor" else op.Where(op.Less(quotient, op.CastLike(0.0, quotient)), op.Ceil(quotient), down)


def _floor(op: Any, quotient: Any, left: Any, right: Any) -> Any:
    """Return the quotient rounded down: one less where something is left and the signs differ."""
    rest = op.Sub(left, op.Mul(quotient, right))
    zero = op.CastLike(0, left)
    differs = op.Xor(op.Less(rest, zero), op.Less(right, zero))
    lower = op.And(op.Not(op.Equal(rest, zero)), differs)
    return op.Sub(quotient, op.CastLike(lower, quotient))
