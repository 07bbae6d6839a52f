# SPDX-License-Identifier: Apache-2.0
"""Estimate the memory that one run of a graph takes beside its weights: values that live at once, and a process's peak.

The second is what ONNX Runtime's CPU provider takes, with one thread and one request at a time. Its allocator takes
regions that double, cuts the smallest free piece that fits, and keeps all of it; a second run with the same shapes puts
all values into one block that it plans from the first. Read from the library's `bfc_arena.cc`, `mem_pattern_planner.h`
and the kernels' `MayInplace`; the other figures are measured (docs/measurements/memory.md).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from packager.canonical import JSON
from packager.graph import canonicalise, element_types
from packager.graph.canonicalise import Proto

_EXTENT_MOST = 1 << 48  # bytes of one value; more is a dimension that cannot be meant
_SMALL = 1024  # bytes of a value that the allocator's course does not depend on
_ALIGNED = 256
_FIRST_REGION = 1 << 20
_LEFT_MOST = 128 << 20  # bytes of a free piece that are not given away with it

# Measured: what a session of one node takes, what each node adds, and what a byte of a tree's attributes becomes.
_SESSION, _NODE, _ATTRIBUTE = 1 << 20, 4 << 10, 4.5

_IN_PLACE = frozenset((
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Clip", "Div", "Elu", "Exp", "Floor", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Log", "Mul", "Neg", "Not", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu",
))  # fmt: skip
_ALIASES = frozenset(("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# Weights that are laid out anew while the first layout stays.
_COPIED = {"Conv": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}

_BITS = {
    "float32": 32,
    "float64": 64,
    "float16": 16,
    "bfloat16": 16,
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "uint64": 64,
    "uint32": 32,
    "uint16": 16,
    "uint8": 8,
    "bool": 8,
    "int4": 4,
    "uint4": 4,
}


def estimate(main: Proto) -> JSON:
    """Return what intermediate values of a graph with inferred shapes take, in bytes.

    `bytes` is the most that live at once: nodes run in their order and a value leaves memory after its last reader.
    `unknown` counts the values whose size the graph does not state. `working` is an estimate of what a process of ONNX
    Runtime takes on a CPU beside the weights, when it has answered before.
    """
    sizes = {value.name: _bytes(value.type) for value in (*main.input, *main.value_info, *main.output)}
    weights = {tensor.name for tensor in main.initializer}
    last = {name: index for index, node in enumerate(main.node) for name in reads(node)}
    kept = {value.name for value in main.output}
    alive = sum(sizes.get(value.name) or 0 for value in main.input)
    peak, unknown = alive, sum(sizes.get(value.name) is None for value in main.input)
    for index, node in enumerate(main.node):
        made = [name for name in node.output if name]
        unknown += sum(sizes.get(name) is None for name in made)
        alive += sum(sizes.get(name) or 0 for name in made)
        peak = max(peak, alive)
        gone = {name for name in (*reads(node), *made) if last.get(name, index) == index} - kept - weights
        alive -= sum(sizes.get(name) or 0 for name in gone)
    known = {name: size for name, size in sizes.items() if size is not None}
    return {"bytes": peak, "unknown": unknown, "working": _loaded(main) + _touched(list(_course(main, known, last)))}


def reads(node: Proto) -> Iterator[str]:
    """Yield the names that a node and the graphs inside it read."""
    for message in canonicalise.walk_messages(node):
        if message.DESCRIPTOR.name == "NodeProto":
            yield from filter(None, message.input)


def _bytes(kind: Proto) -> int | None:
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    bits = _BITS.get(element_types.name_of(tensor.elem_type))
    count = math.prod(int(axis.dim_value) for axis in tensor.shape.dim)
    if bits is None or not count or count > _EXTENT_MOST:
        return None
    return -(-count * bits // 8)


def _loaded(main: Proto) -> int:
    """Return what an open session takes beside one layout of the weights."""
    sizes = {tensor.name: _stored(tensor) for tensor in main.initializer}
    copied = {name for node in main.node for index in _COPIED.get(node.op_type, ()) for name in node.input[index:][:1]}
    again = sum(sizes.get(name, 0) for name in copied)
    layouts = 2 if sum(sizes.values()) <= canonicalise.INLINE_TOTAL else 1  # those of the file are not mapped then
    listed = sum(
        8 * len(attribute.ints) + 4 * len(attribute.floats) + 40 * len(attribute.strings)
        for node in main.node
        for attribute in node.attribute
    )
    return _SESSION + _NODE * len(main.node) + layouts * again + int(_ATTRIBUTE * listed)


def _stored(tensor: Proto) -> int:
    return math.prod(map(int, tensor.dims)) * _BITS.get(element_types.name_of(tensor.data_type), 0) // 8


# the course of a run


class _Step(NamedTuple):
    """A buffer that is taken or given back. `kind`: `value`, `output` (the caller's in the end) or `scratch`."""

    taken: bool
    name: str
    size: int
    kind: str


def _course(main: Proto, sizes: Mapping[str, int], last: Mapping[str, int]) -> Iterator[_Step]:
    """Yield what a run takes and gives back: in place where kernels compute so, nothing for other names of a value."""
    outputs = {value.name for value in main.output}
    ends = dict(last) | dict.fromkeys(outputs, len(main.node))
    shapes = _shapes(main)
    root: dict[str, str] = {}
    held: dict[str, int] = {}  # buffer to its bytes
    due: dict[int, list[str]] = {}  # buffers by the node after which they may end
    for index, node in enumerate(main.node):
        for name in filter(None, node.output):
            end, size = ends.get(name, index), sizes.get(name, 0)
            before = _reused(node, size, index, root, held, ends)
            if before is not None:
                root[name] = before
                ends[before] = max(ends.get(before, index), end)
            elif node.op_type not in _ALIASES and size >= _SMALL:
                held[name], before = size, name
                yield _Step(True, name, size, "output" if name in outputs else "value")
            if before is not None:
                due.setdefault(max(ends.get(before, index), index), []).append(before)
        scratch = _scratch(node, shapes)
        if scratch >= _SMALL:
            yield _Step(True, f"{index} of {node.op_type}", scratch, "scratch")
            yield _Step(False, f"{index} of {node.op_type}", scratch, "scratch")
        for name in due.pop(index, ()):
            if name in held and ends.get(name, index) <= index:
                yield _Step(False, name, held.pop(name), "output" if name in outputs else "value")


def _reused(
    node: Proto, size: int, index: int, root: Mapping[str, str], held: Mapping[str, int], ends: Mapping[str, int]
) -> str | None:
    """Return the buffer of an input that the output of a node takes over, if any."""
    alias = node.op_type in _ALIASES
    for name in node.input[:1] if alias else node.input if node.op_type in _IN_PLACE else ():
        found: str = root.get(name, name)
        if found in held and (alias or (held[found] == size and ends.get(found, -1) <= index)):
            return found
    return None


def _shapes(main: Proto) -> dict[str, list[int]]:
    found = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*main.input, *main.value_info, *main.output)
    }
    return found | {tensor.name: list(tensor.dims) for tensor in main.initializer}


