# SPDX-License-Identifier: Apache-2.0
"""Find inputs that index a table of the graph: an embedding has as many rows as there are ids.

The source refuses an id outside, a runtime answers with another row (ONNX counts negative ones from the end) or an
error by itself. So the range belongs into the contract.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from packager.exporters import Port

_CHOOSES = frozenset({"Slice", "Split", "Gather", "GatherND", "GatherElements"})
"""Operators that take some values of an input: what is true of those need not be true of the others."""
_MOST = 24  # operators between an input and a table: Keras writes nine to let ids count from the end


def bound_indices(ports: Sequence[Port], model: Any) -> tuple[Port, ...]:
    """Return the ports with the range of every one that indexes tables and has none; the smallest table decides."""
    found = dict(sorted(_lookups(model), key=lambda pair: -pair[1]))
    return tuple(
        replace(port, range=(0, found[port.name] - 1), firm=True) if port.range is None and port.name in found else port
        for port in ports
    )


def _lookups(model: Any) -> Iterator[tuple[str, int]]:
    """Yield each input that is the indices of a lookup in a constant table, and the rows of that table."""
    graph = model.graph
    tables = {value.name: tuple(value.dims) for value in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    inputs = {value.name: value for value in graph.input}
    for node in graph.node:
        dims = tables.get(_origin(node.input[0], makers)) if node.op_type == "Gather" else None
        if not dims:
            continue
        rows = dims[next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)]
        between = _between(node.input[1], makers)
        reached = {name for name in (node.input[1], *(n for item in between for n in item.input)) if name in inputs}
        plain = len(between) <= _MOST and not any(item.op_type in _CHOOSES for item in between)
        if rows > 1 and plain and len(reached) == 1:
            (name,) = reached
            if _passes(model, between, inputs[name], node.input[1], rows):
                yield name, rows


def _origin(name: str, makers: Mapping[str, Any]) -> str:
    while name in makers and makers[name].op_type in ("Cast", "Identity"):
        name = makers[name].input[0]
    return name


def _between(name: str, makers: Mapping[str, Any]) -> list[Any]:
    """Return the nodes that a value is made by, in order, as far as it matters whether they are few."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting and len(found) <= _MOST:
        node = makers.get(waiting.pop())
        if node is not None and node.output[0] not in found:
            found[node.output[0]] = node
            waiting += node.input
    return [found[output] for output in makers if output in found]


def _passes(model: Any, nodes: Sequence[Any], given: Any, made: str, rows: int) -> bool:
    """Say whether ids in range arrive at the table as they are: the first, the last, one between."""
    onnx, numpy = importlib.import_module("onnx"), importlib.import_module("numpy")
    result = onnx.helper.make_tensor_value_info(made, onnx.TensorProto.INT64, None)
    read = {name for node in nodes for name in node.input}
    constants = [value for value in model.graph.initializer if value.name in read]
    graph = onnx.helper.make_graph(nodes, "ids", [given], [result], constants)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    tensor = given.type.tensor_type
    shape = [axis.dim_value or 2 for axis in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    evaluate = importlib.import_module("onnx.reference").ReferenceEvaluator(part)
    values = (numpy.full(shape, value, dtype) for value in sorted({0, rows // 2, rows - 1}))
    try:
        return all((evaluate.run(None, {given.name: value})[0] == value.flat[0]).all() for value in values)
    except Exception:  # the evaluator lacks an operator or a kernel: then nothing is known of the ids
        return False
