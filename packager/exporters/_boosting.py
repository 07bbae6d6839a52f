# SPDX-License-Identifier: Apache-2.0
"""What gradient boosting libraries have in common: one matrix of float32, `onnxmltools`, labels and probabilities."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packager.errors import MissingToolError
from packager.exporters import Feeds, Port, _estimator, _ranges, _table, _text

TOOLCHAIN: tuple[str, ...] = (
    "onnxmltools", "skl2onnx", "scikit-learn", "onnx", "onnxruntime", "numpy", "scipy", "pandas", "ml-dtypes",
    "protobuf",
)  # fmt: skip
EXTRA = "gbm"
ML_OPSET = 3
CLASSIFIER = ("label", "probabilities")
REGRESSOR = ("prediction",)

_OTHERWISE = "use an objective and a booster that onnxmltools converts, or another form of the model"


def library(name: str) -> Any:
    """Import `xgboost` or `lightgbm`, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingToolError(name, EXTRA) from None


def convert(model: Any, inputs: Sequence[Port], opset: int, library: str, **options: Any) -> Any:
    """Convert with `onnxmltools` to a graph of one float32 matrix, and put the columns in front of it."""
    try:
        tools = importlib.import_module("onnxmltools")
        types = importlib.import_module("onnxmltools.convert.common.data_types")
    except ImportError:
        raise MissingToolError("onnxmltools", EXTRA) from None
    ports = _estimator.joined(inputs)
    width = sum(int(port.shape[1]) for port in inputs)

    def attempt() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kinds = [(ports[0].name, types.FloatTensorType([None, width]))]
            function = getattr(tools, f"convert_{library}")
            return function(model, "model", kinds, target_opset=min(opset, 15), **options)

    converted = _table.refused("the model has no ONNX form", attempt, _OTHERWISE)
    if ports is not inputs:
        _estimator.join(converted, inputs)
    else:
        _estimator.narrow(converted, inputs)
    return converted


def classify(model: Any, classes: Sequence[Any]) -> None:
    """Replace the `TreeEnsembleClassifier` of a graph by the plain sum of its trees, and what follows from that.

    The operator is not usable between two classes: when no leaf is negative, ONNX Runtime takes the sum for a
    probability, in the label, and before 1.21 in the probabilities as well. Labels are those of the first largest
    probability, as the libraries give them.
    """
    helper = importlib.import_module("onnx.helper")
    old = next(node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier")
    new = _regressor(helper, old, 1 if len(classes) == 2 else len(classes))
    if len(classes) == 2:
        add = [("Sigmoid", ["raw"], "yes", {}), ("Sub", ["one", "yes"], "no", {}),
               ("Concat", ["no", "yes"], "scores", {"axis": 1})]  # fmt: skip
    else:
        add = [("Softmax", ["raw"], "scores", {"axis": 1})]
    add += [("ArgMax", ["scores"], "place", {"axis": 1, "keepdims": 0}), ("Gather", ["classes", "place"], "named", {})]
    nodes = [helper.make_node(kind, given, [made], **options) for kind, given, made, options in add]
    before = itertools.takewhile(lambda node: node is not old, list(model.graph.node))
    _text.replace_nodes(model, [*before, new, *nodes])
    _name_outputs(model, helper, classes)


def _regressor(helper: Any, old: Any, targets: int) -> Any:
    """Return the trees of a classifier as a regressor of raw sums, one or one per class."""
    attributes = {item.name: helper.get_attribute_value(item) for item in old.attribute}
    kept = {name: value for name, value in attributes.items() if name.startswith("nodes_") or name == "base_values"}
    leaves = {name: attributes[f"class_{name}"] for name in ("treeids", "nodeids", "ids", "weights")}
    if targets == 1:
        leaves["ids"] = [0] * len(leaves["ids"])
        if "base_values" in kept:
            kept["base_values"] = kept["base_values"][-1:]
    renamed = {f"target_{name}": value for name, value in leaves.items()}
    return helper.make_node(
        "TreeEnsembleRegressor", old.input, ["raw"], domain="ai.onnx.ml", n_targets=targets, **kept, **renamed
    )


def _name_outputs(model: Any, helper: Any, classes: Sequence[Any]) -> None:
    del model.graph.initializer[:]  # of what followed the trees before
    text = isinstance(classes[0], str)
    values = [item.encode() for item in classes] if text else list(classes)
    model.graph.initializer.append(helper.make_tensor("classes", 8 if text else 7, [len(values)], values))
    model.graph.initializer.append(helper.make_tensor("one", 1, [1], [1.0]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("named", 8 if text else 7, [None]))
    model.graph.output.append(helper.make_tensor_value_info("scores", 1, [None, len(classes)]))


def matrix(inputs: Sequence[Port], feeds: Feeds) -> Any:
    """Return the inputs as the one matrix of float32 that the graph makes of them."""
    numpy = importlib.import_module("numpy")
    return numpy.concatenate([feeds[port.name].astype("float32") for port in inputs], axis=1)


def samples(thresholds: Sequence[Sequence[float]], table: _table.Table, run: Callable[[Feeds], Any], seed: int) -> Any:
    """Return rows at and beside the thresholds of every column."""
    finite = [[value for value in own if math.isfinite(value)] for own in thresholds]
    return _ranges.drawn([sorted(set(own)) for own in finite], table, run, seed)


def label_type(labels: Any) -> Any:
    """Return labels as a graph holds them: int64 or text."""
    return labels.astype("object") if labels.dtype.kind in "OUT" else labels.astype("int64")


def walk(node: Mapping[str, Any], children: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return a node of a dumped tree and all below it."""
    found, waiting = [], [node]
    while waiting:
        here = waiting.pop()
        found.append(here)
        for name in children:
            below = here.get(name)
            waiting += below if isinstance(below, list) else [below] if below else []
    return found
