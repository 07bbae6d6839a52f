# SPDX-License-Identifier: Apache-2.0
"""Fitted scikit-learn estimators to ONNX. Runs in the worker only.

Outputs: `label` and `probabilities` of a classifier (the label alone where it gives no probabilities), `prediction`
of a regressor, `transformed` of a transformer. The reference is the estimator itself, on the same values.
"""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import (
    BATCH,
    Arrays,
    Feeds,
    Interface,
    Port,
    Wishes,
    _converted_trees,
    _mlflow,
    _ranges,
    _table,
    _text,
)
from packager.exporters._table import Table
from packager.graphs import graph

TOOLCHAIN: tuple[str, ...] = (
    "scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy", "scipy", "pandas", "ml-dtypes", "protobuf",
)  # fmt: skip

ML_OPSET = 3  # of the domain ai.onnx.ml: what onnxruntime reads since 1.11, doubles in trees included
_FLOAT, _DOUBLE = 1, 11  # of onnx.TensorProto
_JOINED = "all_columns"
_OTHERWISE = "replace that part of the model, or put it in front of the model as code of the caller"


def open_estimator(source: Path, model: Any, wishes: Wishes) -> Estimator:
    """Bring a fitted estimator together with signature and recipe. Raises StepError for what is not one."""
    base = library()
    if not isinstance(model, base.base.BaseEstimator) or (
        not hasattr(model, "predict") and not hasattr(model, "transform")
    ):
        raise StepError(f"the source holds a {type(model).__name__}, expected a fitted scikit-learn estimator")
    first = model.steps[0][1] if hasattr(model, "steps") else model
    table = _table.table(
        source,
        wishes,
        _names(source, list(map(str, getattr(model, "feature_names_in_", ())))),
        getattr(model, "n_features_in_", None),
        text=hasattr(first, "vocabulary_") and hasattr(first, "token_pattern"),
    )
    return Estimator(model, table, wishes.interface(table.ports, {}, unfix=_table.UNFIX), wishes.outputs, wishes.seed)


def _names(source: Path, fitted: list[str]) -> list[str]:
    """Return the names of the columns as callers know them: LightGBM, as a first step, remembers spaces as `_`."""
    stated = [column.name for column in _mlflow.columns(source)]
    return stated if [re.sub(r"\s", "_", name) for name in stated] == fitted else fitted


