# SPDX-License-Identifier: Apache-2.0
"""The wire form of Protocol Buffers, as far as the Open Inference Protocol needs it: no library, no generated code.

Source: protobuf.dev, "Encoding". A message is a list of (field number, value); integers are varints, everything else
that is used here has its length before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Fields = list[tuple[int, "int | bytes"]]


def varint(value: int) -> bytes:
    """Encode an integer; negative ones as two's complement of 64 bits, as int64 fields have them."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """Encode an integer or boolean field."""
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    """Encode a text, bytes, message or packed field."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def packed(field: int, values: Iterable[int]) -> bytes:
    """Encode a packed list of integers."""
    return block(field, b"".join(map(varint, values)))


def parse(data: bytes) -> Fields:
    """Return the fields of a message in their order. Raises ValueError."""
    found: Fields = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            found.append((key >> 3, value))
            continue
        length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(data, at)
        if kind not in (1, 2, 5) or at + length > len(data):
            raise ValueError("not a message of Protocol Buffers")
        found.append((key >> 3, data[at : at + length]))
        at += length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("not a message of Protocol Buffers")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def blocks(fields: Fields, wanted: int) -> list[bytes]:
    """Return every occurrence of a field that has a length."""
    return [value for field, value in fields if field == wanted and isinstance(value, bytes)]


def text(fields: Fields, wanted: int) -> str:
    """Return a text field, empty when it is absent."""
    return b"".join(blocks(fields, wanted)[-1:]).decode("utf-8", "replace")


def integers(fields: Fields, wanted: int) -> Sequence[int]:
    """Return a repeated int64 field, packed or not."""
    found: list[int] = []
    for field, value in fields:
        if field != wanted:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            item, at = _varint(value, at)
            found.append(item)
    return [item - 2**64 if item >= 2**63 else item for item in found]
