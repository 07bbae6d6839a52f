# SPDX-License-Identifier: Apache-2.0
"""Graphs as `tf2onnx` leaves them become graphs with the interface's names, whatever those are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from packager.errors import StepError
from packager.exporters import Port
from packager.exporters._tensorflow import graph

HEAD = '<ir_version: 8, opset_import: ["" : 18]>'


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD} {text}")


def answers(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def left_over(operator: str, **attributes: Any) -> onnx.ModelProto:
    model = parsed("g (float[n] x) => (float[n] y) { a = Neg (x)  y = Neg (a) }")
    model.graph.node[1].op_type = operator
    model.graph.node[1].attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
    return model


def test_an_exact_gelu_of_keras_has_a_form() -> None:
    model = left_over("Erfc")
    graph.replace_tensorflow_operators(model, "export it another way")
    x = np.linspace(-5, 5, 41, dtype="float32")
    (y,) = answers(model, x=x)
    assert np.abs(y - [math.erfc(-value) for value in x]).max() < 2e-7


def test_buckets_are_those_of_tensorflow() -> None:
    """A value on a boundary belongs to the bucket above, and so does NaN, to the last one."""
    model = left_over("Bucketize", boundaries=[-1.0, 0.5, 2.0])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    graph.replace_tensorflow_operators(model, "export it another way")
    (y,) = answers(model, x=-np.array([-9.0, -1.0, 0.0, 0.5, 1.9, 2.0, 9.0, np.nan], "float32"))
    assert y.tolist() == [0, 1, 1, 2, 2, 3, 3, 3]


def test_an_operator_that_stays_is_named() -> None:
    with pytest.raises(StepError, match="`Betainc` of TensorFlow has no ONNX form"):
        graph.replace_tensorflow_operators(left_over("Betainc"), "export it another way")


def test_an_input_that_the_model_does_not_use_stays_one() -> None:
    model = parsed("g (float[n] given_1) => (float[n] out) { out = Neg (given_1) }")
    ports = [Port("spare", "int64", ("batch", 2)), Port("x", "float32", ("batch",))]
    graph.name(model, ("given_0", "given_1", "out"), ports, ["y"])
    (y,) = answers(model, spare=np.zeros((3, 2), "int64"), x=np.ones(3, "float32"))
    assert y.tolist() == [-1, -1, -1] and [value.name for value in model.graph.input] == ["spare", "x"]


def test_names_of_the_interface_win_over_those_inside() -> None:
    """An input called like an inner value, an output like another one, a loop that reads both from around it."""
    model = parsed("""g (float[n] t_0, float[n] t_1) => (float[n] out) {
        y = Neg (t_0)  x = Abs (t_1)  yes = Constant <value = bool {1}> ()
        out = If (yes) <
            then_branch = a () => (float[n] r) { r = Add (y, t_1) },
            else_branch = b () => (float[n] s) { s = Sub (x, t_0) } >
    }""")
    ports = [Port("x", "float32", ("batch",)), Port("y", "float32", ("batch",))]
    graph.name(model, ("t_0", "t_1", "out"), ports, ["yes"])
    (found,) = answers(model, x=np.array([1.0], "float32"), y=np.array([5.0], "float32"))
    assert found.tolist() == [4.0] and model.graph.output[0].name == "yes"


def test_a_constant_that_became_an_input_is_refused() -> None:
    model = parsed("g (float[n] given_0, float captured) => (float[n] out) { out = Add (given_0, captured) }")
    with pytest.raises(StepError, match="`captured`, which is no input or output of the model"):
        graph.name(model, ("given_0", "out"), [Port("x", "float32", ("batch",))], ["y"])
