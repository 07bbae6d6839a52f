# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic written so that runtimes compute it exactly.

Some of onnxruntime's kernels for 64-bit integers go through narrower or floating types: `Sign`, `Clip`, `Relu`, `Max`,
`Min` and their reductions are wrong where bit 31 is set (vectorised comparisons of 1.31), `Mod` with `fmod=1` and
`ReduceSum` beyond 2**53. What follows from a caller's integers is written with operators that are exact; lengths and
shapes stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packager.graph import canonicalise, value_flow
from packager.graph.canonicalise import Proto

_INT64 = 7  # of onnx.TensorProto
_HALF = 1 << 32


def write_exactly(model: Proto, inputs: Sequence[str]) -> None:
    """Replace inexact operators on 64-bit integers that follow from `inputs`, in place, in the outermost graph."""
    main = model.graph
    reached = value_flow.values_from(main, set(inputs))
    found = [node for node in main.node if node.op_type in _REWRITES and reached.intersection(node.input)]
    wide = _wide(model) if found else set()
    if not any(node.input[0] in wide for node in found):
        return
    nodes = _Nodes(set(_taken(main)), dict(_constants(main)))
    for node in main.node:
        if node.op_type in _REWRITES and node.input[0] in wide and reached.intersection(node.input):
            _REWRITES[node.op_type](nodes, node)
        else:
            nodes.made.append(node)
    written = list(nodes.made)
    del main.node[:]
    main.node.extend(written)


def _wide(model: Proto) -> set[str]:
    """Return the names of the values that ONNX's inference knows to be 64-bit integers."""
    try:
        main = canonicalise.import_onnx().shape_inference.infer_shapes(model).graph
    except Exception:  # protobuf refuses above 2 GiB; then the graph stays as it is, and the measurement decides
        return set()
    stated = (*main.input, *main.value_info, *main.output)
    return {value.name for value in stated if value.type.tensor_type.elem_type == _INT64}


def _taken(main: Proto) -> Iterator[str]:
    for node in main.node:
        yield from (*node.input, *node.output)


def _constants(main: Proto) -> Iterator[tuple[str, Proto]]:
    yield from ((tensor.name, tensor) for tensor in main.initializer)
    for node in main.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


@dataclass(slots=True)
class _Nodes:
    """The nodes that take the place of others, names for what is between them, and the tensors known beforehand."""

    taken: set[str]
    constants: Mapping[str, Proto]
    made: list[Proto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, makes: str = "", **attributes: object) -> str:
        """Add a node and return the name of what it makes."""
        name = makes or next(n for k in itertools.count(1) if (n := f"exact_{k}") not in self.taken)
        self.taken.add(name)
        self.made.append(canonicalise.import_onnx().helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def number(self, value: int, shape: Sequence[int] = ()) -> str:
        return self.add("Constant", value=canonicalise.import_onnx().helper.make_tensor("", _INT64, shape, [value]))

    def pick(self, comparison: str, left: str, right: str, makes: str = "") -> str:
        """Add the choice of the one of two values for which the comparison holds."""
        return self.add("Where", self.add(comparison, left, right), left, right, makes=makes)


def _sign(nodes: _Nodes, node: Proto) -> None:
    zero = nodes.number(0)
    above, below = (nodes.add("Cast", nodes.add(c, node.input[0], zero), to=_INT64) for c in ("Greater", "Less"))
    nodes.add("Sub", above, below, makes=node.output[0])


def _clip(nodes: _Nodes, node: Proto) -> None:
    value, low, high = (*node.input, "", "")[:3]
    bounds = [(comparison, bound) for comparison, bound in (("Greater", low), ("Less", high)) if bound]
    for index, (comparison, bound) in enumerate(bounds, start=1):
        value = nodes.pick(comparison, value, bound, makes=node.output[0] if index == len(bounds) else "")
    if not bounds:
        nodes.add("Identity", value, makes=node.output[0])


def _relu(nodes: _Nodes, node: Proto) -> None:
    nodes.pick("Greater", node.input[0], nodes.number(0), makes=node.output[0])


def _extreme(comparison: str) -> Callable[[_Nodes, Proto], None]:
    def write(nodes: _Nodes, node: Proto) -> None:
        value, *others = node.input
        for index, other in enumerate(others, start=1):
            value = nodes.pick(comparison, value, other, makes=node.output[0] if index == len(others) else "")
        if not others:
            nodes.add("Identity", value, makes=node.output[0])

    return write


def _remainder(nodes: _Nodes, node: Proto) -> None:
    """Write `fmod`, whose sign is the dividend's; without that attribute `Mod` is exact."""
    left, right = node.input
    if any(attribute.name == "fmod" and attribute.i for attribute in node.attribute):
        nodes.add("Sub", left, nodes.add("Mul", nodes.add("Div", left, right), right), makes=node.output[0])
    else:
        nodes.made.append(node)


def _sum(nodes: _Nodes, node: Proto) -> None:
    """Sum both halves of the bits by themselves: each stays below 2**53 for two million terms, where doubles count."""
    value, *axes = node.input
    attributes = {a.name: canonicalise.import_onnx().helper.get_attribute_value(a) for a in node.attribute}
    half = nodes.number(_HALF)
    upper = nodes.add("Div", value, half)
    lower = nodes.add("Sub", value, nodes.add("Mul", upper, half))
    above, below = (nodes.add("ReduceSum", part, *axes, **attributes) for part in (upper, lower))
    nodes.add("Add", nodes.add("Mul", above, half), below, makes=node.output[0])


def _end(largest: int) -> Callable[[_Nodes, Proto], None]:
    """Write a reduction to the largest or smallest, axis by axis, as the first of a sorted row."""

    def write(nodes: _Nodes, node: Proto) -> None:
        attributes = {a.name: canonicalise.import_onnx().helper.get_attribute_value(a) for a in node.attribute}
        axes, stated = attributes.get("axes"), node.input[1] if len(node.input) > 1 else ""
        if stated in nodes.constants:
            axes = canonicalise.import_onnx().numpy_helper.to_array(nodes.constants[stated]).tolist()
        if not axes:  # all of them, or not known beforehand
            nodes.made.append(node)
            return
        value, one = node.input[0], nodes.number(1, [1])
        for axis in axes:
            value = nodes.add("TopK", value, one, axis=axis, largest=largest)
            nodes.made[-1].output.append(f"{value}_place")
        if attributes.get("keepdims", 1):
            nodes.add("Identity", value, makes=node.output[0])
            return
        held = canonicalise.import_onnx().helper.make_tensor("", _INT64, [len(axes)], axes)
        nodes.add("Squeeze", value, nodes.add("Constant", value=held), makes=node.output[0])

    return write


_REWRITES: Mapping[str, Callable[[_Nodes, Proto], None]] = {
    "Sign": _sign,
    "Clip": _clip,
    "Relu": _relu,
    "Max": _extreme("Greater"),
    "Min": _extreme("Less"),
    "Mod": _remainder,
    "ReduceSum": _sum,
    "ReduceMax": _end(1),
    "ReduceMin": _end(0),
}
