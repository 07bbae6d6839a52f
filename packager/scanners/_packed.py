# SPDX-License-Identifier: Apache-2.0
"""Decompress a file that joblib wrote: zlib, gzip, bz2, lzma, xz or lz4, recognised by the first bytes.

joblib goes on with a second stream after the first one, and its own writers never make one: a file that has more than
one is refused, so that it cannot be read otherwise than it was scanned.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any

_MOST, _SLACK, _RATIO = 3 << 29, 1 << 28, 200  # bytes a file may unpack to: at most, and besides so many times its size
_PEEKED = 1 << 20  # packed bytes that hold the first unpacked ones: a block of bz2 is 900 kB


def _lz4() -> Any:
    try:
        return importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    except ImportError:
        raise ValueError("it is packed with lz4, and the package `lz4` is not installed") from None


_FORMS: tuple[tuple[re.Pattern[bytes], Callable[[], Any]], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), lambda: zlib.decompressobj(31)),
    (re.compile(rb"\x78[\x01\x5e\x9c\xda]"), zlib.decompressobj),
    (re.compile(rb"BZh[1-9]"), bz2.BZ2Decompressor),
    (re.compile(rb"\xfd7zXZ\x00"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    (re.compile(rb"\x5d\x00\x00"), lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (re.compile(rb"\x04\x22M\x18"), _lz4),
)


def is_packed(head: bytes) -> bool:
    """Say by its first bytes whether a file is compressed in a form that joblib reads."""
    return any(pattern.match(head) for pattern, _ in _FORMS)


def read_beginning(data: bytes, length: int) -> bytes:
    """Return the first unpacked bytes of a packed file, nothing where it is damaged."""
    try:
        return bytes(_tool(data).decompress(data[:_PEEKED], length))
    except (zlib.error, OSError, ValueError, RuntimeError, lzma.LZMAError):
        return b""


def unpack(data: bytes) -> bytes:
    """Return the content of a packed file. Raises ValueError for a bomb, for a damaged one, and for a second stream."""
    most, tool = min(_MOST, _SLACK + _RATIO * len(data)), _tool(data)
    try:
        content = bytes(tool.decompress(data, most + 1))
    except (zlib.error, OSError, RuntimeError, lzma.LZMAError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most} bytes")
    if not tool.eof or tool.unused_data:
        raise ValueError("its packed data ends too early or goes on behind the end")
    return content


def _tool(data: bytes) -> Any:
    return next(make for pattern, make in _FORMS if pattern.match(data))()
