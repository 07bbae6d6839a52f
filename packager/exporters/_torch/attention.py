# SPDX-License-Identifier: Apache-2.0
"""Attention in torch's exporter for fully masked rows: torch answers zeros, a softmax of infinities NaN.

An empty text in a batch is such a row. torch's exporter minds it for masks of flags, not for those of numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from packager.graph import canonicalise

_ORIGIN = "pkg.torch.onnx.fx_node"
_LARGEST = 64 << 20  # bytes of a constant that may be a mask
_FLOATS = (1, 10, 11)  # of onnx.TensorProto: float32, float16, float64


def answer_hidden_rows(model: Any) -> None:
    """Give attention that adds infinities to its scores zeros for rows without any, in place."""
    main = model.graph
    found = [node for node in main.node if node.op_type == "Softmax" and _is_attention(node)]
    if not found or not any(map(_is_infinite, _constants(model))):
        return
    for number, node in zip(itertools.count(), found):
        _mend(main, node, f"attention_{number}")


def _constants(model: Any) -> Iterator[Any]:
    return (message for message in canonicalise.walk_messages(model) if message.DESCRIPTOR.name == "TensorProto")


def _is_infinite(tensor: Any) -> bool:
    if tensor.data_type not in _FLOATS or tensor.external_data or len(tensor.raw_data) > _LARGEST:
        return False
    return bool((canonicalise.import_onnx().numpy_helper.to_array(tensor) == float("-inf")).any())


def _is_attention(node: Any) -> bool:
    origin = next((entry.value for entry in node.metadata_props if entry.key == _ORIGIN), "")
    return "scaled_dot_product_attention" in origin


def _mend(main: Any, node: Any, prefix: str) -> None:
    helper, taken = (
        canonicalise.import_onnx().helper,
        {name for item in main.node for name in (*item.input, *item.output)},
    )
    names = (f"{prefix}_{index}" for index in itertools.count())
    weights, hidden, zero, none = itertools.islice((name for name in names if name not in taken), 4)
    result, node.output[0] = node.output[0], weights
    made = [
        helper.make_node("IsNaN", [weights], [hidden]),
        helper.make_node("Constant", [], [none], value_float=0.0),
        helper.make_node("CastLike", [none, weights], [zero]),
        helper.make_node("Where", [hidden, zero, weights], [result]),
    ]
    position = list(main.node).index(node)
    for offset, item in enumerate(made, start=1):
        main.node.insert(position + offset, item)
