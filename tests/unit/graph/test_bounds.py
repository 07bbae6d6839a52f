# SPDX-License-Identifier: Apache-2.0
"""Shapes at the largest sizes: what a graph computes from sizes is known, what it computes from values is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.graph import bounds


def model(nodes: list[onnx.NodeProto], shape: list[str | int], rank: int, **named: Any) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{axis}" for axis in range(rank)])]
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in named.items()]
    made = helper.make_graph(nodes, "g", ports, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def make(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


PATCHES = [  # (height - 1) // 4 + 1 rows, as torch writes a convolution of stride four
    make("Shape", "x", "h", start=1, end=2),
    make("Add", "h less", "a"),
    make("Div", "a four", "b"),
    make("Add", "b one", "c"),
    make("Concat", "whole c", "s", axis=0),
    make("Reshape", "x s", "y"),
]
COUNTED = [  # as many positions as there are columns
    make("Shape", "x", "w", start=1),
    make("Squeeze", "w", "n"),
    make("Range", "zero n step", "r"),
    make("Cast", "r", "f", to=TensorProto.FLOAT),
    make("Unsqueeze", "f first", "u"),
    make("Mul", "u turned", "v"),
    make("Add", "x v", "y"),
]


@pytest.mark.parametrize(
    ("nodes", "shape", "sizes", "named"),
    [
        (
            PATCHES,
            ["rows", "height"],
            {"rows": 4, "height": 28},
            {"less": [-1], "four": [4], "one": [1], "whole": [-1]},
        ),
        (
            COUNTED,
            ["rows", "columns"],
            {"rows": 3, "columns": 50},
            {"zero": 0, "step": 1, "first": [0], "turned": np.ones((3, 1), "float32")},
        ),
    ],
    ids=["divided", "counted"],
)
def test_a_size_that_is_computed_is_that_of_a_run(
    nodes: list[onnx.NodeProto], shape: list[str | int], sizes: dict[str, int], named: dict[str, Any]
) -> None:
    made = model(nodes, shape, 2, **named)
    known = bounds.bound(made, sizes).graph
    (found,) = ([axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in known.output)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.ones([sizes[str(name)] for name in shape], "float32")})
    assert found == list(got.shape)
    assert all(bounds._is_known(value.type) for value in known.value_info)


def test_a_size_that_depends_on_values_stays_unknown() -> None:
    nodes = [make("NonZero", "x", "n"), make("Cast", "n", "y", to=TensorProto.FLOAT)]
    known = bounds.bound(model(nodes, ["rows", 4], 2), {"rows": 8}).graph
    assert [axis.dim_value for axis in known.output[0].type.tensor_type.shape.dim] == [2, 0]


def test_large_values_are_not_computed() -> None:
    nodes = [make("Range", "zero most one", "r"), make("Cast", "r", "c", to=TensorProto.FLOAT), make("Add", "c x", "y")]
    walk = bounds._Walk(bounds.bound(model(nodes, [1], 1, zero=0, most=1 << 40, one=1), {}))
    for node in walk._graph.node:
        walk._compute(node)
    assert not {"r", "c", "y"} & set(walk._values)
