# SPDX-License-Identifier: Apache-2.0
"""Estimate one run of an ONNX graph: multiplications and additions at given lengths, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from packager.graph import canonicalise
from packager.graph.canonicalise import Proto

Shapes: TypeAlias = Mapping[str, "tuple[int, ...]"]

_SMALL = 1024  # elements of a constant whose values may be a shape
_UNCOUNTED = {"If", "Loop", "Scan", "SequenceMap", "Einsum", "Attention", "DeformConv", "STFT", "DFT"}


def without_weights(model: Proto) -> Proto:
    """Return a copy for counting: large weights are inputs of their shape, so that a copy is cheap."""
    onnx = canonicalise.import_onnx()
    light = onnx.ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import)
    light.graph.name = "light"
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    weights = {tensor.name for tensor in model.graph.initializer}
    light.graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SMALL:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    return light


def count(light: Proto, shapes: Shapes) -> float | None:
    """Count what a graph from `without_weights` does at these input shapes; None where that cannot be known."""
    if any(node.op_type in _UNCOUNTED or node.domain not in ("", "ai.onnx", "ai.onnx.ml") for node in light.graph.node):
        return None
    known = _inferred(light, shapes)
    counts = [_of(node, known) for node in light.graph.node if node.op_type in _COUNTS]
    return None if None in counts else float(sum(filter(None, counts)))


def _inferred(light: Proto, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    onnx = canonicalise.import_onnx()
    fixed = onnx.ModelProto()
    fixed.CopyFrom(light)
    for value in fixed.graph.input:
        for axis, length in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            axis.dim_value = length
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    main = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = {tensor.name: tuple(tensor.dims) for tensor in main.initializer}
    for value in (*main.input, *main.value_info, *main.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            known[value.name] = tuple(axis.dim_value for axis in axes)
    return known


def _of(node: Proto, known: Shapes) -> float | None:
    """Count one node by the shapes of its first inputs and, but for recurrent layers, of what it makes."""
    names = node.input[:3] if node.op_type in _RECURRENT else (*node.input[:2], node.output[0])
    shapes = [known[name] for name in names if name in known]
    return _COUNTS[node.op_type](shapes) if len(shapes) == 3 else None


def _product(shapes: Sequence[tuple[int, ...]]) -> float:
    left, _, made = shapes
    return 2.0 * math.prod(made) * left[-1]


def _gemm(shapes: Sequence[tuple[int, ...]]) -> float:
    left, right, made = shapes
    inner = math.isqrt(math.prod(left) * math.prod(right) // max(1, math.prod(made)))
    return 2.0 * math.prod(made) * inner


def _convolution(shapes: Sequence[tuple[int, ...]]) -> float:
    _, weights, made = shapes
    return 2.0 * math.prod(made) * math.prod(weights[1:])


def _transposed(shapes: Sequence[tuple[int, ...]]) -> float:
    given, weights, _ = shapes
    return 2.0 * math.prod(given) * math.prod(weights[1:])


def _recurrent(shapes: Sequence[tuple[int, ...]]) -> float:
    given, weights, states = shapes
    return 2.0 * math.prod(given[:2]) * (math.prod(weights) + math.prod(states))


_RECURRENT = ("LSTM", "GRU", "RNN")
_COUNTS: Mapping[str, Callable[[Sequence[tuple[int, ...]]], float]] = {
    "MatMul": _product,
    "MatMulInteger": _product,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
