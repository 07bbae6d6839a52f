# SPDX-License-Identifier: Apache-2.0
"""Graphs on which runtimes were seen to differ: ties, lengths, axes as inputs, modes of pooling and resizing, tables.

Batches have more than one row, so that a runtime that mixes rows is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto as T
from onnx import helper

from tests.support.graphs import SEED, Graph, _model, nodes, single

node = helper.make_node


def drawn(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal(shape).astype(dtype)


def one(operator: str, opset: int, x: np.ndarray, kind: int = T.FLOAT, **attributes: Any) -> Graph:
    """One operator on one input."""
    return nodes(opset, node(operator, ["x"], ["y"], **attributes), kind=kind, x=x)


def with_constants(
    operator: str, opset: int, x: np.ndarray, *more: np.ndarray | None, kind: int = T.FLOAT, **attributes: Any
) -> Graph:
    """One operator on one input and constants behind it; None leaves an input out."""
    weights = {f"w{index}": np.asarray(array) for index, array in enumerate(more) if array is not None}
    names = ["x", *(f"w{index}" if array is not None else "" for index, array in enumerate(more))]
    return nodes(opset, node(operator, names, ["y"], **attributes), weights=weights, kind=kind, x=x)


def reduced(operator: str, opset: int, *, as_input: bool, live: bool = False) -> Graph:
    x, axes = drawn(3, 4, 5), np.array([1], "int64")
    if not as_input:
        return one(operator, opset, x, axes=[1], keepdims=0)
    if live:
        return nodes(opset, node(operator, ["x", "a"], ["y"], keepdims=0), x=x, a=axes)
    return with_constants(operator, opset, x, axes, keepdims=0)


def with_lengths(operator: str, gates: int, opset: int = 14) -> Graph:
    """A recurrent layer over rows of different lengths."""
    weights = {"w": drawn(1, gates * 4, 3), "r": drawn(1, gates * 4, 4), "l": np.array([5, 3], "int32")}
    return nodes(
        opset, node(operator, ["x", "w", "r", "", "l"], ["y"], hidden_size=4), weights=weights, x=drawn(5, 2, 3)
    )


def bidirectional(operator: str, gates: int) -> Graph:
    weights = {"w": drawn(2, gates * 4, 3), "r": drawn(2, gates * 4, 4), "b": drawn(2, gates * 8)}
    made = node(operator, ["x", "w", "r", "b"], ["y"], hidden_size=4, direction="bidirectional")
    return nodes(14, made, weights=weights, x=drawn(5, 2, 3))


def in_tables(operator: str, x: np.ndarray, ml: int = 1, kind: int = T.FLOAT, **attributes: Any) -> Graph:
    return _model([node(operator, ["x"], ["y"], domain="ai.onnx.ml", **attributes)], {"x": x}, {"y": kind}, 15, ml=ml)


def classifier(operator: str, **attributes: Any) -> Graph:
    made = node(operator, ["x"], ["y", "z"], domain="ai.onnx.ml", **attributes)
    return _model([made], {"x": drawn(4, 3)}, {"y": T.INT64, "z": T.FLOAT}, 15, ml=1)


def forest(operator: str, leaves: str, **attributes: Any) -> Graph:
    """One tree with a branch and two leaves; `leaves` is the prefix of the attributes of leaves."""
    shared = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_hitrates": [1.0, 1.0, 1.0],
        "nodes_missing_value_tracks_true": [0, 0, 0],
        f"{leaves}_treeids": [0, 0],
        f"{leaves}_nodeids": [1, 2],
        f"{leaves}_ids": [0, 1] if leaves == "class" else [0, 0],
        f"{leaves}_weights": [1.0, 2.0],
    }
    outputs = {"y": T.INT64, "z": T.FLOAT} if leaves == "class" else {"y": T.FLOAT}
    made = node(operator, ["x"], [*outputs], domain="ai.onnx.ml", **shared, **attributes)
    return _model([made], {"x": drawn(5, 2)}, outputs, 15, ml=3)


def normalised(opset: int) -> Graph:
    weights = [np.abs(drawn(3)) + 0.5 for _ in range(4)]
    return with_constants("BatchNormalization", opset, drawn(2, 3, 4, 4), *weights)


def perceptron(opset: int) -> Graph:
    made = [
        node("Gemm", ["x", "a", "b"], ["h"], transB=1),
        node("Tanh", ["h"], ["t"]),
        node("Gemm", ["t", "c"], ["l"], alpha=0.5),
        node("Softmax", ["l"], ["y"], axis=-1),
    ]
    return nodes(opset, *made, weights={"a": drawn(8, 4), "b": drawn(8), "c": drawn(8, 3)}, x=drawn(3, 4))


def residual(opset: int) -> Graph:
    """Two convolutions in groups and depth, a skip connection, pooling, a hard activation."""
    made = [
        node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1], group=2),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),
        node("HardSwish" if opset >= 14 else "Relu", ["n"], ["h"]),
        node("Conv", ["h", "d"], ["e"], pads=[1, 1, 1, 1], group=4),
        node("Add", ["e", "x"], ["p"]),
        node("MaxPool", ["p"], ["q"], kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", ["q", "ax"] if opset >= 18 else ["q"], ["y"], **({} if opset >= 18 else {"axes": [2, 3]})),
    ]
    weights = {"a": drawn(4, 2, 3, 3), "d": drawn(4, 1, 3, 3), "s": np.array([0.5, 1, 1.5, 2], "float32")}
    weights |= {"ax": np.array([2, 3], "int64")} if opset >= 18 else {}
    return nodes(opset, *made, weights=weights, x=drawn(3, 4, 8, 8))


def embedded(opset: int) -> Graph:
    """Ids become vectors, a mask takes part in their mean: how sentence encoders end."""
    made = [
        node("Gather", ["w", "x"], ["e"]),
        node("Cast", ["m"], ["f"], to=T.FLOAT),
        node("Unsqueeze", ["f", "last"], ["u"]),
        node("Mul", ["e", "u"], ["k"]),
        node("ReduceSum", ["k", "one"], ["s"], keepdims=0),
        node("ReduceSum", ["f", "one"], ["c"], keepdims=1),
        node("Div", ["s", "c"], ["y"]),
    ]
    weights = {"w": drawn(11, 4), "last": np.array([-1], "int64"), "one": np.array([1], "int64")}
    return nodes(
        opset,
        *made,
        weights=weights,
        x=np.array([[1, 2, 3], [4, 10, 0]], "int64"),
        m=np.array([[1, 1, 1], [1, 1, 0]], "int64"),
    )


def headed(opset: int) -> Graph:
    """Attention with heads, as exporters write it: shapes computed from the input's."""
    made = [
        node("Shape", ["x"], ["sh"]),
        node("Slice", ["sh", "i0", "i2"], ["bt"]),
        node("Concat", ["bt", "hd"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["r"]),
        node("Transpose", ["r"], ["q"], perm=[0, 2, 1, 3]),
        node("Transpose", ["r"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["s"]),
        node("Softmax", ["s"], ["a"], axis=-1),
        node("MatMul", ["a", "q"], ["o"]),
        node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["t", "sh"], ["y"]),
    ]
    weights = {"i0": np.array([0]), "i2": np.array([2]), "hd": np.array([2, 4])}
    return nodes(opset, *made, weights=weights, x=drawn(2, 3, 8))


def shuffled(opset: int) -> Graph:
    made = [
        node("Split", ["x", "n"], ["a", "b"], axis=1),
        node("Concat", ["b", "a"], ["c"], axis=1),
        node("Expand", ["c", "e"], ["d"]),
        node("Tile", ["d", "r"], ["y"]),
    ]
    weights = {"n": np.array([2, 2]), "e": np.array([3, 2, 4]), "r": np.array([1, 1, 2])}
    return nodes(opset, *made, weights=weights, x=drawn(2, 4))


BOXES = np.array([[[0, 0, 1, 1], [0, 0, 1, 1.1], [0, 2, 1, 3], [0, 2.1, 1, 3.1]]], "float32")
IMAGE, PLANES = drawn(2, 3, 6, 6), drawn(2, 4, 4)
TIES = np.array([[3, 1, 3, 3], [2, 2, 1, 2]], "float32")
WHOLE = np.array([[7, -7, 9], [-9, 4, 5]])

ASKED: dict[str, Callable[[], Graph]] = {
    "perceptron at 13": lambda: perceptron(13),
    "perceptron at 17": lambda: perceptron(17),
    "residual at 13": lambda: residual(13),
    "residual at 17": lambda: residual(17),
    "residual at 18": lambda: residual(18),
    "embedded at 13": lambda: embedded(13),
    "embedded at 17": lambda: embedded(17),
    "headed at 13": lambda: headed(13),
    "headed at 18": lambda: headed(18),
    "shuffled at 13": lambda: shuffled(13),
    "shuffled at 17": lambda: shuffled(17),
    "ReduceMean, axes stated": lambda: reduced("ReduceMean", 13, as_input=False),
    "ReduceMean, axes constant": lambda: reduced("ReduceMean", 18, as_input=True),
    "ReduceMean, axes computed": lambda: reduced("ReduceMean", 18, as_input=True, live=True),
    "ReduceMax, axes constant": lambda: reduced("ReduceMax", 18, as_input=True),
    "ReduceSum, axes constant": lambda: reduced("ReduceSum", 13, as_input=True),
    "ReduceL2, axes stated": lambda: reduced("ReduceL2", 13, as_input=False),
    "ReduceProd, axes stated": lambda: reduced("ReduceProd", 13, as_input=False),
    "ReduceLogSumExp, axes stated": lambda: reduced("ReduceLogSumExp", 13, as_input=False),
    "LSTM with lengths": lambda: with_lengths("LSTM", 4),
    "GRU with lengths": lambda: with_lengths("GRU", 3),
    "RNN with lengths": lambda: with_lengths("RNN", 1),
    "LSTM both ways": lambda: bidirectional("LSTM", 4),
    "GRU both ways": lambda: bidirectional("GRU", 3),
    "TopK of ties": lambda: nodes(
        11, node("TopK", ["x", "k"], ["v", "y"]), kind=T.INT64, weights={"k": np.array([2])}, x=TIES
    ),
    "ArgMax of ties": lambda: one("ArgMax", 13, TIES, T.INT64, axis=1),
    "ArgMax of ties, the last": lambda: one("ArgMax", 13, TIES, T.INT64, axis=1, select_last_index=1),
    "Celu": lambda: one("Celu", 12, drawn(3, 4), alpha=2.0),
    "Elu": lambda: one("Elu", 6, drawn(3, 4), alpha=0.5),
    "Selu": lambda: one("Selu", 6, drawn(3, 4)),
    "Softplus": lambda: one("Softplus", 1, drawn(3, 4)),
    "Softplus of large numbers": lambda: one("Softplus", 1, np.array([[1, 100], [-100, 200]], "float32")),
    "Softsign": lambda: one("Softsign", 1, drawn(3, 4)),
    "HardSigmoid": lambda: one("HardSigmoid", 6, drawn(3, 4), alpha=0.3),
    "HardSwish": lambda: one("HardSwish", 14, drawn(3, 4)),
    "ThresholdedRelu": lambda: one("ThresholdedRelu", 10, drawn(3, 4), alpha=0.7),
    "LeakyRelu": lambda: one("LeakyRelu", 16, drawn(3, 4), alpha=0.2),
    "PRelu": lambda: with_constants("PRelu", 16, drawn(2, 3, 4, 4), np.abs(drawn(3, 1, 1))),
    "Gelu, approximated": lambda: one("Gelu", 20, drawn(3, 4), approximate="tanh"),
    "LogSoftmax": lambda: one("LogSoftmax", 13, PLANES, axis=1),
    "Hardmax": lambda: one("Hardmax", 13, drawn(3, 4)),
    "Shrink": lambda: one("Shrink", 9, drawn(3, 4), lambd=0.5),
    "Sqrt": lambda: single("Sqrt", 13),
    "Log": lambda: single("Log", 13),
    "Exp": lambda: single("Exp", 13),
    "Erf": lambda: single("Erf", 13),
    "Sinh": lambda: single("Sinh", 9),
    "Atan": lambda: single("Atan", 7),
    "Ceil": lambda: single("Ceil", 13),
    "Round of halves": lambda: one("Round", 11, np.array([0.5, 1.5, 2.5, -0.5], "float32")),
    "IsNaN": lambda: one("IsNaN", 13, np.array([1, np.nan], "float32"), T.BOOL),
    "IsInf": lambda: one("IsInf", 10, np.array([1, np.inf, -np.inf], "float32"), T.BOOL),
    "Not": lambda: one("Not", 1, np.array([True, False]), T.BOOL),
    "Pow": lambda: with_constants("Pow", 15, np.abs(drawn(2, 3)), np.array(2.5, "float32")),
    "Pow of an integer": lambda: with_constants("Pow", 15, np.abs(drawn(2, 3)), np.array(2, "int64")),
    "Div of whole numbers": lambda: with_constants("Div", 14, WHOLE, np.array([2, 2, -4]), kind=T.INT64),
    "Div in int32": lambda: with_constants(
        "Div", 14, WHOLE.astype("int32"), np.array([2, 2, -4], "int32"), kind=T.INT32
    ),
    "Mod": lambda: with_constants("Mod", 13, WHOLE, np.array([3, 3, -4]), kind=T.INT64),
    "Mod of floats": lambda: with_constants(
        "Mod", 13, WHOLE.astype("float32"), np.array([3, 3, -4], "float32"), fmod=1
    ),
    "Max": lambda: with_constants("Max", 13, drawn(2, 3), drawn(3), np.array(0.1, "float32")),
    "Mean": lambda: with_constants("Mean", 13, drawn(2, 3), drawn(3)),
    "Sum": lambda: with_constants("Sum", 13, drawn(2, 3), drawn(3)),
    "Greater": lambda: with_constants("Greater", 13, drawn(2, 3), drawn(3), kind=T.BOOL),
    "GreaterOrEqual": lambda: with_constants("GreaterOrEqual", 16, drawn(2, 3), drawn(3), kind=T.BOOL),
    "Equal": lambda: with_constants("Equal", 13, WHOLE, np.array([7, -7, 5]), kind=T.BOOL),
    "Clip at 6": lambda: one("Clip", 6, drawn(3, 4), min=-0.5, max=0.5),
    "Clip at 13": lambda: with_constants("Clip", 13, drawn(3, 4), np.array(-0.5, "float32"), np.array(0.5, "float32")),
    "Conv, dilated": lambda: with_constants(
        "Conv", 11, drawn(2, 2, 9, 9), drawn(4, 2, 3, 3), dilations=[2, 2], strides=[2, 1]
    ),
    "Conv, same lower": lambda: with_constants(
        "Conv", 11, drawn(2, 2, 8, 8), drawn(4, 2, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]
    ),
    "Conv of one axis": lambda: with_constants("Conv", 11, drawn(2, 3, 16), drawn(4, 3, 5), drawn(4), pads=[2, 2]),
    "Conv of three axes": lambda: with_constants("Conv", 11, drawn(1, 2, 5, 5, 5), drawn(3, 2, 3, 3, 3)),
    "ConvTranspose": lambda: with_constants(
        "ConvTranspose", 11, drawn(2, 3, 4, 4), drawn(3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "ConvTranspose, its size stated": lambda: with_constants(
        "ConvTranspose", 11, drawn(1, 1, 3, 3), drawn(1, 2, 3, 3), strides=[3, 2], output_shape=[10, 8]
    ),
    "AveragePool, padded": lambda: one(
        "AveragePool", 11, IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "MaxPool with its places": lambda: nodes(
        12, node("MaxPool", ["x"], ["v", "y"], kernel_shape=[2, 2], strides=[2, 2]), kind=T.INT64, x=IMAGE
    ),
    "MaxPool, dilated": lambda: one("MaxPool", 12, IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    "LpPool": lambda: one("LpPool", 18, IMAGE, kernel_shape=[2, 2], p=3),
    "GlobalMaxPool": lambda: one("GlobalMaxPool", 1, IMAGE),
    "LRN": lambda: one("LRN", 13, IMAGE, size=3),
    "BatchNormalization at 9": lambda: normalised(9),
    "BatchNormalization at 15": lambda: normalised(15),
    "InstanceNormalization": lambda: with_constants("InstanceNormalization", 6, IMAGE, drawn(3), drawn(3)),
    "GroupNormalization": lambda: with_constants(
        "GroupNormalization", 21, drawn(2, 4, 3, 3), drawn(4), drawn(4), num_groups=2
    ),
    "LayerNormalization": lambda: with_constants("LayerNormalization", 17, drawn(2, 3, 8), drawn(8), drawn(8)),
    "MeanVarianceNormalization": lambda: one("MeanVarianceNormalization", 13, IMAGE),
    "Pad, reflected": lambda: with_constants("Pad", 13, PLANES, np.array([0, 1, 1, 0, 1, 2]), mode="reflect"),
    "Pad, at the edge": lambda: with_constants("Pad", 13, PLANES, np.array([0, 1, 1, 0, 1, 2]), mode="edge"),
    "Pad, wrapped": lambda: with_constants("Pad", 19, PLANES, np.array([0, 1, 1, 0, 1, 2]), mode="wrap"),
    "Pad with a value": lambda: with_constants(
        "Pad", 13, PLANES, np.array([0, 1, 1, 0, 1, 2]), np.array(1.5, "float32")
    ),
    "Resize, half pixels": lambda: with_constants(
        "Resize", 13, IMAGE, None, np.array([1, 1, 1.5, 1.5], "float32"), mode="linear"
    ),
    "Resize, antialiased": lambda: with_constants(
        "Resize", 18, IMAGE, None, np.array([1, 1, 0.5, 0.5], "float32"), mode="linear", antialias=1
    ),
    "Resize to sizes": lambda: with_constants(
        "Resize", 13, IMAGE, None, None, np.array([2, 3, 9, 5]), mode="nearest", nearest_mode="floor"
    ),
    "Upsample": lambda: with_constants("Upsample", 9, IMAGE, np.array([1, 1, 2, 2], "float32")),
    "Gather on the last axis": lambda: with_constants("Gather", 13, PLANES, np.array([0, -1]), axis=2),
    "GatherElements": lambda: with_constants("GatherElements", 13, drawn(2, 3), np.array([[0, 2], [1, -1]]), axis=1),
    "GatherND": lambda: with_constants("GatherND", 13, drawn(2, 3), np.array([[0, 1], [1, 2]])),
    "ScatterND": lambda: with_constants("ScatterND", 13, drawn(4, 2), np.array([[1], [3]]), drawn(2, 2)),
    "ScatterElements": lambda: with_constants("ScatterElements", 13, drawn(3, 2), np.array([[1, 0]]), drawn(1, 2)),
    "ScatterElements, added": lambda: with_constants(
        "ScatterElements", 16, drawn(3, 2), np.array([[1, 0], [1, 2]]), drawn(2, 2), reduction="add"
    ),
    "OneHot": lambda: with_constants(
        "OneHot", 11, np.array([0, 2, -1]), np.array(3), np.array([0, 1], "float32"), axis=-1
    ),
    "DepthToSpace": lambda: one("DepthToSpace", 13, drawn(2, 8, 2, 3), blocksize=2, mode="CRD"),
    "SpaceToDepth": lambda: one("SpaceToDepth", 13, drawn(2, 2, 4, 6), blocksize=2),
    "Trilu": lambda: one("Trilu", 14, drawn(2, 3, 4), upper=0),
    "CumSum, reversed": lambda: with_constants("CumSum", 14, drawn(2, 3), np.array(1), reverse=1, exclusive=1),
    "ReverseSequence": lambda: with_constants(
        "ReverseSequence", 10, drawn(4, 3), np.array([4, 2, 1]), time_axis=0, batch_axis=1
    ),
    "EyeLike": lambda: one("EyeLike", 9, drawn(3, 4), k=1),
    "Flatten": lambda: one("Flatten", 13, PLANES, axis=2),
    "Squeeze": lambda: with_constants("Squeeze", 13, drawn(2, 1, 3), np.array([1])),
    "Shape": lambda: one("Shape", 15, PLANES, T.INT64, start=1),
    "Size": lambda: one("Size", 13, PLANES, T.INT64),
    "ConstantOfShape": lambda: one("ConstantOfShape", 9, np.array([2, 3])),
    "Range": lambda: nodes(
        11,
        node("Range", ["x", "l", "d"], ["y"]),
        weights={"l": np.array(9.0, "float32"), "d": np.array(2.0, "float32")},
        x=np.array(1.0, "float32"),
    ),
    "Compress": lambda: with_constants("Compress", 11, drawn(3, 2), np.array([True, False, True]), axis=0),
    "Slice, live": lambda: nodes(
        13, node("Slice", ["x", "b", "e"], ["y"]), x=drawn(4, 5), b=np.array([1, 0]), e=np.array([3, -1])
    ),
    "Cast to whole numbers": lambda: one("Cast", 13, np.array([1.7, -1.7, 3.0], "float32"), T.INT64, to=T.INT64),
    "Cast to booleans": lambda: one("Cast", 13, np.array([0.0, 0.3, -2.0], "float32"), T.BOOL, to=T.BOOL),
    "Cast of float64": lambda: one("Cast", 13, drawn(3, dtype="float64"), T.FLOAT, to=T.FLOAT),
    "NonMaxSuppression": lambda: nodes(
        11,
        node("NonMaxSuppression", ["x", "s", "n", "i"], ["y"]),
        kind=T.INT64,
        weights={"n": np.array([3]), "i": np.array([0.5], "float32")},
        x=BOXES,
        s=np.array([[[0.9, 0.75, 0.6, 0.95]]], "float32"),
    ),
    "Einsum of heads": lambda: with_constants("Einsum", 12, drawn(2, 3, 4), drawn(2, 5, 4), equation="bij,bkj->bik"),
    "MatMul, broadcast": lambda: with_constants("MatMul", 13, drawn(2, 3, 4, 5), drawn(5, 2)),
    "Gemm, transposed": lambda: with_constants("Gemm", 13, drawn(3, 4), drawn(5, 4), drawn(5), transB=1, beta=0.5),
    "MatMulInteger": lambda: with_constants(
        "MatMulInteger", 10, np.abs(WHOLE).astype("uint8"), np.ones((3, 2), "int8"), kind=T.INT32
    ),
    "DynamicQuantizeLinear": lambda: nodes(
        11, node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]), kind=T.UINT8, x=drawn(3, 4)
    ),
    "Dropout": lambda: one("Dropout", 13, drawn(3, 4)),
    "LinearRegressor": lambda: in_tables(
        "LinearRegressor", drawn(4, 3), coefficients=[0.5, -1.0, 2.0], intercepts=[0.25], targets=1
    ),
    "LinearClassifier": lambda: classifier(
        "LinearClassifier",
        coefficients=[0.5, -1, 2, -0.5, 1, -2.0],
        intercepts=[0.25, -0.25],
        classlabels_ints=[0, 1],
        post_transform="SOFTMAX",
    ),
    "TreeEnsembleClassifier": lambda: forest("TreeEnsembleClassifier", "class", classlabels_int64s=[0, 1]),
    "TreeEnsembleRegressor": lambda: forest("TreeEnsembleRegressor", "target", n_targets=1),
    "Imputer": lambda: in_tables(
        "Imputer",
        np.array([[1, np.nan], [np.nan, 2]], "float32"),
        imputed_value_floats=[3.0],
        replaced_value_float=float("nan"),
    ),
    "Binarizer": lambda: in_tables("Binarizer", drawn(3, 2), threshold=0.2),
    "OneHotEncoder": lambda: in_tables("OneHotEncoder", np.array([0, 2, 1]), cats_int64s=[0, 1, 2], zeros=1),
    "LabelEncoder of numbers": lambda: in_tables(
        "LabelEncoder", np.array([1, 5, 9]), ml=2, keys_int64s=[1, 5], values_floats=[0.5, 1.5], default_float=-1.0
    ),
}
