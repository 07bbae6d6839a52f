# SPDX-License-Identifier: Apache-2.0
"""What a graph needs: definitions and element types as the standard has them, memory as an estimate that says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from packager.contract import runtime_support
from packager.graph import canonicalise, needs
from tests.support import graphs


def operators(name: str) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = graphs.facts(graphs.GRAPHS[name]().graph)["operators"]["ai.onnx"]
    return found


def test_a_definition_is_the_newest_not_above_the_opset() -> None:
    assert operators("shapes at 18")["Pad"] == {"18": ["T=int32"]}
    assert operators("shapes at 19")["Pad"] == {"19": ["T=int32"]}
    assert operators("shapes at 19")["Cast"] == {"19": ["T1=float32;T2=int32", "T1=int32;T2=float32"]}


def test_element_types_give_the_precision() -> None:
    assert operators("encoder")["LayerNormalization"] == {"17": ["T=float32"]}
    assert operators("encoder in fp16")["LayerNormalization"] == {"17": ["T=float16"]}
    assert operators("int8 at 19")["QuantizeLinear"] == {"19": ["T1=float32;T2=int8"]}


def test_what_is_inside_a_branch_counts() -> None:
    found = operators("If with Gelu")
    assert found["If"] == {"19": [""]} and found["Gelu"] == {"20": ["T=float32"]}


def test_a_text_operator_names_its_locale() -> None:
    assert operators("texts")["StringNormalizer"] == {"10": ["locale=C.UTF-8"]}


def test_a_local_function_is_written_out() -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("local", "twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    node = helper.make_node("twice", ["x"], ["y"], domain="local")
    model = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:]),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("local", 1)],
    )
    assert needs.list_needs(model)["operators"] == {"ai.onnx": {"Relu": {"14": ["T=float32"]}}}


def of_tables(*nodes: onnx.NodeProto, ml: int = 3) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return the operators of x (float32) -> `nodes` -> y, which are written as converters do: without inner types."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", ml)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets)
    found: dict[str, dict[str, dict[str, list[str]]]] = needs.list_needs(model)["operators"]
    return found


def ml(operator: str, given: str, made: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [given], made, domain="ai.onnx.ml", **attributes)


IMPUTER = ml("Imputer", "x", ["full"], imputed_value_floats=[0.0])
SCALER = ml("Scaler", "full", ["scaled"], offset=[0.0], scale=[1.0])


def test_what_follows_an_operator_of_tables_has_its_type() -> None:
    found = of_tables(
        IMPUTER,
        SCALER,
        helper.make_node("Cast", ["scaled"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Sqrt", ["wide"], ["root"]),
        ml("Normalizer", "root", ["y"]),
    )
    assert found["ai.onnx.ml"] == {
        "Imputer": {"1": ["T=float32"]},
        "Normalizer": {"1": ["T=float64"]},
        "Scaler": {"1": ["T=float32"]},
    }
    assert found["ai.onnx"] == {"Cast": {"13": ["T1=float32;T2=float64"]}, "Sqrt": {"13": ["T=float64"]}}


def test_what_is_behind_it_in_a_branch_has_its_type_too() -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([ml("Scaler", "full", ["s"]), helper.make_node("Neg", ["s"], ["y"])], "b", [], [y])
    chosen = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    found = of_tables(
        IMPUTER,
        helper.make_node("Constant", [], ["c"], value=chosen),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    )
    assert found["ai.onnx"]["Neg"] == {"13": ["T=float32"]} and found["ai.onnx.ml"]["Scaler"] == {"1": ["T=float32"]}


@pytest.mark.parametrize(
    ("classes", "kind"), [({"classlabels_strings": ["a"]}, "string"), ({"classlabels_int64s": [1]}, "int64")]
)
@pytest.mark.parametrize("opset", [3, 5])
def test_a_classifier_gives_what_its_classes_are(classes: dict[str, Any], kind: str, opset: int) -> None:
    tree = ml("TreeEnsembleClassifier", "x", ["label", "y"], **classes)
    found = of_tables(tree, helper.make_node("Identity", ["label"], ["copy"]), ml=opset)
    assert found["ai.onnx"]["Identity"] == {"16": [f"V={kind}"]}


def test_a_converted_pipeline_is_known_to_load_where_it_loads() -> None:
    """skl2onnx leaves inner types out."""
    rows = np.random.default_rng(3).random((60, 3), "float32")
    fitted = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(rows, rows.sum(1) > 1.5)
    model = skl2onnx.to_onnx(fitted, rows[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    needed = {**canonicalise.list_facts(model), "operators": needs.list_needs(model)["operators"], "ir": 8}
    assert {"Imputer", "Scaler", "LinearClassifier"} <= set(needed["operators"]["ai.onnx.ml"])
    assert "?" not in str(needed["operators"])
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert runtime_support.judge_graph(needed, "onnxruntime", "1.17.0").outcome == "ok"


def test_underivable_types_stay_unknown() -> None:
    strange = helper.make_node("Strange", ["x"], ["z"], domain="com.example")
    found = of_tables(strange, helper.make_node("Neg", ["z"], ["y"]))
    assert found["ai.onnx"]["Neg"] == {"13": ["T=?"]}


def chain(rows: int | str) -> onnx.ModelProto:
    """x (rows, 4) -> Relu -> MatMul with 4 by 8 -> y."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 8]),
    ]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    weight = numpy_helper.from_array(np.ones((4, 8), "float32"), "w")
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(("rows", "bounds"), [(16, {}), ("batch", {"batch": (1, 16)})])
def test_memory_is_what_lives_at_once(rows: int | str, bounds: dict[str, tuple[int, int]]) -> None:
    # 16 x 4 floats are 256 bytes, 16 x 8 are 512: x and r live together, then r and y
    assert needs.list_needs(chain(rows), bounds)["activations"].items() >= {"bytes": 768, "unknown": 0}.items()


def test_what_has_no_stated_size_is_counted_not_guessed() -> None:
    assert needs.list_needs(chain("rows"), {})["activations"].items() >= {"bytes": 0, "unknown": 3}.items()


def test_a_size_that_the_graph_computes_is_known_at_the_bounds() -> None:
    """x (batch, 64) becomes (2 * batch, 32), by arithmetic on its shape as exporters write it."""
    named = {"first": np.array(0), "two": np.array(2), "axis": np.array([0]), "rest": np.array([-1])}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["double", "half"])]
    weights = [numpy_helper.from_array(array, name) for name, array in named.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports, outputs, weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    found = needs.list_needs(model, {"batch": (1, 100)})["activations"]
    assert found["unknown"] == 0
    assert 2 * 25600 <= found["bytes"] <= 2 * 25600 + 64  # r and y, or x and r with a few numbers
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch", "the graph itself stays"


def test_weights_may_lie_elsewhere() -> None:
    """After writing, weights are external and their files need not be read."""
    model = chain(16)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "gone.bin"), ("offset", "0"), ("length", "128")):
        tensor.external_data.add(key=key, value=value)
    assert needs.list_needs(model)["operators"]["ai.onnx"]["MatMul"] == {"13": ["T=float32"]}
    assert canonicalise.list_facts(model)["bytes"] == 128


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tensor(float)", "float32"),
        ("seq(tensor(double))", "seq(float64)"),
        ("tensor(float16)", "float16"),
        ("seq(map(int64,tensor(float)))", "seq(map(int64,float32))"),
    ],
)
def test_types_have_our_names(text: str, name: str) -> None:
    assert canonicalise.type_name(text) == name
