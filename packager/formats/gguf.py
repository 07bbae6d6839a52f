# SPDX-License-Identifier: Apache-2.0
"""Read the header of a GGUF file, and refuse one that does not describe exactly the bytes behind it.

Source: the format's description in ggml-org/ggml (its page on GGUF), and the types of `gguf` 0.19: magic, version, two
counts, key-value pairs, one entry per tensor, then the data, each tensor at a multiple of `general.alignment`.

Law: whatever the bytes are, the answer is a header or one StepError, in memory of the order of the header. A library
reads only files that were accepted here.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from packager.errors import StepError
from packager.files import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
Value: TypeAlias = "int | float | bool | str | Sequence[int | float | bool | str]"

_HEADER = 256 << 20  # bytes; 256,000 tokens with merges take 10 MB
_PAIRS, _TENSORS = 1 << 12, 1 << 16
_KEY, _NAME, _AXES = 256, 64, 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ALIGNMENT = "general.alignment"
FLOATS: Mapping[int, str] = {0: "F32", 1: "F16", 30: "BF16"}
"""Types of tensors that hold one number by itself, without a loss beyond its own."""
TYPES: Mapping[int, tuple[str, int, int]] = {
    **{number: (name, 1, 4 if name == "F32" else 2) for number, name in FLOATS.items()},
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Types of tensors: the name, elements of a block, bytes of a block."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its type's name, its sizes with the innermost first, and where its bytes are in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says it holds."""

    version: int
    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])

    @property
    def quantised(self) -> tuple[str, ...]:
        """The types of its tensors that are blocks of fewer bits, by name."""
        return tuple(sorted({tensor.type for tensor in self.tensors} - {*FLOATS.values()}))


class _BadError(Exception):
    """What is wrong with the bytes."""


def read(path: Path) -> Header:
    """Return the header of a file. Raises StepError for one that does not describe the file's bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = _read_all(file, min(size, _HEADER))
    try:
        return _parse(data, size)
    except _BadError as error:
        raise StepError(
            f"`{path.name:.80}` is refused: {error}", hint="fetch the file again, or convert the model to GGUF again"
        ) from None


def _read_all(file: BinaryIO, count: int) -> bytes:
    parts, left = [], count
    while left and (part := file.read(min(left, 1 << 24))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _Reader:
    """Reads numbers and strings from front to back; every length is held against what is left."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self.place

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise _BadError(f"{what} needs {count} bytes at byte {self.place}, and {self.left} are left")
        self.place += count
        return self._data[self.place - count : self.place]

    def number(self, form: str, what: str) -> int:
        found: int = struct.unpack(f"<{form}", self.take(struct.calcsize(form), what))[0]
        return found

    def text(self, what: str, longest: int | None = None) -> str:
        length = self.number("Q", what)
        if longest is not None and length > longest:
            raise _BadError(f"{what} claims {length} bytes, and {longest} are allowed")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise _BadError(f"{what} is no UTF-8") from None


def _parse(data: bytes, size: int) -> Header:
    reader = _Reader(data)
    if reader.take(4, "the magic number") != MAGIC:
        raise _BadError("it does not begin with `GGUF`")
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        raise _BadError(f"it is of version {version}, and {VERSIONS[0]} and {VERSIONS[-1]} are read (little-endian)")
    tensors, pairs = reader.number("Q", "the number of tensors"), reader.number("Q", "the number of pairs")
    for count, most, what in ((tensors, _TENSORS, "tensors"), (pairs, _PAIRS, "pairs")):
        if count > most:
            raise _BadError(f"it claims {count} {what}, and {most} are allowed")
    values = _read_values(reader, pairs)
    if not isinstance(values.get("general.architecture"), str):
        raise _BadError("it names no `general.architecture`")
    alignment = values.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise _BadError(f"`{_ALIGNMENT}` is {alignment!r:.40}, expected a power of two from 8 to 65536")
    entries = [_read_entry(reader, alignment) for _ in range(tensors)]
    if not entries:  # a vocabulary alone
        if size > _aligned(reader.place, alignment):
            raise _BadError(f"it holds no tensor, and goes on behind its header for {size - reader.place} bytes")
        return Header(version, values, ())
    return Header(version, values, tuple(_placed(entries, _aligned(reader.place, alignment), alignment, size)))


