# SPDX-License-Identifier: Apache-2.0
"""Nodes come after what they read, in every scope, and a graph that is in order stays as it is."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.graph import canonicalise
from tests.support.breadth import examples

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[2] x, bool on) => (float[2] y) {
    a = Neg(x)
    b = Add(a, x)
    c = If (on) <
        then_branch = yes () => (float[2] p) { o = Mul(b, a)  p = Abs(o) },
        else_branch = no () => (float[2] q) { q = Relu(a) }
    >
    d = Sub(c, b)
    y = Mul(d, a)
}
"""


def shuffled(scope: Any, random: Random) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in scope.node]
    random.shuffle(nodes)
    del scope.node[:]
    scope.node.extend(nodes)
    for node in scope.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                shuffled(attribute.g, random)


def answer(model: Any) -> Any:
    onnx.checker.check_model(model)
    feeds = {"x": np.array([1, -2], "float32"), "on": np.array(True)}
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


@settings(deadline=None, max_examples=examples(25))
@given(st.integers(0, 1000))
def test_any_order_becomes_one_that_runs(seed: int) -> None:
    model = onnx.parser.parse_model(TEXT)
    expected = answer(onnx.parser.parse_model(TEXT))
    shuffled(model.graph, Random(seed))
    np.testing.assert_array_equal(answer(canonicalise.canonicalise(model, opset=18, ir=8)), expected)


def test_what_is_in_order_keeps_it() -> None:
    model = canonicalise.canonicalise(onnx.parser.parse_model(TEXT), opset=18, ir=8)
    assert [node.op_type for node in model.graph.node] == ["Neg", "Add", "If", "Sub", "Mul"]


@pytest.mark.parametrize(
    ("needs", "order"), [([set(), {0}, {1}], [0, 1, 2]), ([{1}, set(), {0}], [1, 0, 2]), ([{1}, {0}], [0, 1])]
)
def test_the_order_of_indices(needs: list[set[int]], order: list[int]) -> None:
    assert canonicalise._order(needs) == order
