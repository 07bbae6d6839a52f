# SPDX-License-Identifier: Apache-2.0
"""Built-ins of OPA over arrays, objects, JSON documents and graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packager.policy.language import operands, values
from packager.policy.language.evaluate import BuiltinError, lookup
from packager.policy.language.values import UNDEFINED, Obj, Set, Undefined, Value, make_key


@operands.build_value("array.concat")
def array_concat(a: Value, b: Value) -> Value:
    return (*operands.of_type("array", a), *operands.of_type("array", b))


@operands.build_value("array.reverse")
def array_reverse(a: Value) -> Value:
    return tuple(reversed(operands.of_type("array", a)))


@operands.build_value("array.slice")
def array_slice(a: Value, start: Value, end: Value) -> Value:
    return operands.of_type("array", a)[max(0, operands.read_integer(start)) : max(0, operands.read_integer(end))]


@operands.build_value("array.flatten")
def array_flatten(a: Value) -> Value:
    return tuple(
        inner for item in operands.of_type("array", a) for inner in (item if isinstance(item, tuple) else (item,))
    )


@operands.build_value("object.get")
def object_get(a: Value, position: Value, default: Value) -> Value:
    found: Value | Undefined = operands.of_type("object", a)
    for name in position if isinstance(position, tuple) else (position,):
        found = UNDEFINED if isinstance(found, Undefined | str) else lookup(found, name)
    return default if isinstance(found, Undefined) else found


@operands.build_value("object.keys")
def object_keys(a: Value) -> Value:
    return Set(name for name, _ in operands.of_type("object", a))


def _names(a: Value) -> set[Any]:
    if isinstance(a, Obj):
        return set(a.entries)
    return {make_key(item) for item in operands.list_elements(a)}


@operands.build_value("object.remove")
def object_remove(a: Value, names: Value) -> Value:
    gone = _names(names)
    return Obj((name, item) for name, item in operands.of_type("object", a) if make_key(name) not in gone)


@operands.build_value("object.filter")
def object_filter(a: Value, names: Value) -> Value:
    kept = _names(names)
    return Obj((name, item) for name, item in operands.of_type("object", a) if make_key(name) in kept)


@operands.build_value("object.union")
def object_union(a: Value, b: Value) -> Value:
    found = Obj(operands.of_type("object", a))
    for name, item in operands.of_type("object", b):
        known = lookup(found, name)
        both = isinstance(known, Obj) and isinstance(item, Obj)
        found.entries[make_key(name)] = (name, object_union(known, item) if both else item)
    return found


@operands.build_value("object.union_n")
def object_union_n(a: Value) -> Value:
    found: Value = Obj()
    for item in operands.of_type("array", a):
        found = object_union(found, item)
    return found


@operands.build_value("json.filter")
def json_filter(a: Value, paths: Value) -> Value:
    wanted = [_path(item) for item in operands.list_elements(paths)]
    if any("" in path or not path for path in wanted):
        raise BuiltinError("expected paths such as `a/b`")
    return _kept(operands.of_type("object", a), wanted)


def _kept(value: Value, paths: Sequence[tuple[str, ...]]) -> Value:
    if not isinstance(value, Obj) or () in paths:
        if isinstance(value, tuple) and () not in paths:
            raise BuiltinError("places in arrays are not evaluated here")
        return value
    found = Obj()
    for name, item in value:
        rest = [path[1:] for path in paths if path[0] == name]
        if rest:
            found.entries[make_key(name)] = (name, _kept(item, rest))
    return found


def _path(value: Value) -> tuple[str, ...]:
    if not isinstance(value, str) or "~" in value:
        raise BuiltinError("paths are texts without `~` here")
    return tuple(value.removeprefix("/").split("/"))


@operands.build_value("json.is_valid")
def json_is_valid(a: Value) -> Value:
    try:
        values.load(operands.read_text(a))
    except RecursionError:
        raise BuiltinError("the document is nested too deeply") from None
    except ValueError:
        return False
    return True


@operands.build_value("json.unmarshal")
def json_unmarshal(a: Value) -> Value:
    try:
        return values.load(operands.read_text(a))
    except (ValueError, RecursionError) as error:
        raise BuiltinError(f"no JSON: {error}") from None


@operands.build_value("graph.reachable")
def graph_reachable(graph: Value, start: Value) -> Value:
    found, left, edges_of = Set(), operands.list_elements(start), operands.of_type("object", graph)
    while left:
        node = left.pop()
        edges = lookup(edges_of, node)
        if make_key(node) not in found.entries and not isinstance(edges, Undefined):
            found.entries[make_key(node)] = node
            left += operands.list_elements(edges) if isinstance(edges, tuple | Set) else []
    return found