def _read_values(reader: _Reader, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = reader.text("the name of a pair", _KEY)
        if not key or not key.isascii() or not key.isprintable():
            raise _BadError("the name of a pair is empty or has characters beyond ASCII")
        if key in values:
            raise _BadError(f"`{key}` is there twice")
        values[key] = _read_value(reader, key)
    return values


def _read_value(reader: _Reader, key: str) -> Value:
    kind = reader.number("I", f"the type of `{key}`")
    if kind != _ARRAY:
        return _read_single(reader, kind, key)
    inner = reader.number("I", f"the type of `{key}`")
    count = reader.number("Q", f"the length of `{key}`")
    if inner == _STRING:
        if count > reader.left // 8:
            raise _BadError(f"`{key}` claims {count} strings, more than fit into the file")
        return [reader.text(f"a string of `{key}`") for _ in range(count)]
    form = _form(inner, key)
    width = struct.calcsize(form)
    if count > reader.left // width:
        raise _BadError(f"`{key}` claims {count} numbers, more than fit into the file")
    data = reader.take(count * width, f"`{key}`")
    _check_bools(data, inner, key)
    return list(struct.unpack(f"<{count}{form}", data))


def _read_single(reader: _Reader, kind: int, key: str) -> Value:
    if kind == _STRING:
        return reader.text(f"`{key}`")
    form = _form(kind, key)
    data = reader.take(struct.calcsize(form), f"`{key}`")
    _check_bools(data, kind, key)
    found: int | float | bool = struct.unpack(f"<{form}", data)[0]
    if isinstance(found, float) and not math.isfinite(found):
        raise _BadError(f"`{key}` is no finite number")
    return found


def _form(kind: int, key: str) -> str:
    if kind not in _NUMBERS:
        raise _BadError(f"`{key}` has the type {kind}, which is none of its kind")
    return _NUMBERS[kind]


def _check_bools(data: bytes, kind: int, key: str) -> None:
    if kind == _BOOL and data.strip(b"\x00\x01"):
        raise _BadError(f"`{key}` holds a boolean that is neither 0 nor 1")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def _read_entry(reader: _Reader, alignment: int) -> _Entry:
    name = reader.text("the name of a tensor", _NAME)
    if not name or not name.isprintable():
        raise _BadError("the name of a tensor is empty or cannot be printed")
    axes = reader.number("I", f"the axes of `{name}`")
    if not 1 <= axes <= _AXES:
        raise _BadError(f"`{name}` has {axes} axes, expected 1 to {_AXES}")
    shape = tuple(reader.number("Q", f"a size of `{name}`") for _ in range(axes))
    kind = reader.number("I", f"the type of `{name}`")
    if kind not in TYPES:
        raise _BadError(f"`{name}` has the type {kind}, which is not known here")
    label, block, width = TYPES[kind]
    elements = math.prod(shape)
    if not elements or elements >= 1 << 62:
        raise _BadError(f"the sizes of `{name}` have the product {elements}")
    if shape[0] % block:
        raise _BadError(f"`{name}` has rows of {shape[0]} elements, and {label} takes multiples of {block}")
    offset = reader.number("Q", f"the offset of `{name}`")
    if offset % alignment:
        raise _BadError(f"`{name}` begins at byte {offset} of the data, no multiple of {alignment}")
    return _Entry(name, label, shape, offset, elements // block * width)


def _placed(entries: Sequence[_Entry], begin: int, alignment: int, size: int) -> list[Tensor]:
    """Return the tensors in the order of their bytes. Raises _BadError for gaps, overlaps, or another end."""
    if len({entry.name for entry in entries}) != len(entries):
        raise _BadError("two tensors have one name")
    end, found = 0, []
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset != _aligned(end, alignment):
            raise _BadError(
                f"`{entry.name}` begins at byte {entry.offset} of the data, expected {_aligned(end, alignment)}"
            )
        end = entry.offset + entry.bytes
        found.append(Tensor(entry.name, entry.type, entry.shape, begin + entry.offset, entry.bytes))
    if not begin + end <= size <= begin + _aligned(end, alignment):
        raise _BadError(f"its tensors end at byte {begin + end}, and the file at {size}")
    return found


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
