# SPDX-License-Identifier: Apache-2.0
"""Finish a graph that `tf2onnx` wrote: operators left as TensorFlow's, names and axes of the interface."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from packager.errors import StepError
from packager.exporters import Port


def replace_tensorflow_operators(model: Any, otherwise: str) -> None:
    """Write what the converter leaves as operators of TensorFlow. Raises StepError for one that has no form here."""
    onnx = importlib.import_module("onnx")
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    nodes = []
    for node in model.graph.node:
        if node.domain or node.op_type in known:
            nodes.append(node)
        elif node.op_type in _WRITERS:
            nodes += _WRITERS[node.op_type](onnx, model, node)
        else:
            raise StepError(f"`{node.op_type}` of TensorFlow has no ONNX form", hint=otherwise)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _erfc(onnx: Any, model: Any, node: Any) -> list[Any]:
    """What an exact `gelu` of Keras is made of; ONNX has its complement only."""
    one = _constant(onnx, model, node, "one", _one_like(model, node.input[0]))
    erf = f"{node.output[0]}_erf"
    make = onnx.helper.make_node
    return [make("Erf", node.input, [erf]), make("Sub", [one, erf], node.output)]


def _bucketize(onnx: Any, model: Any, node: Any) -> list[Any]:
    """Count the boundaries that are not above a value: what `Discretization` of Keras is. All are not above NaN."""
    numpy = importlib.import_module("numpy")
    stated = next(list(item.floats) for item in node.attribute if item.name == "boundaries")
    x, out, make = node.input[0], node.output[0], onnx.helper.make_node
    bounds = _constant(onnx, model, node, "bounds", numpy.asarray(stated, "float32"))
    last = _constant(onnx, model, node, "last", numpy.asarray([-1], "int64"))
    count = _constant(onnx, model, node, "count", numpy.asarray(len(stated), "int32"))
    return [
        make("Cast", [x], [f"{out}_float"], to=onnx.TensorProto.FLOAT),
        make("Unsqueeze", [f"{out}_float", last], [f"{out}_each"]),
        make("Less", [f"{out}_each", bounds], [f"{out}_below"]),
        make("Cast", [f"{out}_below"], [f"{out}_ones"], to=onnx.TensorProto.INT32),
        make("ReduceSum", [f"{out}_ones", last], [f"{out}_above"], keepdims=0),
        make("Sub", [count, f"{out}_above"], [out]),
    ]


_WRITERS = {"Erfc": _erfc, "Bucketize": _bucketize}


def _constant(onnx: Any, model: Any, node: Any, role: str, value: Any) -> str:
    """Add a constant beside a node; return its name."""
    name = f"{node.output[0]}_{role}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return name


def _one_like(model: Any, name: str) -> Any:
    """Return a one of the type that a value has, as far as the graph states it: float32 otherwise."""
    onnx, numpy = importlib.import_module("onnx"), importlib.import_module("numpy")
    stated = [value for value in (*model.graph.value_info, *model.graph.input) if value.name == name]
    kind = stated[0].type.tensor_type.elem_type if stated else onnx.TensorProto.FLOAT
    return numpy.ones((), onnx.helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT))


def name(model: Any, tensors: Sequence[str], inputs: Sequence[Port], outputs: Sequence[str]) -> None:
    """Give the graph the interface's inputs and outputs, in its order; `tensors` are their names in the graph so far.

    An input that the model does not use is one all the same: callers send it. Raises StepError for a graph that has
    other inputs or lacks an output.
    """
    graph = model.graph
    found = {value.name.removesuffix(":0"): value.name for value in (*graph.input, *graph.output)}
    called = [found.get(tensor.removesuffix(":0"), tensor) for tensor in tensors]
    given, made = dict(zip(called, inputs, strict=False)), dict(zip(called[len(inputs) :], outputs, strict=True))
    results = {value.name: value for value in graph.output}
    foreign = sorted({value.name for value in graph.input} - set(given)) + sorted(set(made) ^ set(results))
    if foreign:
        raise StepError(
            f"the converter wrote a graph with `{foreign[0]}`, which is no input or output of the model",
            hint="export the model another way and register the ONNX file",
        )
    ordered = [results[tensor] for tensor in made]
    del graph.input[:], graph.output[:]
    graph.input.extend(_declared(tensor, port) for tensor, port in given.items())
    graph.output.extend(ordered)
    names = {tensor: port.name for tensor, port in given.items()} | made
    taken = {output for node in graph.node for output in node.output} | {value.name for value in graph.initializer}
    names |= {inner: f"{inner}_inner" for inner in set(names.values()) & taken - names.keys()}
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    _rename(graph, names)


def _declared(tensor: str, port: Port) -> Any:
    onnx, numpy = importlib.import_module("onnx"), importlib.import_module("numpy")
    named = {"string": onnx.TensorProto.STRING, "bfloat16": onnx.TensorProto.BFLOAT16}
    kind = named.get(port.dtype) or onnx.helper.np_dtype_to_tensor_dtype(numpy.dtype(port.dtype))
    return onnx.helper.make_tensor_value_info(tensor, kind, port.shape)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Write new names wherever nodes read or write them; bodies of loops and branches read names from around them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(body, names)
