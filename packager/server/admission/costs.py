# SPDX-License-Identifier: Apache-2.0
"""Estimate and bound what a request costs, before it is parsed.

The interpreter runs one thread at a time, and a single call of native code (parsing JSON, making a list an array)
blocks all others, health probes too. So the input of such a call is bounded, wherever it runs: Python objects by
`MOST_VALUES`, which took 40 ms at most on a busy machine. Longer tensors travel as binary data, which is not parsed.
"""

from __future__ import annotations

from packager.server.errors import RequestError

SMALL = 2**16
"""Bytes that are read in about a millisecond, JSON and numbers."""
SMALL_TEXTS = 2**13
"""The same where texts may come as binary data, which are parsed one by one and have at least four bytes each."""
MOST_VALUES = 2**19
"""Numbers, texts and lists of one request that become Python objects."""

_MAX_LISTS = 2**17
_MAX_OBJECTS = 2**12
_MAX_JSON_BYTES = 12 * 2**20
_SLICE = 2**18  # bytes that are counted before another thread may run
# Bytes of CPython 3.11, 64 bit: a value with its entries in the parser, in a list and in an array; an empty list; a
# dictionary of one. And for each byte of the document the parser's copy, and one of a text, four if it has an emoji.
_VALUE, _LIST, _OBJECT, _BYTE, _WIDE = 88, 88, 240, 2, 5
_BINARY = "send long tensors as binary data"


def estimate_json_memory(document: bytes | bytearray | memoryview) -> int:
    """Return the bytes that a JSON document takes once it is parsed, at most.

    Commas and brackets inside texts count as if they were values: the figure is never too small.
    Raises RequestError with status 413 for a document that is too long to be parsed at once.
    """
    if len(document) > _MAX_JSON_BYTES:
        raise RequestError(
            f"expected at most {_MAX_JSON_BYTES} bytes of JSON, got {len(document)}: {_BINARY}", status=413
        )
    lists, objects, values, byte = 0, 0, 1, _BYTE
    for start in range(0, len(document), _SLICE):
        raw = bytes(document[start : start + _SLICE])
        here = raw.count(b"["), raw.count(b"{")
        lists, objects, values = lists + here[0], objects + here[1], values + raw.count(b",") + sum(here)
        check_values(values)
        if lists > _MAX_LISTS or objects > _MAX_OBJECTS:
            raise RequestError(
                f"expected at most {_MAX_LISTS} lists and {_MAX_OBJECTS} objects in JSON, got more: {_BINARY}",
                status=413,
            )
        if not raw.isascii() or b"\\u" in bytes(document[start : start + _SLICE + 1]):
            byte = _WIDE
    return byte * len(document) + _VALUE * values + _LIST * lists + _OBJECT * objects


def check_values(count: int) -> None:
    """Raise RequestError with status 413 for more values than one request may make Python objects of."""
    if count > MOST_VALUES:
        raise RequestError(f"expected at most {MOST_VALUES} values, got {count}: {_BINARY}", status=413)
