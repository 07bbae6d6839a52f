# SPDX-License-Identifier: Apache-2.0
"""The shapes of a graph's values for inputs of the largest sizes, with sizes that the graph computes itself.

ONNX's own inference propagates numbers through few operators: not through Div, which a patch of a picture takes, nor
out of Range. Here nodes are followed in their order, with the small values that are known before anything runs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from packager.graph import canonicalise, element_types
from packager.graph.canonicalise import Proto

_SMALL = 1024  # elements of a value that may be a shape
# What exporters compute sizes with; their kernels in ONNX's reference implementation take time and memory by the sizes
# of what they read and make.
_COMPUTED = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not",
    "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice", "Sqrt", "Squeeze",
    "Sub", "Unsqueeze", "Where",
))  # fmt: skip


def bound(model: Proto, lengths: Mapping[str, int]) -> Proto:
    """Return a copy of a graph for inputs of the largest sizes, with the shapes that follow.

    Sizes that a graph computes from those of its inputs are known then, which with free axes they are not. Shapes stay
    as they are stated where ONNX refuses to infer, and unknown where they depend on values of inputs.
    """
    made = type(model).FromString(model.SerializeToString())
    for value in (*made.graph.input, *made.graph.value_info, *made.graph.output):
        for axis in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if axis.dim_param in lengths:
                axis.dim_value = lengths[axis.dim_param]
            elif axis.dim_param:
                axis.ClearField("dim_param")
    try:
        made = canonicalise.import_onnx().shape_inference.infer_shapes(made)
    except Exception:  # protobuf refuses above 2 GiB, as in `element_types`
        return made
    _Walk(made).follow()
    return made


class _Walk:
    """One pass over the nodes of a graph, which completes its shapes."""

    def __init__(self, model: Proto) -> None:
        onnx = canonicalise.import_onnx()
        self._graph = model.graph
        self._imports = list(model.opset_import)
        self._versions = {canonicalise.domain_of(entry.domain): entry.version for entry in model.opset_import}
        self._ir = model.ir_version
        self._declared = {value.name: value for value in (*model.graph.output, *model.graph.value_info)}
        self._types = {value.name: value.type for value in model.graph.input}
        self._types |= {name: value.type for name, value in self._declared.items()}
        self._values: dict[str, Any] = {}
        for tensor in model.graph.initializer:
            self._types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if math.prod(map(int, tensor.dims)) <= _SMALL and not tensor.external_data:
                self._values[tensor.name] = onnx.numpy_helper.to_array(tensor)

    def follow(self) -> None:
        if all(_is_known(self._types.get(name)) for node in self._graph.node for name in node.output if name):
            return
        for node in self._graph.node:
            if not all(_is_known(self._types.get(name)) for name in node.output if name):
                self._infer(node)
            self._compute(node)

    def _infer(self, node: Proto) -> None:
        """Write the types of what a node makes, by what is known of its inputs."""
        onnx = canonicalise.import_onnx()
        domain = canonicalise.domain_of(node.domain)
        schema = element_types.schema_of(node.op_type, self._versions.get(domain, 0), domain)
        given = {name: self._types[name] for name in node.input if name in self._types}
        if schema is None or len(given) < len({*filter(None, node.input)}):
            return
        data = {name: onnx.numpy_helper.from_array(self._values[name], name) for name in given if name in self._values}
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, given, data, opset_imports=self._imports, ir_version=self._ir
            )
        except Exception:  # the library has no class for what it refuses
            return
        for name, kind in found.items():
            if _is_known(kind):
                self._types[name] = kind
                value = self._declared.get(name)
                (value if value is not None else self._graph.value_info.add(name=name)).type.CopyFrom(kind)

    def _compute(self, node: Proto) -> None:
        """Keep what a node makes if it is small and follows from what is known."""
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return
        kind = self._types.get(node.output[0])
        if node.op_type in ("Shape", "Size") and _is_known(self._types.get(node.input[0])):
            self._values[node.output[0]] = self._shape(node)
        elif node.op_type in _COMPUTED and _is_known(kind) and _count(kind) <= _SMALL:
            given = {name: self._values[name] for name in node.input if name in self._values}
            if len(given) == len({*filter(None, node.input)}):
                try:
                    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
                    (self._values[node.output[0]],) = evaluator(node, opsets=dict(self._versions)).run(None, given)
                except Exception:  # a kernel's errors have no class; what it cannot compute stays unknown
                    return

    def _shape(self, node: Proto) -> Any:
        numpy = importlib.import_module("numpy")
        axes = [int(axis.dim_value) for axis in self._types[node.input[0]].tensor_type.shape.dim]
        if node.op_type == "Size":
            return numpy.array(math.prod(axes))
        parts = {attribute.name: attribute.i for attribute in node.attribute}
        return numpy.array(axes[parts.get("start", 0) : parts.get("end", len(axes))], dtype="int64")


def _is_known(kind: Proto | None) -> bool:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return False
    return all(axis.HasField("dim_value") for axis in kind.tensor_type.shape.dim)


def _count(kind: Proto) -> int:
    return math.prod(int(axis.dim_value) for axis in kind.tensor_type.shape.dim)