def library() -> Any:
    """Import scikit-learn, or say how to install it."""
    try:
        importlib.import_module("sklearn.base")
        return importlib.import_module("sklearn")
    except ImportError:
        raise MissingToolError("scikit-learn", "sklearn") from None


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted estimator as a source. `outputs` are the wished names, empty for the default ones."""

    model: Any
    table: Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0

    def to_onnx(self, opset: int) -> Any:
        model = _converted(self.model, self.interface.inputs, opset)
        finish(model, self.interface.inputs, self._names())
        return model

    def _names(self) -> tuple[str, ...]:
        names = default_names(self.model)
        if self.outputs and len(self.outputs) != len(names):
            raise StepError(f"expected {len(names)} output names, got {len(self.outputs)}")
        return self.outputs or names

    def run(self, feeds: Feeds) -> Arrays:
        given = self.table.given(feeds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return results(self.model, given)

    def samples(self) -> Mapping[str, Any]:
        return _ranges.samples(self.model, self.table, self.run, self.seed)

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def default_names(model: Any) -> tuple[str, ...]:
    """Return what the outputs are called, by what the estimator is."""
    base = library().base
    if base.is_classifier(model):
        return ("label", "probabilities") if hasattr(model, "predict_proba") else ("label",)
    if base.is_regressor(model):
        return ("prediction",)
    if hasattr(model, "transform") and not base.is_clusterer(model):
        return ("transformed",)
    raise StepError(f"`{type(model).__name__}` is neither a classifier, a regressor nor a transformer", hint=_OTHERWISE)


def results(model: Any, given: Any) -> Arrays:
    """Compute the outputs as the estimator does, in the types of the graph: int64 or text, and float32."""
    names = default_names(model)
    if names[0] == "transformed":
        return [_floats(model.transform(given))]
    answer = importlib.import_module("numpy").asarray(model.predict(given))
    if names[0] == "prediction":
        return [_floats(answer.reshape(len(answer), -1))]
    labels = answer.astype("object") if answer.dtype.kind in "OUT" else answer.astype("int64")
    return [labels, *([_floats(model.predict_proba(given))] if len(names) > 1 else [])]


def _floats(values: Any) -> Any:
    dense = values.toarray() if hasattr(values, "toarray") else values
    array = importlib.import_module("numpy").asarray(dense)
    return array.astype("object") if array.dtype.kind in "OU" else array.astype("float32")


# -- conversion


def _converted(model: Any, inputs: Sequence[Port], opset: int) -> Any:
    """Convert, computing in binary64 as scikit-learn does where every operator can, else in float32.

    A scaler in float32 in front of a tree sends values near a threshold the other way.
    """
    fixed, options = _prepared(model)
    ports = inputs if _takes_columns(fixed) else joined(inputs)
    try:
        found = _attempt(fixed, [_wide(port) for port in ports], options, opset)
        _check_loads(found)
    except StepError:
        found = _attempt(fixed, [_narrow(port) for port in ports], options, opset)
    if ports is inputs:
        narrow(found, inputs)
    else:
        join(found, inputs)
    return found


def _prepared(model: Any) -> tuple[Any, dict[int, dict[str, Any]]]:
    """Return a copy that the converters take, and their options by identity of the parts."""
    model = copy.deepcopy(model)
    options: dict[int, dict[str, Any]] = {id(part): _text.prepare(part) for part in _text.vectorizers(model)}
    for part in _text.parts(model):
        if hasattr(part, "flatten_transform"):
            part.flatten_transform = False  # only changes what `transform` returns, and the converter insists
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if library().base.is_classifier(last):
        options[id(last)] = {"zipmap": False} if hasattr(last, "predict_proba") else {"nocl": False}
    return model, options


def _attempt(model: Any, ports: Sequence[Port], options: Mapping[int, Any], opset: int) -> Any:
    convert, types = _converter()
    _converted_trees.register()

    def attempt() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert(
                model,
                name="model",
                initial_types=[(port.name, _type(types, port)) for port in ports],
                target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
                options=dict(options),
                custom_conversion_functions=_converted_trees.converters(),
            )

    found = _table.refused("the model has no ONNX form", attempt, _OTHERWISE)
    helper = importlib.import_module("onnx.helper")
    _text.cut_before_lowering(found, helper)
    _text.mend_sublinear(found, helper)
    return found


def _check_loads(model: Any) -> None:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    _table.refused("the graph does not load", lambda: runtime.InferenceSession(data, options, providers), _OTHERWISE)


def _wide(port: Port) -> Port:
    return replace(port, dtype="float64") if port.dtype == "float32" else port


def _narrow(port: Port) -> Port:
    return replace(port, dtype="float32") if port.dtype == "float64" else port


def narrow(model: Any, inputs: Sequence[Port]) -> None:
    """Let a graph that computes in binary64 take the inputs as the interface has them."""
    helper = importlib.import_module("onnx.helper")
    for value, port in zip(model.graph.input, inputs, strict=True):
        wanted = helper.np_dtype_to_tensor_dtype(_dtype(port))
        tensor = value.type.tensor_type
        if tensor.elem_type != wanted:
            cast = helper.make_node("Cast", [f"{value.name}_given"], [value.name], to=tensor.elem_type)
            model.graph.node.insert(0, cast)
            value.name, tensor.elem_type = f"{value.name}_given", wanted


def _takes_columns(model: Any) -> bool:
    """Say whether the estimator, or the first step of the pipeline, picks columns by name or position."""
    first = model.steps[0][1] if hasattr(model, "steps") else model
    return hasattr(first, "transformers_") or hasattr(first, "transformer_list")


def joined(inputs: Sequence[Port]) -> Sequence[Port]:
    """Return the one matrix that several columns make, of the first one's type."""
    return inputs if len(inputs) == 1 else [Port(_JOINED, inputs[0].dtype, (BATCH, len(inputs)))]


