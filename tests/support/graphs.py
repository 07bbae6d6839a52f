# SPDX-License-Identifier: Apache-2.0
"""Small real graphs that runtimes accept or refuse, chosen for what they need: opset, IR version, operators, types."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from packager.runtimes._trials import Trial

Graph = Trial
SEED = 7


def _model(
    nodes: list[Any],
    inputs: dict[str, np.ndarray],
    outputs: dict[str, int],
    opset: int,
    *,
    weights: dict[str, np.ndarray] | None = None,
    ir: int = 8,
    ml: int = 0,
    more: dict[str, int] | None = None,
) -> Graph:
    kinds = {
        name: helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype.kind != "U" else T.STRING
        for name, array in inputs.items()
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    imports += [helper.make_opsetid(domain, version) for domain, version in (more or {}).items()]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = ir
    file = io.BytesIO()
    np.savez(file, **inputs)
    return Trial(model.SerializeToString(deterministic=True), file.getvalue())


def _random(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal(shape).astype(dtype)


def convolution(opset: int, ir: int = 8, dtype: str = "float32") -> Graph:
    """Conv, Relu, global pooling, Flatten, Gemm: the demo's kind of network."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m"], ["y"]),
    ]
    weights = {"w": _random(4, 1, 3, 3, dtype=dtype), "m": _random(4, 3, dtype=dtype)}
    return _model(
        nodes,
        {"x": _random(2, 1, 8, 8, dtype=dtype)},
        {"y": T.FLOAT if dtype == "float32" else T.FLOAT16},
        opset,
        weights=weights,
        ir=ir,
    )


def encoder(opset: int, dtype: str = "float32") -> Graph:
    """One attention block with layer normalisation, written out as exporters write it."""
    kind = {"float32": T.FLOAT, "float16": T.FLOAT16}[dtype]
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "wq"], ["q"]),
        node("MatMul", ["x", "wk"], ["k"]),
        node("MatMul", ["x", "wv"], ["v"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Mul", ["s", "scale"], ["ss"]),
        node("Softmax", ["ss"], ["a"], axis=-1),
        node("MatMul", ["a", "v"], ["o"]),
        node("Add", ["x", "o"], ["h"]),
        node("LayerNormalization", ["h", "g", "b"], ["n"], axis=-1),
        node("Erf", ["n"], ["e"]),
        node("Add", ["e", "n"], ["y"]),
    ]
    weights = {name: _random(8, 8, dtype=dtype) for name in ("wq", "wk", "wv")}
    weights |= {"scale": np.array(0.35, dtype), "g": np.ones(8, dtype), "b": np.zeros(8, dtype)}
    return _model(nodes, {"x": _random(2, 5, 8, dtype=dtype)}, {"y": kind}, opset, weights=weights)


def quantised(opset: int, kind: str = "int8") -> Graph:
    """QuantizeLinear and DequantizeLinear around a convolution."""
    node, zero = helper.make_node, np.zeros((), kind)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        node("Conv", ["xd", "wd"], ["c"]),
        node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    weights = {"s": np.array(0.05, "float32"), "z": zero, "wq": np.arange(18).reshape(2, 1, 3, 3).astype(kind)}
    return _model(nodes, {"x": _random(1, 1, 6, 6)}, {"y": T.FLOAT}, opset, weights=weights)


def shapes(opset: int) -> Graph:
    """Cast, Reshape and Pad: kernels that one release forgot for opset 19."""
    node = helper.make_node
    nodes = [
        node("Cast", ["x"], ["c"], to=T.INT32),
        node("Reshape", ["c", "to"], ["r"]),
        node("Pad", ["r", "p"], ["d"]),
        node("Cast", ["d"], ["y"], to=T.FLOAT),
    ]
    weights = {"to": np.array([4, 2], "int64"), "p": np.array([0, 1, 0, 1], "int64")}
    return _model(nodes, {"x": _random(2, 4)}, {"y": T.FLOAT}, opset, weights=weights)


def single(
    operator: str, opset: int, shape: tuple[int, ...] = (2, 4), dtype: str = "float32", **attributes: Any
) -> Graph:
    """One operator on one float input."""
    nodes = [helper.make_node(operator, ["x"], ["y"], **attributes)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return _model(nodes, {"x": np.abs(_random(*shape, dtype=dtype)) + np.array(0.5, dtype)}, {"y": kind}, opset)


def text(opset: int, ml: int = 2, locale: str = "C.UTF-8") -> Graph:
    """Texts to numbers: what the first step of a table model does."""
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["n"], case_change_action="LOWER", locale=locale),
        helper.make_node(
            "LabelEncoder",
            ["n"],
            ["l"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b"],
            values_int64s=[0, 1],
            default_int64=-1,
        ),
        helper.make_node("Cast", ["l"], ["y"], to=T.FLOAT),
    ]
    return _model(nodes, {"x": np.array(["A", "b", "C"])}, {"y": T.FLOAT}, opset, ml=ml)


def strings_at_20() -> Graph:
    """StringConcat and RegexFullMatch exist since opset 20."""
    nodes = [
        helper.make_node("StringConcat", ["x", "x"], ["d"]),
        helper.make_node("RegexFullMatch", ["d"], ["y"], pattern="aa"),
    ]
    return _model(nodes, {"x": np.array(["a", "b"])}, {"y": T.BOOL}, 20)


def trees(ml: int = 3) -> Graph:
    """A tree with two leaves and labels that are texts."""
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "p"],
        domain="ai.onnx.ml",
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_hitrates=[1.0, 1.0, 1.0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        class_treeids=[0, 0],
        class_nodeids=[1, 2],
        class_ids=[0, 1],
        class_weights=[1.0, 1.0],
        classlabels_strings=["no", "yes"],
        post_transform="NONE",
    )
    return _model([node], {"x": _random(3, 2)}, {"label": T.STRING, "p": T.FLOAT}, 15, ml=ml)


