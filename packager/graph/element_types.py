# SPDX-License-Identifier: Apache-2.0
"""Infer the element types of every value of a graph: ONNX's own inference, and its schemas where that stops.

ONNX has no inference for many operators of `ai.onnx.ml` (Imputer, Scaler, Normalizer …), so everything behind one of
them has no type. A schema says more: an output has the type of the input that shares its parameter, or the only type
that is allowed, or that of a classifier's list of classes. Nothing is guessed: what neither says stays unknown.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from packager.graph import canonicalise, nbits
from packager.graph.canonicalise import Proto

_ML = "ai.onnx.ml"
_CLASSIFIERS = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
_ROUNDS = 16  # how often ONNX's inference and the schemas take turns; each turn knows more, or it is the last
_GRAPHS = (5, 10)  # AttributeProto.GRAPH and GRAPHS


def infer_types(model: Proto) -> Proto:
    """Return a copy of a graph without local functions, with the type of every value that can be known.

    Shapes are those of ONNX's own inference. It is the graph itself where ONNX refuses to infer (above 2 GiB).
    """
    onnx, inliner = canonicalise.import_onnx(), importlib.import_module("onnx.inliner")
    try:
        flat = inliner.inline_local_functions(model) if model.functions else model
        found = onnx.shape_inference.infer_shapes(flat)
        for _ in range(_ROUNDS):
            if not _complete(found.graph, _imports(found), {}):
                break
            found = onnx.shape_inference.infer_shapes(found)
    except Exception:  # protobuf refuses above 2 GiB, the inliner unusual functions: types stay unknown, not guessed
        return model
    return found


def name_of(number: int) -> str:
    """Return the name of an element type in numpy's words; nothing for none."""
    name: str = canonicalise.import_onnx().TensorProto.DataType.Name(number).lower() if number else ""
    return {theirs: ours for ours, theirs in canonicalise.ONNX_NAMES.items()}.get(name, name)


def _imports(model: Proto) -> Mapping[str, int]:
    return {canonicalise.domain_of(entry.domain): entry.version for entry in model.opset_import}


def _complete(scope: Proto, imports: Mapping[str, int], outer: Mapping[str, Proto]) -> bool:
    """Write the types that schemas state into a graph and the graphs inside; say whether any was new."""
    known = dict(outer)
    declared = {value.name: value for value in (*scope.value_info, *scope.output)}
    known |= {value.name: value.type for value in (*scope.input, *declared.values()) if _is_whole(value.type)}
    known |= {tensor.name: _tensor(tensor.data_type) for tensor in scope.initializer}
    new = False
    for node in scope.node:
        for name, kind in _told(node, imports, known).items():
            value = declared.get(name)
            if value is None:
                value = scope.value_info.add(name=name)
            value.type.CopyFrom(kind)
            known[name], new = value.type, True
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                new |= _complete(inner, imports, known)
    return new


def _is_whole(kind: Proto) -> bool:
    """Say whether a type names its elements."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return bool(kind.tensor_type.elem_type)
    if which == "map_type":
        return bool(kind.map_type.key_type) and _is_whole(kind.map_type.value_type)
    return which in ("sequence_type", "optional_type") and _is_whole(getattr(kind, which).elem_type)


def _told(node: Proto, imports: Mapping[str, int], known: Mapping[str, Proto]) -> dict[str, Proto]:
    """Return the types of those outputs of a node that had none, as far as its schema and attributes state them."""
    missing = [name for name in node.output if name and name not in known]
    domain = canonicalise.domain_of(node.domain)
    if (domain, node.op_type) == (nbits.DOMAIN, nbits.OPERATOR):
        return {name: _without_shape(known[node.input[0]]) for name in missing if node.input[0] in known}
    schema = schema_of(node.op_type, imports.get(domain, 0), domain) if missing else None
    if schema is None:
        return {}
    bound: dict[str, Proto] = {}
    for index, name in enumerate(node.input):
        formal = _formal(schema.inputs, index)
        if name in known and formal is not None and formal.is_homogeneous:
            bound.setdefault(formal.type_str, known[name])
    bound |= _labels(node) if domain == _ML and node.op_type in _CLASSIFIERS else {}
    parameters = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    found = {}
    for index, name in enumerate(node.output):
        formal = _formal(schema.outputs, index)
        if name not in missing or formal is None or not formal.is_homogeneous:
            continue
        kind = bound.get(formal.type_str)
        if kind is None:
            only = parameters.get(formal.type_str, [formal.type_str])
            kind = _parsed(only[0]) if len(only) == 1 else None
        if kind is not None:
            found[name] = _without_shape(kind)
    return found


def schema_of(operator: str, version: int, domain: str) -> Any | None:
    """Return ONNX's definition of an operator in a version of its domain; None where it knows none."""
    onnx = canonicalise.import_onnx()
    try:
        return onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None


def _formal(formals: Any, index: int) -> Any | None:
    """Return the formal parameter of an actual one: the last of a schema may stand for several."""
    return formals[min(index, len(formals) - 1)] if formals else None


def _tensor(number: int) -> Proto:
    kind = canonicalise.import_onnx().TypeProto()
    kind.tensor_type.elem_type = number
    return kind


def _without_shape(kind: Proto) -> Proto:
    """Return the same elements without a shape: an output that shares a type need not share that."""
    bare = canonicalise.import_onnx().TypeProto()
    bare.CopyFrom(kind)
    for message in canonicalise.walk_messages(bare):
        if message.DESCRIPTOR.full_name in ("onnx.TypeProto.Tensor", "onnx.TypeProto.SparseTensor"):
            message.ClearField("shape")
    return bare


def _labels(node: Proto) -> dict[str, Proto]:
    """Classes are texts where a classifier lists texts, whole numbers else."""
    texts = any(attribute.name == "classlabels_strings" and attribute.strings for attribute in node.attribute)
    return {"T2": _tensor(_number("string" if texts else "int64"))}


def _parsed(text: str) -> Proto | None:
    """Read a type as schemas write it; only tensors need it."""
    word = re.fullmatch(r"tensor\((\w+)\)", text)
    return _tensor(_number(word[1])) if word else None


def _number(word: str) -> int:
    return int(
        getattr(canonicalise.import_onnx().TensorProto, {"float": "FLOAT", "double": "DOUBLE"}.get(word, word.upper()))
    )
