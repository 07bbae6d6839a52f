# SPDX-License-Identifier: Apache-2.0
"""Changes to a graph that converters are known to make by mistake, each a function that changes a `ModelProto`.

They find their place by operators and by the shape of what nodes hold, so that one mutator serves graphs of several
exporters. One that finds no place raises LookupError: a fault that was not planted proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Mutator = Callable[[Any], None]
Change = Callable[[Any], Any]  # an array to another of its shape and type
_OF_SETS = 0.5  # the threshold of a column that is 0 or 1, in a set of categories or not: a step there is nothing
_TYPES = {
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}


# -- at inputs and outputs


class _Chain:
    """Nodes one behind the other, from one value of a graph to another."""

    def __init__(self, model: Any, name: str, made: str) -> None:
        self.model, self.last, self.nodes, self._made = model, name, [], made

    def constant(self, values: Any) -> str:
        name = f"{self._made} constant {len(self.nodes)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, *more: str, last: str | None = None, domain: str = "", **attributes: Any) -> str:
        made = f"{self._made} {len(self.nodes)}"
        inputs = [self.last if last is None else last, *more]
        self.nodes.append(helper.make_node(kind, inputs, [made], domain=domain, **attributes))
        self.last = made
        return made

    def cast(self, dtype: str) -> str:
        return self.node("Cast", to=_TYPES[dtype])


def _dtype(value: Any) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def at_input(name: str, build: Callable[[_Chain, str], None]) -> Mutator:
    """Put nodes behind an input, in front of everything that takes it."""

    def change(model: Any) -> None:
        value = next((value for value in model.graph.input if value.name == name), None)
        if value is None:
            raise LookupError(f"no input `{name}`")
        chain = _Chain(model, name, f"planted behind {name}")
        build(chain, _dtype(value))
        for node in model.graph.node:
            node.input[:] = [chain.last if item == name else item for item in node.input]
        _put(model, 0, chain.nodes)

    return change


def at_output(place: int, build: Callable[[_Chain, str], None]) -> Mutator:
    """Put nodes in front of an output."""

    def change(model: Any) -> None:
        value = model.graph.output[place]
        inner = f"{value.name} before"
        for node in model.graph.node:
            node.output[:] = [inner if item == value.name else item for item in node.output]
            node.input[:] = [inner if item == value.name else item for item in node.input]
        chain = _Chain(model, inner, f"planted before {value.name}")
        build(chain, _dtype(value))
        chain.nodes[-1].output[0] = value.name
        model.graph.node.extend(chain.nodes)

    return change


def casts(*kinds: str) -> Callable[[_Chain, str], None]:
    """Cast there and back, which loses what the narrower type cannot hold."""

    def build(chain: _Chain, dtype: str) -> None:
        for kind in (*kinds, dtype):
            chain.cast(kind)

    return build


def missing_is_zero(chain: _Chain, dtype: str) -> None:
    given = chain.last
    test = chain.node("IsNaN")
    chain.node("Where", chain.constant(np.zeros((), dtype)), given, last=test)


def negatives_are_zero(chain: _Chain, dtype: str) -> None:
    chain.node("Max", chain.constant(np.zeros((), dtype)))


def lower_case(chain: _Chain, _: str) -> None:
    given = chain.last
    shape = chain.node("Shape")
    chain.node("Reshape", chain.constant(np.array([-1])), last=given)
    chain.node("StringNormalizer", case_change_action="LOWER", locale="C.UTF-8")
    chain.node("Reshape", shape)


def flag_flipped(chain: _Chain, dtype: str) -> None:
    chain.node("Not") if dtype == "bool" else chain.node("Sub", chain.last, last=chain.constant(np.ones((), dtype)))


def all_ones(chain: _Chain, dtype: str) -> None:
    """Ignore a mask."""
    chain.node("Equal", chain.last)
    if dtype != "bool":
        chain.cast(dtype)


def gelu_by_tanh(model: Any) -> None:
    """Compute erf(u) as tanh does it in the fast form of GELU, where u is x over the root of two."""
    node = nodes(model, "Erf")[0]
    chain = _Chain(model, node.input[0], "planted for erf")
    dtype = "float32"
    square = chain.node("Mul", chain.last)
    scaled = chain.node("Mul", chain.constant(np.asarray(2 * 0.044715, dtype)), last=square)
    inner = chain.node("Add", chain.constant(np.asarray(1.0, dtype)), last=scaled)
    chain.node("Mul", node.input[0], last=inner)
    chain.node("Mul", chain.constant(np.asarray(2 / np.sqrt(np.pi), dtype)))
    chain.node("Tanh")
    chain.nodes[-1].output[0] = node.output[0]
    _put(model, list(model.graph.node).index(node), chain.nodes, instead=1)


def columns(*order: int) -> Callable[[_Chain, str], None]:
    return lambda chain, _: chain.node("Gather", chain.constant(np.array(order)), axis=1) and None


def times(factor: float) -> Callable[[_Chain, str], None]:
    return lambda chain, dtype: chain.node("Mul", chain.constant(np.asarray(factor, dtype))) and None


def first_row_only(chain: _Chain, _: str) -> None:
    """Answer every row of a batch as the first."""
    given = chain.last
    shape = chain.node("Shape")
    chain.node("Gather", chain.constant(np.array([0])), last=given, axis=0)
    chain.node("Expand", shape)


def at_hidden(kind: str, build: Callable[[_Chain, str], None]) -> Mutator:
    """Put nodes behind the first node of a kind, which gives float32."""

    def change(model: Any) -> None:
        node = nodes(model, kind)[0]
        outer, node.output[0] = node.output[0], f"{node.output[0]} before"
        chain = _Chain(model, node.output[0], f"planted behind {kind}")
        build(chain, "float32")
        chain.nodes[-1].output[0] = outer
        _put(model, list(model.graph.node).index(node) + 1, chain.nodes)

    return change


def _put(model: Any, place: int, made: list[Any], *, instead: int = 0) -> None:
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:place], *made, *kept[place + instead :]])


def dropped(chain: _Chain, _: str) -> None:
    """Drop a half of all numbers at random and double the others."""
    given = chain.last
    chain.node("RandomUniformLike", dtype=TensorProto.FLOAT, seed=3.0)
    chain.node("Floor", last=chain.node("Mul", chain.constant(np.float32(2))))
    chain.node("Mul", given)
    chain.node("Mul", chain.constant(np.float32(2)))


def in_float(kind: str) -> Mutator:
    """Compute the first node of whole numbers of a kind in float32."""

    def change(model: Any) -> None:
        node = nodes(model, kind)[0]
        chain = _Chain(model, node.input[0], f"planted for {kind}")
        left, right = (chain.node("Cast", last=name, to=TensorProto.FLOAT) for name in node.input)
        chain.node(kind, right, last=left)
        chain.cast("int64")
        chain.nodes[-1].output[0] = node.output[0]
        _put(model, list(model.graph.node).index(node), chain.nodes, instead=1)

    return change


def both(*changes: Mutator) -> Mutator:
    def change(model: Any) -> None:
        for each in changes:
            each(model)

    return change


def exchanged_inputs(one: str, other: str) -> Mutator:
    """Read two columns each for the other."""

    def change(model: Any) -> None:
        swap = {one: other, other: one}
        touched = 0
        for node in model.graph.node:
            touched += sum(item in swap for item in node.input)
            node.input[:] = [swap.get(item, item) for item in node.input]
        if not touched:
            raise LookupError(f"nothing reads `{one}` or `{other}`")

    return change


# -- what nodes hold


def held(model: Any) -> Iterator[tuple[Any, Any, int]]:
    """Yield every initializer with each node that takes it, and at which place."""
    named = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in named:
                yield named[name], node, place


def constant(kinds: str, change: Change, *, size: int | None = None, index: int = 0, dtype: str = "") -> Mutator:
    """Change the constant number `index` among those that nodes of some kinds take, of a size or of any above one."""

    def mutate(model: Any) -> None:
        found = []
        for tensor, node, _ in held(model):
            array = numpy_helper.to_array(tensor)
            fits = array.size == size if size else array.size > 1
            if node.op_type in kinds.split() and fits and array.dtype.kind in (dtype or "f") and tensor not in found:
                found.append(tensor)
        if not -len(found) <= index < len(found):
            raise LookupError(f"{len(found)} constants of {kinds}")
        before = numpy_helper.to_array(found[index])
        after = np.asarray(change(before.copy()), before.dtype)
        if np.array_equal(before, after):
            raise LookupError("the change changes nothing")
        found[index].CopyFrom(numpy_helper.from_array(after, found[index].name))

    return mutate


def element(index: Any, change: Change) -> Change:
    """Change one element, or what an index takes."""

    def apply(array: Any) -> Any:
        flat = array if isinstance(index, tuple) else array.reshape(-1)
        flat[index] = change(flat[index])
        return array

    return apply


def zero(value: Any) -> Any:
    return np.zeros_like(value)


def step_up(value: Any) -> Any:
    return np.nextafter(value, np.asarray(np.inf, value.dtype))


def nodes(model: Any, *kinds: str) -> list[Any]:
    found = [node for node in model.graph.node if node.op_type in kinds]
    if not found:
        raise LookupError(f"no node of {', '.join(kinds)}")
    return found


def attribute(kind: str, name: str, change: Callable[[Any], Any], index: int = 0) -> Mutator:
    """Change an attribute of the node number `index` of a kind."""

    def mutate(model: Any) -> None:
        node = nodes(model, kind)[index]
        found = next((item for item in node.attribute if item.name == name), None)
        value = change(helper.get_attribute_value(found) if found else None)
        if found:
            node.attribute.remove(found)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    return mutate


def operator(kind: str, other: str, index: int = 0, drop: tuple[str, ...] = ()) -> Mutator:
    """Put another operator in the place of one."""

    def mutate(model: Any) -> None:
        node = nodes(model, kind)[index]
        node.op_type = other
        kept = [item for item in node.attribute if item.name not in drop]
        del node.attribute[:]
        node.attribute.extend(kept)

    return mutate


def skipped(kind: str, index: int = 0, place: int = 0) -> Mutator:
    """Leave a node out: what takes its output takes its input number `place`."""

    def mutate(model: Any) -> None:
        node = nodes(model, kind)[index]
        model.graph.node.remove(node)
        for other in model.graph.node:
            other.input[:] = [node.input[place] if item == node.output[0] else item for item in other.input]
        for value in model.graph.output:
            if value.name == node.output[0]:
                model.graph.node.append(helper.make_node("Identity", [node.input[place]], [value.name]))

    return mutate


# -- trees


def trees(change: Callable[[dict[str, Any]], None]) -> Mutator:
    """Change the attributes of the first node of trees, given as lists and arrays by name."""

    def mutate(model: Any) -> None:
        node = nodes(model, "TreeEnsembleRegressor", "TreeEnsembleClassifier")[0]
        before = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        found = {name: _opened(value) for name, value in before.items()}
        change(found)
        del node.attribute[:]
        for name, value in found.items():
            node.attribute.append(helper.make_attribute(name, _closed(before[name], value)))

    return mutate


def _opened(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value).copy()
    return np.array(value, "float32") if isinstance(value, list) and value and isinstance(value[0], float) else value


def _closed(before: Any, value: Any) -> Any:
    if isinstance(before, TensorProto):
        return numpy_helper.from_array(value, before.name)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _values(found: dict[str, Any]) -> Any:
    return found["nodes_values"] if "nodes_values" in found else found["nodes_values_as_tensor"]


def _inner(found: dict[str, Any]) -> list[int]:
    return [place for place, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF"]


def threshold(which: float, *, single: bool) -> Mutator:
    """Move the threshold at a share of all nodes up by one step of float32, or of float64."""

    def change(found: dict[str, Any]) -> None:
        values = _values(found)
        inner = [place for place in _inner(found) if values[place] != _OF_SETS]
        place = inner[min(int(which * len(inner)), len(inner) - 1)]
        old = values[place]
        if single:
            values[place] = np.nextafter(np.float32(old), np.float32(np.inf))
        else:
            values[place] = np.nextafter(old, np.inf)
        if values[place] == old or (values.dtype == np.float32 and not single):
            raise LookupError("the threshold is no double")

    return trees(change)


def strict_thresholds(found: dict[str, Any]) -> None:
    found["nodes_modes"] = [b"BRANCH_LT" if mode == b"BRANCH_LEQ" else mode for mode in found["nodes_modes"]]


def children_exchanged(found: dict[str, Any]) -> None:
    place = _inner(found)[-1]
    yes, no = found["nodes_truenodeids"], found["nodes_falsenodeids"]
    yes[place], no[place] = no[place], yes[place]


def missing_elsewhere(found: dict[str, Any]) -> None:
    place = _inner(found)[0]
    found["nodes_missing_value_tracks_true"][place] ^= 1


def column_beside(found: dict[str, Any]) -> None:
    place = _inner(found)[0]
    found["nodes_featureids"][place] = 0 if found["nodes_featureids"][place] else 1
