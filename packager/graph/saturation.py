# SPDX-License-Identifier: Apache-2.0
"""Find operators whose 8-bit sums depend on the processor; needs a graph that still has its weights.

Without the dot product of VNNI, ONNX Runtime multiplies 8-bit numbers on x86-64 by an instruction that adds two
products in 16 bits and stops at their end. Two products of a byte and a weight beyond ±64 do not fit. So a file with
such weights answers otherwise there, by whole steps; with weights of seven bits, on Arm and on GPUs all sums are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from packager.graph import canonicalise
from packager.graph.canonicalise import Proto

EXACT = ("avx512_vnni", "avx_vnni")
"""Flags of x86-64 processors, as Linux names them, any of which makes the sums exact."""
REDUCED = 64  # the largest weight of which two products with a byte always fit into 16 bits

_INTEGER: Mapping[str, tuple[int, int, int]] = {  # positions of the activation, of its zero point, and of the weights
    "MatMulInteger": (0, 2, 1),
    "ConvInteger": (0, 2, 1),
    "QLinearMatMul": (0, 2, 3),
    "QLinearConv": (0, 2, 3),
    "QGemm": (0, 2, 3),
    "MatMulIntegerToFloat": (0, 4, 1),
    "QAttention": (0, 6, 1),
}
_DYNAMIC: Mapping[str, tuple[int, ...]] = {"DynamicQuantizeMatMul": (1,), "DynamicQuantizeLSTM": (1, 2)}
_FLOAT = ("MatMul", "Gemm", "Conv")  # between DequantizeLinear they become operators on integers
_MOVES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")


def count_saturating(model: Proto) -> dict[str, int]:
    """Return how many nodes of which operator give other sums on a processor without VNNI; sorted by name."""
    found: Counter[str] = Counter()
    for scope in canonicalise.list_graphs(model):
        view = _View(scope)
        found.update(node.op_type for node in scope.node if view.saturates(node))
    return dict(sorted(found.items()))


class _View:
    """The weights and makers of values that a graph names; what an outer graph names is unknown here."""

    def __init__(self, scope: Proto) -> None:
        self._weights = {tensor.name: tensor for tensor in scope.initializer}
        self._makers = {name: node for node in scope.node for name in node.output}
        self._types = {value.name: value.type.tensor_type.elem_type for value in (*scope.input, *scope.value_info)}

    def saturates(self, node: Proto) -> bool:
        kinds = canonicalise.import_onnx().TensorProto
        if node.op_type in _INTEGER:
            activation, zero, weights = _INTEGER[node.op_type]
            signed = kinds.INT8 in (self._type(node, activation), self._type(node, zero))
            return not signed and self._is_wide(_at(node, weights))
        if node.op_type in _DYNAMIC:
            return any(self._is_wide(_at(node, position)) for position in _DYNAMIC[node.op_type])
        if node.op_type not in _FLOAT or len(node.input) < 2:
            return False
        return self._is_quantised(node.input[0]) and any(map(self._is_wide, self._integers_of(node.input[1])))

    def _type(self, node: Proto, position: int) -> int | None:
        name = _at(node, position)
        if name in self._weights:
            return int(self._weights[name].data_type)
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "QuantizeLinear" and len(maker.input) > 2:
            return self._type(maker, 2)
        return self._types.get(name)

    def _is_quantised(self, name: str) -> bool:
        """Say whether a value comes out of 8 bits. Signed ones become unsigned when the runtime opens the file."""
        maker = self._moved(name)
        return maker is not None and maker.op_type == "DequantizeLinear" and not self._is_weight(maker.input[0])

    def _is_weight(self, name: str) -> bool:
        return name in self._weights

    def _moved(self, name: str) -> Proto | None:
        """Return the node that makes a value, looking through those that only move numbers."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in _MOVES:
            maker = self._makers.get(maker.input[0])
        return maker

    def _integers_of(self, name: str) -> Iterator[str]:
        """Yield the name of the integers that a value is made of."""
        maker = self._moved(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            yield maker.input[0]

    def _is_wide(self, name: str) -> bool:
        """Say whether weights are signed bytes beyond what seven bits hold."""
        maker = self._makers.get(name)
        while name not in self._weights and maker is not None and maker.op_type in _MOVES:
            name = maker.input[0]
            maker = self._makers.get(name)
        if name in self._weights:
            return _widest(self._weights[name]) > REDUCED
        if maker is None or maker.op_type != "QuantizeLinear" or len(maker.input) < 3:
            return False
        signed = self._type(maker, 2) == canonicalise.import_onnx().TensorProto.INT8
        return signed and self._is_weight(maker.input[0])  # made when the file is opened: to the full range, by custom


def _at(node: Proto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _widest(tensor: Any) -> int:
    """Return the largest magnitude among signed bytes, 0 for other types and for weights that are elsewhere."""
    kinds = canonicalise.import_onnx().TensorProto
    if tensor.data_type != kinds.INT8 or tensor.data_location == kinds.EXTERNAL:
        return 0
    values = canonicalise.import_onnx().numpy_helper.to_array(tensor).astype("int16")
    return int(abs(values).max(initial=0))
