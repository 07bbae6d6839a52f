# SPDX-License-Identifier: Apache-2.0
"""What one run costs follows from shapes, whatever the weights are and wherever lengths come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from packager.graph import cost, value_flow

NET = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[N, 3, H, 8] x, float[64, 4] w) => (y)
<float[4, 3, 3, 3] k, float[64, 4] w>
{
    c = Conv <pads = [1, 1, 1, 1]> (x, k)
    shape = Constant <value = int64[2] {-1, 64}> ()
    flat = Reshape(c, shape)
    y = MatMul(flat, w)
}
"""


def net() -> Any:
    text = NET.replace("<float[4, 3, 3, 3] k, float[64, 4] w>", "").replace("(y)", "(float[M, 4] y)")
    model = onnx.parser.parse_model(text)
    for name, shape in (("k", (4, 3, 3, 3)), ("w", (64, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, "float32"), name))
    return model


def test_products_and_convolutions_are_counted() -> None:
    light = cost.without_weights(net())
    convolution, product = 2 * (2 * 4 * 16 * 8) * 27, 2 * (16 * 4) * 64
    assert cost.count(light, {"x": (2, 3, 16, 8)}) == convolution + product
    assert cost.count(light, {"x": (4, 3, 16, 8)}) == 2 * (convolution + product)


def test_recurrent_layers_are_counted_by_their_weights() -> None:
    made = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5)
    ports = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["T", "N", 3]), ("y", None))]
    weights = [onnx.numpy_helper.from_array(np.zeros((1, 20, k), "float32"), n) for n, k in (("w", 3), ("r", 5))]
    main = onnx.helper.make_graph([made], "net", ports[:1], ports[1:], weights)
    model = onnx.helper.make_model(main, opset_imports=[onnx.helper.make_opsetid("", 18)])
    assert cost.count(cost.without_weights(model), {"x": (7, 2, 3)}) == 2 * 14 * (60 + 100)


@pytest.mark.parametrize("operator", ["Einsum", "Loop"])
def test_what_cannot_be_counted_is_not_guessed(operator: str) -> None:
    model = net()
    model.graph.node.add(op_type=operator, input=["x"], output=["z"])
    assert cost.count(cost.without_weights(model), {"x": (2, 3, 16, 8)}) is None


FLOW = """
<ir_version: 8, opset_import: ["" : 18]>
net (int64[N] ids, int64[N] pos, int64[2] size, float[N, 4] x) => (float[A, B] y)
<float[11, 4] words = {WORDS}>
{
    two = Constant <value = int64 {2}> ()
    twice = Mul(ids, two)
    found = Gather(words, twice)
    sum = Add(found, x)
    y = Expand(sum, size)
}
""".replace("WORDS", ", ".join(["0.0"] * 44))


def test_where_an_input_goes() -> None:
    main = onnx.parser.parse_model(FLOW).graph
    assert value_flow.table_lengths(main, "ids") == [11]
    assert value_flow.table_lengths(main, "pos") == [] and not value_flow.sets_lengths(main, "ids")
    assert value_flow.sets_lengths(main, "size")
