# SPDX-License-Identifier: Apache-2.0
"""Follow the values of a graph's inputs: as indices into a table of known length, or as lengths and counts."""

from __future__ import annotations

from collections.abc import Iterator

from packager.graph import canonicalise
from packager.graph.canonicalise import Proto

_UNREACHED = {"Shape", "Size"}  # a caller's values do not flow through them
_LENGTHS = {  # operator: the inputs that say how much it makes or how often it runs
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "Loop": (0,),
    "Resize": (2, 3),
    "OneHot": (1,),
    "Reshape": (1,),
    "Pad": (1,),
    "TopK": (1,),
    "Upsample": (1,),
    "Split": (1,),
    "EyeLike": (),
    "BlackmanWindow": (0,),
    "HannWindow": (0,),
    "HammingWindow": (0,),
}


def values_from(main: Proto, inputs: set[str]) -> set[str]:
    """Return the names of all values that follow from `inputs`, whatever lies in the subgraphs on the way."""
    found = set(inputs)
    for node in main.node:
        if node.op_type not in _UNREACHED and found.intersection(_reads(node)):
            found |= set(node.output)
    return found


def _reads(node: Proto) -> Iterator[str]:
    for message in canonicalise.walk_messages(node):
        if message.DESCRIPTOR.name == "NodeProto":
            yield from message.input


def sets_lengths(main: Proto, name: str) -> bool:
    """Say whether the values of an input decide how much is computed: a length, a count of rounds."""
    values = values_from(main, {name})
    return any(
        node.input[position] in values
        for node in _nodes(main)
        for position in _LENGTHS.get(node.op_type, ())
        if position < len(node.input)
    )


def table_lengths(main: Proto, name: str) -> list[int]:
    """Return the lengths of the constant tables that an input may index, the shortest first."""
    tables = {tensor.name: list(tensor.dims) for tensor in main.initializer}
    values = values_from(main, {name})
    found = set()
    for node in _nodes(main):
        if node.op_type in ("Gather", "GatherElements") and node.input[0] in tables and node.input[1] in values:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            found.add(tables[node.input[0]][axis])
    return sorted(found)


def _nodes(main: Proto) -> Iterator[Proto]:
    return (message for message in canonicalise.walk_messages(main) if message.DESCRIPTOR.name == "NodeProto")
