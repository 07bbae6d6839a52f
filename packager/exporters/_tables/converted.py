# SPDX-License-Identifier: Apache-2.0
"""Complete graphs of external converters: the interface's names, types and axes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from packager.errors import StepError
from packager.exporters import Port
from packager.graph import canonicalise

_FLOAT, _DOUBLE = 1, 11  # of onnx.TensorProto


def narrow_inputs(model: Any, inputs: Sequence[Port]) -> None:
    """Let a graph that computes in binary64 take the inputs as the interface has them."""
    helper = importlib.import_module("onnx.helper")
    for value, port in zip(model.graph.input, inputs, strict=True):
        wanted = helper.np_dtype_to_tensor_dtype(
            importlib.import_module("numpy").dtype("object" if port.dtype == "string" else port.dtype)
        )
        tensor = value.type.tensor_type
        if tensor.elem_type != wanted:
            cast = helper.make_node("Cast", [f"{value.name}_given"], [value.name], to=tensor.elem_type)
            model.graph.node.insert(0, cast)
            value.name, tensor.elem_type = f"{value.name}_given", wanted


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
            needed |= {
                name
                for message in canonicalise.walk_messages(node)
                if message.DESCRIPTOR.name == "NodeProto"
                for name in message.input
            }
    for index in reversed(range(len(main.initializer))):
        if main.initializer[index].name not in needed:
            del main.initializer[index]
