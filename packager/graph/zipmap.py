# SPDX-License-Identifier: Apache-2.0
"""Replace ZipMap, the last node of most converted classifiers: a map from class to score for every row.

Only tensors can be served. What a ZipMap is fed is that tensor: one column per class, in the order the node lists them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from packager.graph import canonicalise
from packager.graph.canonicalise import Proto

Labels: TypeAlias = tuple[int | str, ...]


def strip_zipmaps(model: Proto) -> dict[int, Labels]:
    """Let outputs that a ZipMap makes be what it is fed, in place; return the classes by position of the output."""
    found: dict[int, Labels] = {}
    for position, value in enumerate(model.graph.output):
        node = next((n for n in model.graph.node if n.op_type == "ZipMap" and value.name in n.output), None)
        if node is not None:
            found[position] = _labels(node)
            value.CopyFrom(_scores(node.input[0], len(found[position])))
            model.graph.node.remove(node)
    return found


def _labels(node: Proto) -> Labels:
    helper = importlib.import_module("onnx.helper")
    values = [helper.get_attribute_value(attribute) for attribute in node.attribute]
    return tuple(label.decode() if isinstance(label, bytes) else label for value in values for label in value)


def _scores(name: str, classes: int) -> Proto:
    return canonicalise.import_onnx().helper.make_tensor_value_info(
        name, canonicalise.import_onnx().TensorProto.FLOAT, [None, classes]
    )


def stack_scores(rows: Sequence[Mapping[int | str, float]], labels: Labels) -> Any:
    """Return the maps a ZipMap made as the tensor it was fed: float32 of rows by classes."""
    numpy = importlib.import_module("numpy")
    table = [[row[label] for label in labels] for row in rows]
    return numpy.asarray(table, dtype="float32").reshape(len(rows), len(labels))
