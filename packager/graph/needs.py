# SPDX-License-Identifier: Apache-2.0
"""Requirements of a graph on a runtime: operators with their versions and element types, and memory.

Runs in the worker, on a graph that `graph` made canonical; `onnx` is imported where it is used. A type
that neither ONNX's inference nor its schemas state (`elementtypes`) is `?` and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from packager.canonical import JSON
from packager.graph import activations, bounds, canonicalise, element_types, nbits
from packager.graph.canonicalise import Proto

Operators = dict[str, dict[str, dict[str, list[str]]]]  # domain -> operator -> since -> element types


def list_needs(model: Proto, dimensions: Mapping[str, tuple[int, int]] | None = None) -> JSON:
    """Return `operators` and, with the bounds of the named dimensions, `activations`: estimates in bytes.

    `operators` maps domain, operator and the version its definition is from to the combinations of element types it
    is used on, written `T=float32;Tind=int64` with the names of the ONNX schema. The graph may have its weights in
    external files; they are not read.
    """
    flat = element_types.infer_types(model)
    imports = {canonicalise.domain_of(entry.domain): entry.version for entry in flat.opset_import}
    found: Operators = {}
    for scope, types in _scopes(flat.graph, {}):
        for node in scope.node:
            _note(found, node, imports, types)
    result: dict[str, JSON] = {"operators": _sorted(found)}
    if dimensions is not None:
        lengths = {name: high for name, (_, high) in dimensions.items()}
        result["activations"] = activations.estimate(bounds.bound(flat, lengths).graph)
    return result


def _scopes(scope: Proto, outer: Mapping[str, str]) -> Iterator[tuple[Proto, Mapping[str, str]]]:
    """Yield every graph inside a graph, each with the element types of all names it can see."""
    types = dict(outer)
    for value in (*scope.input, *scope.value_info, *scope.output):
        types[value.name] = _type_of(value.type) or types.get(value.name, "")
    for tensor in scope.initializer:
        types[tensor.name] = element_types.name_of(tensor.data_type)
    yield scope, types
    for node in scope.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                if inner.node or inner.output:
                    yield from _scopes(inner, types)


_GRAPHS = (5, 10)  # AttributeProto.GRAPH and GRAPHS


def _type_of(kind: Proto) -> str:
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return element_types.name_of(kind.tensor_type.elem_type)
    if which == "sequence_type":
        return f"seq({_type_of(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_type_of(kind.optional_type.elem_type)})"
    if which == "map_type":
        return f"map({element_types.name_of(kind.map_type.key_type)},{_type_of(kind.map_type.value_type)})"
    return ""


def _note(found: Operators, node: Proto, imports: Mapping[str, int], types: Mapping[str, str]) -> None:
    domain = canonicalise.domain_of(node.domain)
    version = imports.get(domain, 0)
    schema = element_types.schema_of(node.op_type, version, domain)
    since, combination = (version, "?") if schema is None else (schema.since_version, _bound(schema, node, types))
    if (domain, node.op_type) == (nbits.DOMAIN, nbits.OPERATOR):
        combination = nbits.describe(node, types)
    combinations = found.setdefault(domain or "ai.onnx", {}).setdefault(node.op_type, {}).setdefault(str(since), [])
    if combination not in combinations:
        combinations.append(combination)


def _bound(schema: Any, node: Proto, types: Mapping[str, str]) -> str:
    """Return what the type parameters of an operator stand for at one node; nothing where its kernels take all.

    StringNormalizer has none, but loads only where the host has its locale.
    """
    if schema.name == "StringNormalizer":
        chosen = next((attribute.s.decode() for attribute in node.attribute if attribute.name == "locale"), "en_US")
        return f"locale={chosen}"
    if any(attribute.type == schema.AttrType.GRAPH for attribute in schema.attributes.values()):
        return ""
    bound: dict[str, str] = {}
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            formal = formals[min(index, len(formals) - 1)] if formals else None
            if name and formal is not None and formal.is_homogeneous:
                bound.setdefault(formal.type_str, types.get(name) or "?")
    known = [constraint.type_param_str for constraint in schema.type_constraints]
    return ";".join(f"{name}={bound[name]}" for name in known if name in bound)


def _sorted(found: Operators) -> JSON:
    return {
        domain: {
            name: {since: sorted(rows) for since, rows in sorted(versions.items(), key=lambda item: int(item[0]))}
            for name, versions in sorted(operators.items())
        }
        for domain, operators in sorted(found.items())
    }
