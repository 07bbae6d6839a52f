# SPDX-License-Identifier: Apache-2.0
"""Write ONNX graphs of tables: every value is [batch, width], numbers are binary64 as in numpy.

A `Builder` collects nodes and constants; a `Value` names a tensor and knows its type and width; a `Frame` is what an
estimator is called with: blocks of columns side by side, each in its own type, as in a data frame. The operators
used are those with kernels for binary64 in every ONNX Runtime since 1.15, at any opset from 13 on.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from packager.errors import StepError

LOWEST_OPSET = 13
ML_OPSET = 3  # of the domain ai.onnx.ml: what ONNX Runtime reads since 1.11, doubles in trees included
ML, TEXT = "ai.onnx.ml", "com.microsoft"
_DOMAINS = {"": None, ML: ML_OPSET, TEXT: 1}
_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMin": 18, "ReduceMean": 18, "ReduceProd": 18}
FLOATS = ("float64", "float32")
NUMBERS = (*FLOATS, "int64", "int32", "bool")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor [batch, width] in the making; `dtype` is numpy's name, `string` for text."""

    name: str
    dtype: str
    width: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Blocks of columns side by side, and the name of every column; no names for what is only a matrix."""

    blocks: tuple[Value, ...]
    names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return sum(block.width for block in self.blocks)

    @property
    def dtypes(self) -> list[str]:
        """Return the type of every column."""
        return [block.dtype for block in self.blocks for _ in range(block.width)]


class Builder:
    """A graph in the making. Names of nodes and values inside it never equal one in `reserved`."""

    def __init__(self, opset: int, reserved: Sequence[str] = ()) -> None:
        if opset < LOWEST_OPSET:
            raise StepError(
                f"models for tables are written at opset {LOWEST_OPSET} or newer, got {opset}",
                hint="leave `export: {opset: …}` out of the recipe, or raise the oldest version under `runs-on`",
            )
        self.opset = opset
        self.inexact = ""  # a function whose last bit the library computes otherwise; a threshold behind it may show it
        self._onnx = importlib.import_module("onnx")
        self._numpy = importlib.import_module("numpy")
        self._reserved = set(reserved)
        self._count = 0
        self._nodes: list[Any] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._tensors: list[Any] = []
        self._emitted: dict[tuple[Any, ...], Any] = {}

    # -- nodes and constants

    def unique_name(self, stem: str) -> str:
        """Return a name that nothing in the graph has."""
        while True:
            self._count += 1
            name = f"{stem.lower()}_{self._count}"
            if name not in self._reserved:
                return name

    def node(self, kind: str, inputs: Sequence[str], *, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its only output, or of its first one (others follow as `NAME:1`, …)."""
        first = self.unique_name(kind)
        names = [first, *(f"{first}:{index}" for index in range(1, outputs))]
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), names, name=f"{first}_node", domain=domain, **attributes)
        )
        return first

    def constant(self, values: Any, dtype: str | None = None) -> str:
        """Return the name of a constant with these values; equal constants are one."""
        kind = object if dtype == "string" else None  # numpy's own text drops NULs at its end
        array = self._numpy.asarray(values, dtype=kind, order="C")
        if dtype == "string" or array.dtype.kind in "OUS":
            return self._text_constant(array)
        array = array.astype(dtype) if dtype else array
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._keep(key, lambda name: self._onnx.numpy_helper.from_array(array, name))

    def _text_constant(self, array: Any) -> str:
        items = [str(item) for item in array.reshape(-1).tolist()]
        encoded = [item.encode() for item in items]
        key = ("string", array.shape, tuple(items))
        kind = self._onnx.TensorProto.STRING
        return self._keep(
            key, lambda name: self._onnx.TensorProto(name=name, data_type=kind, dims=array.shape, string_data=encoded)
        )

    def _keep(self, key: tuple[Any, ...], make: Any) -> str:
        if key not in self._constants:
            self._constants[key] = self.unique_name("constant")
            self._tensors.append(make(self._constants[key]))
        return self._constants[key]

    def remember(self, key: tuple[Any, ...], make: Any) -> Any:
        """Return what `make` returned the first time for `key`: an estimator that is used twice is written once."""
        if key not in self._emitted:
            self._emitted[key] = make()
        return self._emitted[key]

    # -- values

    def of(self, value: Value | Any, like: str = "float64") -> str:
        """Return the name of a value, or of a constant [1, width] (or scalar) of type `like`."""
        if isinstance(value, Value):
            return value.name
        array = self._numpy.asarray(value)
        return self.constant(array.reshape(1, -1) if array.ndim < 2 else array, like)

    def cast(self, value: Value, dtype: str) -> Value:
        """Return the value in another numeric type."""
        if value.dtype == dtype:
            return value
        number = self._onnx.helper.np_dtype_to_tensor_dtype(self._numpy.dtype(dtype))
        return Value(self.node("Cast", [value.name], to=number), dtype, value.width)

    def unary(self, kind: str, value: Value, dtype: str | None = None) -> Value:
        """Apply an elementwise operator such as `Exp`, `Sqrt`, `IsNaN`."""
        made = "bool" if kind in ("IsNaN", "IsInf", "Not") else dtype or value.dtype
        return Value(self.node(kind, [value.name]), made, value.width)

    def binary(self, kind: str, left: Value | Any, right: Value | Any) -> Value:
        """Apply an elementwise operator to two values, or a value and numbers (a scalar or one per column).

        Comparisons (`Less`, `Equal`, …) give bool; `And`, `Or` take it.
        """
        given = left if isinstance(left, Value) else right
        names = [self._factor(kind, side, given) for side in (left, right)]
        width = max(self._width(left), self._width(right))
        truth = kind in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Or", "Xor")
        return Value(self.node(kind, names), "bool" if truth else given.dtype, width)

    def _factor(self, kind: str, side: Value | Any, given: Value) -> str:
        """Return the name of an operand; one number that multiplies or divides is repeated for every element.

        ONNX Runtime folds a factor of one element into a neighbouring MatMul, and rounds it to 24 bits for that.
        """
        folded = kind in ("Mul", "Div") and given.dtype == "float64" and not isinstance(side, Value)
        if not folded or self._numpy.size(side) > 1:
            return self.of(side, given.dtype)
        number = float(self._numpy.reshape(side, -1)[0])
        mantissa, exponent = math.frexp(number)
        if abs(mantissa) in (0.0, 0.5) and abs(exponent) < 126:  # a power of two that a float32 holds loses nothing
            return self.of(side, given.dtype)
        return self.of([number] * given.width) if given.width > 1 else self.spread(given, [number]).name

    def _width(self, side: Value | Any) -> int:
        if isinstance(side, Value):
            return side.width
        array = self._numpy.asarray(side)
        return int(array.shape[-1]) if array.ndim else 1

    def add(self, left: Value | Any, right: Value | Any) -> Value:
        return self.binary("Add", left, right)

    def sub(self, left: Value | Any, right: Value | Any) -> Value:
        return self.binary("Sub", left, right)

    def mul(self, left: Value | Any, right: Value | Any) -> Value:
        return self.binary("Mul", left, right)

    def div(self, left: Value | Any, right: Value | Any) -> Value:
        return self.binary("Div", left, right)

    def where(self, condition: Value, yes: Value | Any, no: Value | Any, dtype: str = "float64") -> Value:
        """Choose by element."""
        made = next((side.dtype for side in (yes, no) if isinstance(side, Value)), dtype)
        names = [condition.name, *(self.of(side, made) for side in (yes, no))]
        width = max(condition.width, self._width(yes), self._width(no))
        return Value(self.node("Where", names), made, width)

    def matmul(self, value: Value, matrix: Any) -> Value:
        """Multiply with a constant matrix [width, columns]."""
        array = self._numpy.asarray(matrix)
        return Value(self.node("MatMul", [value.name, self.constant(array, value.dtype)]), value.dtype, array.shape[1])

    def concat(self, values: Sequence[Value]) -> Value:
        """Put values of one type side by side."""
        if len(values) == 1:
            return values[0]
        made = self.node("Concat", [value.name for value in values], axis=1)
        return Value(made, values[0].dtype, sum(value.width for value in values))

    def take(self, value: Value, positions: Sequence[int]) -> Value:
        """Return some of the columns, in the order of `positions`."""
        if list(positions) == list(range(value.width)):
            return value
        made = self.node("Gather", [value.name, self.constant(list(positions), "int64")], axis=1)
        return Value(made, value.dtype, len(positions))

    def reduce(self, kind: str, value: Value) -> Value:
        """Reduce every row to one number: `ReduceSum`, `ReduceMax`, `ReduceMin`, `ReduceMean`, `ReduceProd`."""
        if self.opset >= _AXES_ARE_INPUTS[kind]:
            made = self.node(kind, [value.name, self.constant([1], "int64")], keepdims=1)
        else:
            made = self.node(kind, [value.name], axes=[1], keepdims=1)
        return Value(made, value.dtype, 1)

    def position_of(self, kind: str, value: Value) -> Value:
        """Return the position of the first largest (`ArgMax`) or smallest (`ArgMin`) of every row."""
        return Value(self.node(kind, [value.name], axis=1, keepdims=1), "int64", 1)

    def look_up(self, table: Any, position: Value) -> Value:
        """Return row `position` (int64, one column) of a constant table [rows, columns] or [rows]."""
        array = self._numpy.asarray(table)
        array = array.reshape(len(array), -1)
        kind = "string" if array.dtype.kind in "OUS" else array.dtype.name
        flat = self.node("Reshape", [position.name, self.constant([-1], "int64")])
        made = self.node("Gather", [self.constant(array, kind), flat], axis=0)
        return Value(made, kind, array.shape[1])

    def spread(self, like: Value, row: Any, dtype: str = "float64") -> Value:
        """Return one constant row for every row of `like`."""
        array = self._numpy.asarray(row).reshape(1, -1)
        kind = "string" if array.dtype.kind in "OUS" else dtype
        rows = self.node("Gather", [self.node("Shape", [like.name]), self.constant([0], "int64")])
        shape = self.node("Concat", [rows, self.constant([array.shape[1]], "int64")], axis=0)
        return Value(self.node("Expand", [self.constant(array, kind), shape]), kind, array.shape[1])

    def code_of(self, text: Value, known: Sequence[str], other: int = -1) -> Value:
        """Return the position of every text among `known`, `other` for a text that is not."""
        made = (
            self.node(
                "LabelEncoder",
                [text.name],
                domain=ML,
                keys_strings=list(known),
                values_int64s=list(range(len(known))),
                default_int64=other,
            )
            if known
            else self.spread(text, [other] * text.width, "int64").name
        )
        return Value(made, "int64", text.width)

    # -- frames

    def column(self, frame: Frame, position: int) -> Value:
        """Return one column."""
        for block in frame.blocks:
            if position < block.width:
                return self.take(block, [position])
            position -= block.width
        raise IndexError(position)

    def columns(self, frame: Frame) -> list[Value]:
        """Return every column by itself."""
        return [self.column(frame, position) for position in range(frame.width)]

    def select(self, frame: Frame, positions: Sequence[int]) -> Frame:
        """Return some of the columns of a frame, neighbours of one block together."""
        names = tuple(frame.names[position] for position in positions) if frame.names else ()
        starts, start = [], 0
        for block in frame.blocks:
            starts.append(start)
            start += block.width
        runs: list[tuple[int, list[int]]] = []
        for position in positions:
            owner = max(index for index, first in enumerate(starts) if first <= position)
            if runs and runs[-1][0] == owner:
                runs[-1][1].append(position - starts[owner])
            else:
                runs.append((owner, [position - starts[owner]]))
        return Frame(tuple(self.take(frame.blocks[owner], own) for owner, own in runs), names)

    def matrix(self, frame: Frame, dtype: str | None = None) -> Value:
        """Return a frame as the one matrix that numpy makes of it: float64, or float32 where every column is that.

        With `dtype`, cast as scikit-learn casts such a matrix: integers alone directly, mixed ones through float64.
        Raises StepError for text.
        """
        kinds = set(frame.dtypes)
        if "string" in kinds:
            raise StepError(
                "a step of the model computes with numbers and is given text",
                hint="encode text columns before it, in the model",
            )
        common = "float32" if kinds == {"float32"} else "float64"
        if dtype and not kinds & set(FLOATS):
            common = dtype
        whole = self.concat([self.cast(block, common) for block in frame.blocks])
        return self.cast(whole, dtype) if dtype else whole

    # -- the end

    def model(self, inputs: Sequence[tuple[Value, str]], outputs: Sequence[tuple[Value, str, int]]) -> Any:
        """Return the `onnx.ModelProto`: inputs with their names; outputs with names and ranks (1: one per row)."""
        helper = self._onnx.helper
        given = [self._info(name, value, 2) for value, name in inputs]
        made = [self._info(name, self._named(value, name, rank), rank) for value, name, rank in outputs]
        graph = helper.make_graph(self._nodes, "model", given, made, self._tensors)
        used = {"", *(node.domain for node in self._nodes)}
        versions = [(domain, version or self.opset) for domain, version in _DOMAINS.items() if domain in used]
        return helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in versions], ir_version=8)

    def _named(self, value: Value, name: str, rank: int) -> Value:
        kind, more = ("Identity", []) if rank == 2 else ("Reshape", [self.constant([-1], "int64")])
        self._nodes.append(self._onnx.helper.make_node(kind, [value.name, *more], [name], name=f"{name}_output"))
        return value

    def _info(self, name: str, value: Value, rank: int) -> Any:
        shape = ["batch", value.width] if rank == 2 else ["batch"]
        return self._onnx.helper.make_tensor_value_info(name, self._number(value.dtype), shape)

    def _number(self, dtype: str) -> int:
        """Return what ONNX calls a type."""
        if dtype == "string":
            return int(self._onnx.TensorProto.STRING)
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(self._numpy.dtype(dtype)))

    # -- repetition

    def repeat(self, most: int, start: Value, step: Callable[[Value], tuple[Value, Value]]) -> Value:
        """Apply `step` to a value again and again: while its second result, one bool per row, holds for any row.

        Rows for which it does not hold keep what they had. At most `most` times.
        """
        helper, kind = self._onnx.helper, self._onnx.helper.np_dtype_to_tensor_dtype(self._numpy.dtype(start.dtype))
        outside, self._nodes = self._nodes, []
        state = Value(self.unique_name("state"), start.dtype, start.width)
        made, going = step(state)
        kept = self.where(going, made, state)
        any_left = self.node("Greater", [self._count_of(going), self.constant(0, "int64")])
        count, before = self.unique_name("turn"), self.unique_name("going")
        info = helper.make_tensor_value_info
        inputs = [info(count, 7, []), info(before, 9, []), info(state.name, kind, None)]
        outputs = [info(any_left, 9, []), info(kept.name, kind, None)]
        body = helper.make_graph(self._nodes, self.unique_name("body"), inputs, outputs)
        self._nodes = outside
        limit, go = self.constant(most, "int64"), self.constant(True, "bool")
        return Value(self.node("Loop", [limit, go, start.name], body=body), start.dtype, start.width)

    def _count_of(self, truth: Value) -> str:
        """Return the number of rows that are true, as a scalar."""
        return self.node("ReduceSum", [self.cast(truth, "int64").name], keepdims=0)
