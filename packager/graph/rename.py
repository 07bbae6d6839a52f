# SPDX-License-Identifier: Apache-2.0
"""Rename the values of an ONNX graph, so that no name that a caller chooses for an input breaks it.

A value inside that already has a wanted name moves away, in every scope; subgraphs see the names of the graph around
them unless they define their own; the bodies of functions have their own names and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from packager.errors import StepError
from packager.graph import canonicalise
from packager.graph.canonicalise import Proto

_GRAPHS = (5, 10)  # AttributeProto.GRAPH and GRAPHS


def name_ports(model: Proto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name what a caller feeds and gets, by position and in place; an input that is a weight too is not fed.

    Raises StepError where two of them would have one name.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [value.name for value in model.graph.input if value.name not in weights]
    _separate(model.graph)
    old = [*fed, *(value.name for value in model.graph.output)]
    new = [*inputs, *outputs]
    twice = next((name for index, name in enumerate(new) if name in new[:index]), None)
    if twice is not None:
        raise StepError(
            f"`{twice:.80}` would be the name of two inputs or outputs", hint="name the outputs under `outputs`"
        )
    rename_values(model, dict(zip(old, new, strict=True)))


def distinct_names(inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Return default names of outputs, numbered where an input or an earlier output is called so already."""
    taken = set(inputs)
    found = []
    for name in outputs:
        found.append(next(n for n in (name, *(f"{name}_{k}" for k in range(1, len(taken) + 2))) if n not in taken))
        taken.add(found[-1])
    return found


def rename_values(model: Proto, names: Mapping[str, str]) -> None:
    """Rename values of the outermost graph from old to new, all at once and in place.

    Any other value that is called as one of the new names gets a free name. A name that shall stay and must not be
    moved is given as `{name: name}`.
    """
    taken = set(_names(model.graph))
    wanted = set(names.values())
    moved: dict[str, str] = {}
    for name in sorted(wanted & taken - names.keys()):
        moved[name] = _free(name, taken | wanted | set(moved.values()))
    _rename(model.graph, {old: new for old, new in names.items() if old and old != new}, moved)


def _free(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_inner_{number}" in taken:
        number += 1
    return f"{name}_inner_{number}"


def _separate(main: Proto) -> None:
    """Give every output its own value: some graphs return an input, a weight, or one value twice."""
    taken = set(_names(main))
    seen = {value.name for value in (*main.input, *main.initializer)}
    for value in main.output:
        if value.name in seen:
            own = _free(value.name, taken)
            main.node.add(op_type="Identity", input=[value.name], output=[own])
            value.name = own
            taken.add(own)
        seen.add(value.name)


def _names(message: Proto) -> Iterator[str]:
    """Yield the name of every value a graph and the graphs inside it define or use."""
    for scope in canonicalise.walk_messages(message):
        if scope.DESCRIPTOR.name == "GraphProto":
            yield from _defined(scope)
        elif scope.DESCRIPTOR.name == "NodeProto":
            yield from filter(None, (*scope.input, *scope.output))


def _defined(scope: Proto) -> Iterator[str]:
    yield from (value.name for value in (*scope.input, *scope.output, *scope.initializer))
    yield from (tensor.values.name for tensor in scope.sparse_initializer)


def _rename(scope: Proto, names: Mapping[str, str], moved: Mapping[str, str]) -> None:
    """Apply `names` to one graph and, but for what they define themselves, to the graphs inside it."""
    known = {**names, **moved}
    _rename_named(scope, known)
    for node in scope.node:
        node.input[:] = [known.get(name, name) for name in node.input]
        node.output[:] = [known.get(name, name) for name in node.output]
        for inner in _inside(node):
            own = {*_defined_inside(inner)}
            _rename(inner, {old: new for old, new in names.items() if old not in own}, moved)


def _rename_named(scope: Proto, known: Mapping[str, str]) -> None:
    for value in (*scope.input, *scope.output, *scope.value_info, *scope.initializer):
        value.name = known.get(value.name, value.name)
    for tensor in scope.sparse_initializer:
        tensor.values.name = known.get(tensor.values.name, tensor.values.name)
    for note in scope.quantization_annotation:
        note.tensor_name = known.get(note.tensor_name, note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = known.get(entry.value, entry.value)


def _inside(node: Proto) -> Iterator[Proto]:
    for attribute in node.attribute:
        if attribute.type in _GRAPHS:
            yield from (attribute.g,) if attribute.type == _GRAPHS[0] else attribute.graphs


def _defined_inside(inner: Proto) -> Iterator[str]:
    """Yield the names that a subgraph gives itself; its outputs may be values of the graph around it."""
    yield from (value.name for value in (*inner.input, *inner.initializer))
    yield from (name for node in inner.node for name in node.output)
