# SPDX-License-Identifier: Apache-2.0
"""Check the constants of an ONNX graph: data exactly as long as type and dimensions say, and where it may lie.

Part of `graphcheck`, on the wire format as there: nothing is copied but the few numbers that may become a shape.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

from packager.edits import Edit
from packager.errors import IntegrityError, StepError
from packager.formats import onnx_files
from packager.formats.onnx_files import BYTES, Message, Reader, Span
from packager.types import check_path

MOST_TENSORS = 250_000
MOST_ELEMENTS = 1 << 31  # of what is made out of constants alone: 8 GiB of float32
MOST_STORED = 1 << 42  # elements of one stored tensor
HIGHEST_RANK = 64
SMALL = 64  # elements of a constant that may be a shape

# onnx.proto3, TensorProto.DataType: bits of one element.
_BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    14: 64,
    15: 128,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
    24: 8,
    25: 2,
    26: 2,
    27: 6,
    28: 6,
}
_STRING = 8
_ENTRIES = {14: 2, 15: 2}  # complex numbers are two entries of float_data or double_data
_NUMBERS = {1: "f", 6: "i", 7: "q", 11: "d"}  # types of which shapes and bounds are made, as `struct` names them
_FIXED = {4: 4, 10: 8}  # float_data, double_data: bytes of one element
_VARINTS = (5, 7, 11)  # int32_data, int64_data, uint64_data
_TYPED = {1: 4, 6: 5, 7: 7, 11: 10}  # element type to the field of its numbers
_DIMS, _TYPE, _SEGMENT, _STRINGS, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 6, 8, 9, 13, 14
_CONTINUED = bytes(range(128, 256))  # bytes of a varint that are not its last
_KEYS = {"location", "offset", "length", "checksum"}
AGAIN = "export the model again from its framework"

Numbers: TypeAlias = tuple[float, ...]
SizeOf: TypeAlias = Callable[[str], "int | None"]


def refuse_graph(problem: str, hint: str = AGAIN, edits: Sequence[Edit] = ()) -> NoReturn:
    """Raise the StepError of a graph that must not be opened."""
    raise StepError(f"the graph is refused: {problem}", hint=hint, edits=edits)


def size_below(folder: Path, name: str) -> int | None:
    """Return the size in bytes of a regular file that is reached through no link, else None."""
    place = folder
    for part in name.split("/"):
        place = place / part
        try:
            status = os.lstat(place)
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(status.st_mode):
            return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass(slots=True)
class Tensors:
    """All constants of one file; `size_of` gives the size of an external data file, None for what is not one."""

    reader: Reader
    size_of: SizeOf
    count: int = 0
    regions: dict[str, set[Span]] = field(default_factory=dict)

    def check(self, message: Message, numbers: MutableMapping[str, Numbers]) -> str:
        """Check one tensor and return its name; put what could be a shape into `numbers`."""
        self.count += 1
        if self.count > MOST_TENSORS:
            refuse_graph(f"it has more than {MOST_TENSORS} constants")
        name, kind = self.reader.text(message, _NAME), self.reader.integer(message, _TYPE)
        count = _elements(name, self.reader.integers(message, _DIMS, HIGHEST_RANK))
        if kind != _STRING and kind not in _BITS:
            refuse_graph(f"tensor `{name:.80}` is of the unknown type {kind}")
        if _SEGMENT in message:
            refuse_graph(f"tensor `{name:.80}` is a segment of another")
        if self.reader.integer(message, _LOCATION) == onnx_files.LOCATION_EXTERNAL:
            self._external(name, message, kind, count)
        else:
            self._inline(name, message, kind, count)
            if kind in _NUMBERS and count <= SMALL:
                numbers[name] = self._numbers(message, kind)
        return name

    def sparse(self, message: Message) -> str:
        """Check a sparse tensor: its values, its indices, and the size it would have when written out."""
        names = [self.check(self.reader.read(span), {}) for part in (1, 2) for span in self.reader.spans(message, part)]
        name = names[0] if names else ""
        if _elements(name, self.reader.integers(message, 3, HIGHEST_RANK)) > MOST_ELEMENTS:
            refuse_graph(f"the sparse constant `{name:.80}` has more than {MOST_ELEMENTS} elements")
        return name

    def check_regions(self) -> None:
        """Refuse tensors that share half of their data; all of it is how tied weights are stored."""
        for location, regions in self.regions.items():
            for (_, end), (start, _) in itertools.pairwise(sorted(regions)):
                if start < end:
                    refuse_graph(f"two tensors overlap at byte {start} of `{location:.200}`")

    def _inline(self, name: str, message: Message, kind: int, count: int) -> None:
        if self.reader.spans(message, _EXTERNAL):
            refuse_graph(f"tensor `{name:.80}` names external data and does not use it")
        if kind == _STRING:
            got, wanted = len(self.reader.spans(message, _STRINGS)), {count}
        elif _RAW in message:
            got, wanted = sum(high - low for low, high in self.reader.spans(message, _RAW)), {_bytes(kind, count)}
        else:
            got, wanted = self._typed(message), {count * _ENTRIES.get(kind, 1)}
            wanted |= {_bytes(kind, count)} if _BITS[kind] < 8 else set()  # two of four bits in one entry
        if got not in wanted:
            refuse_graph(f"tensor `{name:.80}` has other data than its {count} elements need: {got} for {max(wanted)}")

    def _typed(self, message: Message) -> int:
        """Count the numbers in the fields that hold numbers, packed or not."""
        count = 0
        for number in (*_FIXED, *_VARINTS):
            for wire, low, high in message.get(number, ()):
                if wire != BYTES:
                    count += 1
                elif number in _FIXED:
                    count += (high - low) // _FIXED[number]
                else:
                    count += len(bytes(self.reader.view[low:high]).translate(None, _CONTINUED))
        return count

    def _external(self, name: str, message: Message, kind: int, count: int) -> None:
        """Check that the data is a range, as long as needed, of a regular file of the tree."""
        entries = [onnx_files.read_entry(self.reader.view, *span) for span in self.reader.spans(message, _EXTERNAL)]
        table = dict(entries)
        if len(table) < len(entries) or not set(table) <= _KEYS or "location" not in table:
            refuse_graph(f"tensor `{name:.80}` describes its external data with other keys than ONNX has")
        if kind == _STRING or message.keys() & {_RAW, *_FIXED, *_VARINTS}:
            refuse_graph(f"tensor `{name:.80}` has data inside and outside of the file, or is of text")
        location = table["location"]
        try:
            check_path(location)
        except IntegrityError as error:
            refuse_graph(f"tensor `{name:.80}` keeps its data elsewhere: {error.message}")
        size, needed = self.size_of(location), _bytes(kind, count)
        if size is None:
            refuse_graph(f"external data `{location:.200}` is not a regular file of the model")
        offset = _whole(table.get("offset", "0"), name)
        length = _whole(table.get("length", str(max(size - offset, 0))), name)
        if length != needed or offset + length > size:
            refuse_graph(
                f"tensor `{name:.80}` needs {needed} bytes, and claims {length} from byte {offset} on "
                f"of `{location:.200}`, which has {size}"
            )
        if length:
            self.regions.setdefault(location, set()).add((offset, offset + length))

    def _numbers(self, message: Message, kind: int) -> Numbers:
        if kind in (6, 7) and _RAW not in message:
            return tuple(self.reader.integers(message, _TYPED[kind], SMALL))
        data = self.reader.packed(message, _RAW if _RAW in message else _TYPED[kind])
        return tuple(value for (value,) in struct.iter_unpack(f"<{_NUMBERS[kind]}", data))


def _elements(name: str, dims: Sequence[int]) -> int:
    if min(dims, default=0) < 0:
        refuse_graph(f"tensor `{name:.80}` has a negative dimension")
    if math.prod(max(1, extent) for extent in dims) > MOST_STORED:
        refuse_graph(f"tensor `{name:.80}` has the dimensions {_listed(dims)}, more than any file holds")
    return math.prod(dims)


def _listed(dims: Iterable[int]) -> str:
    return f"{'x'.join(map(str, dims)):.80}"


def _bytes(kind: int, count: int) -> int:
    return -(-count * _BITS[kind] // 8)


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        refuse_graph(f"tensor `{name:.80}` has the offset or length `{text:.40}`, expected a whole number of bytes")
    return int(text)