def _scratch(node: Proto, shapes: Mapping[str, list[int]]) -> int:
    """Return the bytes that a kernel takes while it runs, of the kernels that take much."""
    given = [shapes.get(name, []) for name in node.input[:2]]
    if node.op_type == "ConvTranspose" and all(len(shape) > 2 for shape in given):
        return 4 * math.prod(given[1][1:]) * math.prod(given[0][2:])  # columns of one picture
    if node.op_type in _GATES and all(len(shape) == 3 for shape in given):
        return 4 * math.prod(given[0][:2]) * math.prod(given[1][:2])  # gates of all steps and rows
    return 0


# the library's allocator


@dataclass
class _Region:
    pieces: list[list[int]]  # start, bytes, 1 where it is taken; side by side
    touched: int = 0


@dataclass
class _Arena:
    """Best fit in regions that double."""

    following: int = _FIRST_REGION
    regions: list[_Region] = field(default_factory=list)
    where: dict[str, tuple[_Region, list[int]]] = field(default_factory=dict)

    def take(self, name: str, size: int) -> None:
        size = -(-size // _ALIGNED) * _ALIGNED
        fits = [
            (piece[1], -number, place)
            for number, region in enumerate(self.regions)
            for place, piece in enumerate(region.pieces)
            if not piece[2] and piece[1] >= size
        ]
        if not fits:
            fits = [self._extend(size)]
        _, number, place = min(fits)  # of equal pieces that at the lowest address: systems hand them out downwards
        region = self.regions[-number]
        piece = region.pieces[place]
        if piece[1] >= 2 * size or piece[1] - size >= _LEFT_MOST:
            region.pieces.insert(place + 1, [piece[0] + size, piece[1] - size, 0])
            piece[1] = size
        piece[2] = 1
        region.touched = max(region.touched, piece[0] + size)
        self.where[name] = region, piece

    def _extend(self, size: int) -> tuple[int, int, int]:
        enough = self.following >= size
        while self.following < size:
            self.following *= 2
        self.regions.append(_Region([[0, self.following, 0]]))
        found = (self.following, 1 - len(self.regions), 0)
        self.following *= 2 if enough else 1
        return found

    def give_back(self, name: str) -> None:
        region, piece = self.where.pop(name)
        piece[2] = 0
        place = next(place for place, other in enumerate(region.pieces) if other is piece)
        for at in (place, place - 1):
            if 0 <= at < len(region.pieces) - 1 and not region.pieces[at][2] and not region.pieces[at + 1][2]:
                region.pieces[at][1] += region.pieces.pop(at + 1)[1]

    def follow(self, steps: Iterable[_Step]) -> None:
        for step in steps:
            if step.taken:
                self.take(step.name, step.size)
            else:
                self.give_back(step.name)


def _touched(steps: list[_Step]) -> int:
    """Return the bytes of the allocator that two runs write to: one that is traced, one with a planned block."""
    arena = _Arena()
    arena.follow(steps)
    for name in list(arena.where):
        arena.give_back(name)
    planned = _planned(step for step in steps if step.kind == "value")
    if planned:
        arena.take("", planned)
    arena.follow(step for step in steps if step.kind != "value")
    return sum(region.touched for region in arena.regions)


def _planned(steps: Iterable[_Step]) -> int:
    """Return the size of the block that holds all values, each in the smallest gap that fits when it is made."""
    blocks: list[tuple[int, int]] = []
    where: dict[str, tuple[int, int]] = {}
    most = 0
    for step in steps:
        if not step.taken:
            blocks.remove(where.pop(step.name))
            continue
        size, end, gaps = -(-step.size // _ALIGNED) * _ALIGNED, 0, []
        for start, length in blocks:
            if start - end >= size:
                gaps.append((start - end, end))
            end = max(end, start + length)
        at = min(gaps)[1] if gaps else end
        where[step.name] = (at, size)
        insort(blocks, where[step.name])
        most = max(most, at + size)
    return most
