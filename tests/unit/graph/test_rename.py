# SPDX-License-Identifier: Apache-2.0
"""Renaming values: whatever the new names are, the graph computes what it did and is valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.errors import StepError
from packager.graph import rename
from tests.support.breadth import examples

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[N, 2] x, float[N, 2] y) => (float[N, 2] sum, float[N, 2] twice)
<float[2] w = {1, 2}>
{
    one = Mul(x, w)
    positive = Constant <value = bool {1}> ()
    inner = If (positive) <
        then_branch = yes () => (float[N, 2] a) { two = Mul(one, w)  a = Add(two, y) },
        else_branch = no () => (float[N, 2] b) { b = Neg(one) }
    >
    sum = Add(inner, x)
    twice = Add(sum, sum)
}
"""
INNER = (
    "x",
    "y",
    "sum",
    "twice",
    "w",
    "one",
    "two",
    "a",
    "b",
    "inner",
    "positive",
    "one_inner_1",
    "größe",
    "你好 1",
    "",
)


def model() -> Any:
    return onnx.parser.parse_model(TEXT)


def results(proto: Any) -> list[Any]:
    onnx.checker.check_model(proto, full_check=True)
    feeds = [np.array([[1, 2]], "float32"), np.array([[30, 40]], "float32")]
    names = [value.name for value in proto.graph.input]
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, dict(zip(names, feeds, strict=True)))


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.sampled_from(INNER[:-1]) | st.text(min_size=1, max_size=4), min_size=4, max_size=4, unique=True))
def test_any_names_keep_what_is_computed(names: list[str]) -> None:
    names = [name.encode("utf-8", "replace").decode() or "x" for name in names]
    proto = model()
    if len(set(names)) < 4:
        return
    rename.name_ports(proto, names[:2], names[2:])
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == names
    for got, expected in zip(results(proto), results(model()), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_value_inside_moves_away() -> None:
    proto = model()
    rename.rename_values(proto, {"x": "one", "y": "two"})
    assert [value.name for value in proto.graph.input] == ["one", "two"]
    assert proto.graph.node[0].output[0] == "one_inner_1"
    np.testing.assert_array_equal(results(proto)[0], results(model())[0])


def test_a_subgraphs_own_name_is_its_own() -> None:
    proto = model()
    branch = next(a.g for n in proto.graph.node for a in n.attribute if a.name == "then_branch")
    branch.node[0].output[0] = branch.node[1].input[0] = "sum"  # not legal ONNX, but files have it
    rename.rename_values(proto, {"sum": "total"})
    assert branch.node[0].output[0] == branch.node[1].input[0] == "sum"
    assert proto.graph.output[0].name == "total"


def test_output_that_is_an_input_gets_its_own_value() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> n (float[2] x) => (float[2] x, float[2] y) { y = Neg(x) }'
    )
    rename.name_ports(proto, ["given"], ["back", "x"])
    feeds = {"given": np.array([1, 2], "float32")}
    back, negative = onnxruntime.InferenceSession(proto.SerializeToString()).run(["back", "x"], feeds)
    assert (back.tolist(), negative.tolist()) == ([1, 2], [-1, -2])


def test_two_alike_are_refused_and_defaults_give_way() -> None:
    with pytest.raises(StepError, match="`x` would be the name of two inputs or outputs"):
        rename.name_ports(model(), ["x", "y"], ["z", "x"])
    assert rename.distinct_names(["output", "x"], ["output", "y", "y"]) == ["output_1", "y", "y_1"]