def branch(opset: int) -> Graph:
    """An If whose branch uses an operator that only newer versions have."""

    def inner(operator: str) -> Any:
        node = helper.make_node(operator, ["x"], [operator])
        return helper.make_graph([node], operator, [], [helper.make_tensor_value_info(operator, T.FLOAT, None)])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=T.BOOL),
        helper.make_node(
            "If", ["c"], ["y"], then_branch=inner("Gelu" if opset >= 20 else "Relu"), else_branch=inner("Neg")
        ),
    ]
    return _model(nodes, {"x": _random(2, 3)}, {"y": T.FLOAT}, opset)


def attention() -> Graph:
    """The fused operator of opset 23."""
    nodes = [helper.make_node("Attention", ["x", "x", "x"], ["y"])]
    return _model(nodes, {"x": _random(1, 2, 4, 8)}, {"y": T.FLOAT}, 23)


def foreign() -> Graph:
    """An operator of a domain that no runtime ships."""
    return _model(
        [helper.make_node("Magic", ["x"], ["y"], domain="com.example")],
        {"x": _random(2)},
        {"y": T.FLOAT},
        18,
        more={"com.example": 1},
    )


def nodes(
    opset: int, *made: Any, weights: dict[str, np.ndarray] | None = None, kind: int = T.FLOAT, **inputs: np.ndarray
) -> Graph:
    """Some nodes over inputs given by name; the last one gives `y`."""
    return _model(list(made), inputs, {"y": kind}, opset, weights=weights)


def resized(opset: int, **attributes: Any) -> Graph:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], **attributes)
    return nodes(opset, node, weights={"s": np.array([1, 1, 2, 2], "float32")}, x=_random(1, 2, 4, 4))


