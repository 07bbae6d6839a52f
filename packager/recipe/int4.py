# SPDX-License-Identifier: Apache-2.0
"""The recipe key `int4`: how weights are put into blocks of four bits, for targets with that precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from packager import strictyaml
from packager.canonical import JSON
from packager.graph import nbits
from packager.strictyaml import Node

PRECISION = "int4"


@dataclass(frozen=True, slots=True)
class Int4:
    """What a recipe states of blocks of four bits.

    `block` weights share a scale and, unless `symmetric`, a zero point. `activations` is the type in which kernels
    multiply: `int8` is faster and rounds what a layer takes, too. `last`: also layers whose product is an answer.
    `loss` is the largest error of a layer's weights, relative to them, above which it stays in float32.
    """

    block: int = 32
    symmetric: bool = False
    activations: str = "float32"
    last: bool = False
    loss: float = 0.15

    def to_json(self) -> JSON:
        return {name: getattr(self, name) for name in self.__slots__}


def read(node: Node) -> Int4:
    """Read the key. Raises UsageError."""
    members = strictyaml.read_fields(node, PRECISION, Int4.__slots__)
    values = {name: _READERS[name](member, f"{PRECISION}.{name}") for name, member in members.items()}
    return Int4(**values)


def _block(node: Node, what: str) -> int:
    found = strictyaml.read_integer(node, what, nbits.SIZES[0], nbits.SIZES[-1])
    if found not in nbits.SIZES:
        raise node.where.error(f"`{what}`: expected one of {', '.join(map(str, nbits.SIZES))}, got `{found}`")
    return found


def _activations(node: Node, what: str) -> str:
    return strictyaml.read_choice(node, what, nbits.ACTIVATIONS)


def _loss(node: Node, what: str) -> float:
    return strictyaml.read_number(node, what, 0.01, 1)


_READERS: Mapping[str, Callable[[Node, str], Any]] = {
    "block": _block,
    "symmetric": strictyaml.read_boolean,
    "activations": _activations,
    "last": strictyaml.read_boolean,
    "loss": _loss,
}
