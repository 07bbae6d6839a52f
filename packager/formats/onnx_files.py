# SPDX-License-Identifier: Apache-2.0
"""Read the protobuf fields and external data of untrusted ONNX files, without `onnx` and without loading weights.

Sources: https://protobuf.dev/programming-guides/encoding/ and onnx.proto3. Offsets are bytes of the file; a weight
inside the file is a pair of offsets, never a copy.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from packager.errors import SourceError
from packager.files import open_regular

Span: TypeAlias = tuple[int, int]
Message: TypeAlias = Mapping[int, list[tuple[int, int, int]]]
"""The fields of a message by number: wire type, start and end, as `fields` yields them."""

VARINT, BYTES = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire type: bytes; groups (3, 4) are no part of proto3
GRAPH, LOCATION_EXTERNAL = 7, 1
DEEPEST = 64  # messages inside each other; protobuf itself stops at 100
LARGEST = (1 << 31) - 1  # bytes of one message, and so of the file: protobuf's own limit

_CHILDREN = {
    "model": {GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""onnx.proto3: message, field number, message of the field; the fields through which a tensor can be reached."""
_DATA_LOCATION = 14


@contextlib.contextmanager
def map_file(path: Path) -> Iterator[memoryview]:
    """Map a file for reading. Raises ValueError for an empty one and for one larger than protobuf allows."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError("it is empty")
        if size > LARGEST:
            raise ValueError("it is larger than 2 GiB; weights beyond that must be external data")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            yield view


def external_data(path: Path) -> tuple[str, ...]:
    """Return the names of the external data files that an ONNX file declares, sorted. Raises SourceError."""
    try:
        with map_file(path) as view:
            return tuple(sorted(set(_model_locations(view))))
    except (IndexError, ValueError) as error:
        raise SourceError(
            f"`{path.name}` is not an ONNX file, or is truncated: {error}", hint="export the model again"
        ) from error


def _model_locations(view: memoryview) -> Iterator[str]:
    if not any(number == GRAPH and wire == BYTES for number, wire, _, _ in read_fields(view, 0, len(view))):
        raise ValueError("it holds no graph")
    yield from _locations(view, 0, len(view), "model", DEEPEST)


def _locations(view: memoryview, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Walk one message between two offsets and yield the `location` of every external tensor in it."""
    if depth == 0:
        raise ValueError("graphs are nested too deeply")
    external, entries = False, {}
    for number, wire, low, high in read_fields(view, start, end):
        child = _CHILDREN[message].get(number) if wire == BYTES else None
        if child == "entry":
            key, value = read_entry(view, low, high)
            entries[key] = value
        elif child:
            yield from _locations(view, low, high, child, depth - 1)
        elif message == "tensor" and number == _DATA_LOCATION:
            external = low == LOCATION_EXTERNAL
    if external and "location" not in entries:
        raise ValueError("an external tensor names no file")
    if external:
        yield entries["location"]


def read_entry(view: memoryview, start: int, end: int) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    parts = {
        number: bytes(view[low:high]).decode()
        for number, wire, low, high in read_fields(view, start, end)
        if wire == BYTES
    }
    return parts.get(1, ""), parts.get(2, "")


def read_fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field; a varint's value takes the place of both offsets.

    Raises ValueError or IndexError for what is no message.
    """
    while start < end:
        tag, start = read_varint(view, start)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            low, start = read_varint(view, start)
            high, after = low, start
        else:
            size, low = read_varint(view, start) if wire == BYTES else (_FIXED.get(wire, end), start)
            high = after = low + size
        if number == 0 or after > end:
            raise ValueError(f"a field at byte {start} does not fit")
        yield number, wire, low, high
        start = after


def read_varint(view: memoryview, start: int) -> tuple[int, int]:
    """Return the number at `start` and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = view[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError(f"a number at byte {start} does not end")


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads messages of one file. Malformed ones raise ValueError or IndexError."""

    view: memoryview

    def read(self, span: Span, single: Collection[int] = ()) -> Message:
        """Return the fields of a message; those in `single` may occur once, as parsers differ about repetitions."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        for number, wire, low, high in read_fields(self.view, *span):
            found.setdefault(number, []).append((wire, low, high))
        for number in single:
            if len(found.get(number, ())) > 1:
                raise ValueError(f"field {number} of a message is there twice")
        return found

    def spans(self, message: Message, number: int) -> list[Span]:
        return [(low, high) for wire, low, high in message.get(number, ()) if wire == BYTES]

    def texts(self, message: Message, number: int) -> list[str]:
        return [bytes(self.view[low:high]).decode() for low, high in self.spans(message, number)]

    def text(self, message: Message, number: int) -> str:
        """Return a text, empty if it is absent; the last one counts, as in protobuf."""
        return "".join(self.texts(message, number)[-1:])

    def integers(self, message: Message, number: int, most: int) -> list[int]:
        """Return a repeated int64, packed or not, of at most `most` entries."""
        found: list[int] = []
        for wire, low, high in message.get(number, ()):
            if wire == VARINT:
                found.append(low)
            while wire == BYTES and low < high and len(found) <= most:
                value, low = read_varint(self.view, low)
                found.append(value)
        if len(found) > most:
            raise ValueError(f"a list of numbers has more than {most} entries")
        return [value - (1 << 64) if value >> 63 else value for value in found]

    def integer(self, message: Message, number: int) -> int:
        """Return an integer, 0 if it is absent."""
        return (self.integers(message, number, 1) or [0])[0]

    def packed(self, message: Message, number: int) -> bytes:
        """Return the bytes of repeated numbers of fixed width, packed or not."""
        return b"".join(bytes(self.view[low:high]) for wire, low, high in message.get(number, ()) if wire != VARINT)
