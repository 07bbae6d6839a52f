# SPDX-License-Identifier: Apache-2.0
"""Read and write the subset of DER that RFC 3161 needs: definite lengths in their shortest form, single-byte tags.

Source: X.690. Anything else is a ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

INTEGER, OCTETS, NULL, OID, TIME, SEQUENCE, SET = 0x02, 0x04, 0x05, 0x06, 0x18, 0x30, 0x31
BOOLEAN = 0x01


@dataclass(frozen=True, slots=True)
class Value:
    """One element: its tag, its content, and its whole encoding."""

    tag: int
    content: bytes
    raw: bytes

    def of(self, tag: int) -> Value:
        """Return this value if it has that tag."""
        if self.tag != tag:
            raise ValueError(f"expected DER tag {tag:#04x}, got {self.tag:#04x}")
        return self

    def parts(self) -> list[Value]:
        """Return the elements inside a constructed value."""
        found, rest = [], self.content
        while rest:
            value, rest = _next(rest)
            found.append(value)
        return found


def parse(data: bytes) -> Value:
    """Read exactly one element."""
    value, rest = _next(data)
    if rest:
        raise ValueError("bytes follow the end of the DER value")
    return value


def _next(data: bytes) -> tuple[Value, bytes]:
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise ValueError("truncated or exotic DER")
    size, start = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[2 : 2 + count]), 2 + count
        if not 1 <= count <= 4 or size < 0x80 or size >> (8 * (count - 1)) == 0:
            raise ValueError("a DER length is not in its shortest form")
    end = start + size
    if end > len(data):
        raise ValueError("truncated DER")
    return Value(data[0], data[start:end], data[:end]), data[end:]


def encode(tag: int, *contents: bytes) -> bytes:
    """Write one element."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + body


def write_integer(value: int) -> bytes:
    """Write a non-negative INTEGER."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def write_oid(dotted: str) -> bytes:
    """Write an OBJECT IDENTIFIER."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    body = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        body += bytes(reversed(groups))
    return encode(OID, bytes(body))