def repeated(opset: int) -> Graph:
    """A Loop that adds to what it carries and keeps every step."""
    node = helper.make_node
    body = helper.make_graph(
        [node("Add", ["a", "x"], ["b"]), node("Identity", ["b"], ["s"]), node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", T.INT64, []),
            helper.make_tensor_value_info("c", T.BOOL, []),
            helper.make_tensor_value_info("a", T.FLOAT, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("d", T.BOOL, []),
            helper.make_tensor_value_info("b", T.FLOAT, [2, 3]),
            helper.make_tensor_value_info("s", T.FLOAT, [2, 3]),
        ],
    )
    weights = {"n": np.array(3, "int64"), "go": np.array(True)}
    return nodes(opset, node("Loop", ["n", "go", "x"], ["last", "y"], body=body), weights=weights, x=_random(2, 3))


def scanned(opset: int) -> Graph:
    node, one = helper.make_node, lambda name: helper.make_tensor_value_info(name, T.FLOAT, [3])
    body = helper.make_graph(
        [node("Add", ["a", "e"], ["b"]), node("Identity", ["b"], ["s"])],
        "body",
        [one("a"), one("e")],
        [one("b"), one("s")],
    )
    return nodes(
        opset,
        node("Scan", ["z", "x"], ["last", "y"], body=body, num_scan_inputs=1),
        weights={"z": np.zeros(3, "float32")},
        x=_random(4, 3),
    )


def recurrent(operator: str, gates: int) -> Graph:
    weights = {"w": _random(1, gates * 4, 3), "r": _random(1, gates * 4, 4)}
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=4)
    return nodes(14, node, weights=weights, x=_random(5, 2, 3))


def binary(operator: str, opset: int, dtype: str, kind: int) -> Graph:
    one = (np.arange(6).reshape(2, 3) + 1).astype(dtype)
    return nodes(opset, helper.make_node(operator, ["x", "z"], ["y"]), kind=kind, x=one, z=one[::-1].copy())


def pooled(operator: str, opset: int, **attributes: Any) -> Graph:
    return single(operator, opset, (1, 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2], **attributes)


def free(trial: Graph) -> Graph:
    """The same graph with no length of an input stated."""
    model = onnx.load_from_string(trial.graph)
    for value in model.graph.input:
        for place, size in enumerate(value.type.tensor_type.shape.dim):
            size.dim_param = f"{value.name}_{place}"
    return Trial(model.SerializeToString(deterministic=True), trial.feeds)