def join(model: Any, inputs: Sequence[Port]) -> None:
    """Put the columns side by side in front of a graph that takes one matrix of the first column's type."""
    helper = importlib.import_module("onnx.helper")
    kind = model.graph.input[0].type.tensor_type.elem_type
    del model.graph.input[:]
    nodes, parts = [], []
    for index, port in enumerate(inputs):
        own = helper.np_dtype_to_tensor_dtype(_dtype(port))
        model.graph.input.append(helper.make_tensor_value_info(f"column_{index}", own, [None, 1]))
        parts.append(f"column_{index}" if own == kind else f"column_{index}_cast")
        if own != kind:
            nodes.append(helper.make_node("Cast", [f"column_{index}"], [parts[-1]], to=kind))
    nodes.append(helper.make_node("Concat", parts, [_JOINED], axis=1))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _dtype(port: Port) -> Any:
    return importlib.import_module("numpy").dtype("object" if port.dtype == "string" else port.dtype)


def _converter() -> tuple[Any, Any]:
    try:
        module = importlib.import_module("skl2onnx")
    except ImportError:
        raise MissingToolError("skl2onnx", "sklearn") from None
    return module.convert_sklearn, importlib.import_module("skl2onnx.common.data_types")


def _type(types: Any, port: Port) -> Any:
    kinds = {
        "float32": "Float", "float64": "Double", "int64": "Int64", "int32": "Int32", "bool": "Boolean",
        "string": "String",
    }  # fmt: skip
    if port.dtype not in kinds:
        raise StepError(f"input `{port.name}` is {port.dtype}, expected one of {', '.join(kinds)}")
    return getattr(types, f"{kinds[port.dtype]}TensorType")([None, port.shape[1]])


def finish(model: Any, inputs: Sequence[Port], outputs: Sequence[str]) -> None:
    """Write the interface on a converted graph: lengths and names of axes, and the outputs' names; drop the rest."""
    del model.graph.output[len(outputs) :]
    _round(model)
    if len(model.graph.output) != len(outputs):
        raise StepError(f"the graph has {len(model.graph.output)} outputs, expected {', '.join(outputs)}")
    names = {value.name: name for value, name in zip(model.graph.output, outputs, strict=True)}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.add(
            domain="", version=9
        )  # a graph of trees alone; every reader wants the standard set named
    if len(model.graph.input) != len(inputs):
        raise StepError(f"the graph has {len(model.graph.input)} inputs, expected {len(inputs)}")
    names |= {value.name: port.name for value, port in zip(model.graph.input, inputs, strict=True)}
    names |= {name: f"{name}_inner" for name in set(names.values()) & taken - names.keys()}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value, port in zip(model.graph.input, inputs, strict=True):
        for axis, length in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            setattr(axis, "dim_value" if isinstance(length, int) else "dim_param", length)
    _drop_unused(model.graph)


def _round(model: Any) -> None:
    """Give outputs that were computed in binary64 as float32."""
    helper = importlib.import_module("onnx.helper")
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type == _DOUBLE:
            model.graph.node.append(helper.make_node("Cast", [value.name], [f"{value.name}_rounded"], to=_FLOAT))
            value.name, tensor.elem_type = f"{value.name}_rounded", _FLOAT


def _drop_unused(main: Any) -> None:
    """Drop nodes and weights that no output needs (the probabilities of a classifier that has none)."""
    needed = {value.name for value in main.output}
    for index in reversed(range(len(main.node))):
        node = main.node[index]
        if needed.isdisjoint(node.output):
            del main.node[index]
        else:
            needed |= {name for message in graph.messages(node) if message.DESCRIPTOR.name == "NodeProto"
                       for name in message.input}  # fmt: skip
    for index in reversed(range(len(main.initializer))):
        if main.initializer[index].name not in needed:
            del main.initializer[index]