FOR_OPENVINO: dict[str, Callable[[], Graph]] = {  # where another engine may answer otherwise, or not at all
    "Resize, corners aligned": lambda: resized(18, mode="linear", coordinate_transformation_mode="align_corners"),
    "Resize, nearest": lambda: resized(18, mode="nearest"),
    "Resize, cubic at 13": lambda: resized(13, mode="cubic"),
    "Loop": lambda: repeated(18),
    "Scan": lambda: scanned(18),
    "LSTM": lambda: recurrent("LSTM", 4),
    "GRU": lambda: recurrent("GRU", 3),
    "Add in int8": lambda: binary("Add", 14, "int8", T.INT8),
    "Add in int64": lambda: binary("Add", 14, "int64", T.INT64),
    "Add in float64": lambda: binary("Add", 14, "float64", T.DOUBLE),
    "Mul in uint16": lambda: binary("Mul", 14, "uint16", T.UINT16),
    "MatMul": lambda: nodes(13, helper.make_node("MatMul", ["x", "z"], ["y"]), x=_random(2, 3), z=_random(3, 2)),
    "BitShift": lambda: nodes(
        11,
        helper.make_node("BitShift", ["x", "z"], ["y"], direction="LEFT"),
        kind=T.UINT8,
        x=np.array([1, 2], "uint8"),
        z=np.array([1, 1], "uint8"),
    ),
    "MaxPool, ceiling": lambda: pooled("MaxPool", 12, ceil_mode=1),
    "MaxPool, same lower": lambda: pooled("MaxPool", 12, auto_pad="SAME_LOWER"),
    "AveragePool, ceiling": lambda: pooled("AveragePool", 19, ceil_mode=1, pads=[1, 1, 1, 1], count_include_pad=1),
    "Softmax at 11": lambda: single("Softmax", 11, (2, 3, 4)),
    "Softmax at 13": lambda: single("Softmax", 13, (2, 3, 4)),
    "TopK": lambda: nodes(
        11, helper.make_node("TopK", ["x", "k"], ["y", "at"]), weights={"k": np.array([2])}, x=_random(3, 5)
    ),
    "NonZero": lambda: nodes(13, helper.make_node("NonZero", ["x"], ["y"]), kind=T.INT64, x=np.eye(3, dtype="float32")),
    "Einsum": lambda: nodes(
        12, helper.make_node("Einsum", ["x", "z"], ["y"], equation="ij,jk->ik"), x=_random(2, 3), z=_random(3, 2)
    ),
    "CumSum": lambda: nodes(
        14, helper.make_node("CumSum", ["x", "a"], ["y"]), weights={"a": np.array(1)}, x=_random(2, 3)
    ),
    "Det": lambda: single("Det", 11, (3, 3)),
    "Sign in int32": lambda: single("Sign", 13, dtype="int32"),
    "Slice": lambda: nodes(
        13,
        helper.make_node("Slice", ["x", "b", "e", "a", "s"], ["y"]),
        x=_random(4, 5),
        weights={"b": np.array([4]), "e": np.array([0]), "a": np.array([1]), "s": np.array([-2])},
    ),
    "Gather": lambda: nodes(
        13, helper.make_node("Gather", ["w", "x"], ["y"]), weights={"w": _random(9, 4)}, x=np.array([[1, 8, 0]])
    ),
    "Where": lambda: nodes(
        16, helper.make_node("Where", ["c", "x", "z"], ["y"]), c=np.array([True, False]), x=_random(2), z=_random(2)
    ),
    "Unique": lambda: nodes(11, helper.make_node("Unique", ["x"], ["y"]), x=np.array([2, 1, 1, 3], "float32")),
    "GridSample": lambda: nodes(
        16, helper.make_node("GridSample", ["x", "g"], ["y"]), x=_random(1, 1, 4, 4), g=_random(1, 2, 2, 2)
    ),
    "Normalizer": lambda: _model(
        [helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
        {"x": _random(2, 3)},
        {"y": T.FLOAT},
        15,
        ml=1,
    ),
    "Scaler": lambda: _model(
        [helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])],
        {"x": _random(2, 3)},
        {"y": T.FLOAT},
        15,
        ml=1,
    ),
}
GRAPHS: dict[str, Callable[[], Graph]] = {
    "convolution at 13": lambda: convolution(13),
    "convolution at 18": lambda: convolution(18),
    "convolution at 20": lambda: convolution(20),
    "convolution at 21, IR 10": lambda: convolution(21, ir=10),
    "convolution at 22, IR 10": lambda: convolution(22, ir=10),
    "convolution at 18, IR 11": lambda: convolution(18, ir=11),
    "convolution at 18, IR 13": lambda: convolution(18, ir=13),
    "convolution in fp16": lambda: convolution(18, dtype="float16"),
    "encoder": lambda: encoder(17),
    "encoder in fp16": lambda: encoder(17, "float16"),
    "encoder in fp16 at 20": lambda: encoder(20, "float16"),
    "int8 at 13": lambda: quantised(13),
    "int8 at 19": lambda: quantised(19),
    "int8 at 23": lambda: quantised(23),
    "uint8 at 18": lambda: quantised(18, "uint8"),
    "int16 at 21": lambda: quantised(21, "int16"),
    "shapes at 18": lambda: shapes(18),
    "shapes at 19": lambda: shapes(19),
    "texts": lambda: text(15),
    "texts in another locale": lambda: text(15, locale="xx_XX.UTF-8"),
    "texts at 20": strings_at_20,
    "trees with text labels": trees,
    "trees of ml 5": lambda: trees(5),
    "If with Gelu": lambda: branch(20),
    "If with Relu": lambda: branch(18),
    "If at 19": lambda: branch(19),
    "Gelu": lambda: single("Gelu", 20),
    "Swish": lambda: single("Swish", 24),
    "Mish in fp16": lambda: single("Mish", 18, dtype="float16"),
    "Attention": attention,
    "LpNormalization at 22": lambda: single("LpNormalization", 22),
    "LpNormalization at 18": lambda: single("LpNormalization", 18),
    "Acos in float64": lambda: single("Acos", 18, dtype="float64"),
    "AveragePool at 19": lambda: single("AveragePool", 19, (1, 1, 4, 4), kernel_shape=[2, 2]),
    "Round in fp16": lambda: single("Round", 18, dtype="float16"),
    "foreign operator": foreign,
}


def facts(data: bytes) -> Any:
    """Return what a contract would say of a serialised model."""
    from packager.graph import canonicalise, needs

    model = onnx.load_from_string(data)
    return {**canonicalise.list_facts(model), **needs.list_needs(model)}
