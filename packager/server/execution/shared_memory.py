# SPDX-License-Identifier: Apache-2.0
"""Pass tensors between two processes of one host: the bytes in shared memory, one small datagram for each message.

Shared memory is for one direction. Its sender owns it (a memfd) and enlarges it when a message needs more; the receiver
maps it read-only. A message is the tensors, each at a multiple of 64, and after them a header in JSON; the datagram
gives the position of the header, so that it has a constant size and is never torn.

Laws: `receive()` after `send(header, arrays)` gives an equal header and arrays with the same bits, dtypes and shapes,
for every dtype of the protocol, empty and 0-dimensional arrays included; no byte is interpreted as code (no pickle).
Received arrays are views and last until the sender's next message.

The receiver need not trust the sender's process: sizes are checked against the memory there is, and the memory is
sealed against shrinking, so that reading it cannot fault.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from packager.server.protocol.datatypes import DATATYPES
from packager.server.protocol.tensors import Array, to_binary

Header = dict[str, Any]

_FRAME = struct.Struct("<QQ")  # where the header starts, and its length
_LENGTH = struct.Struct("<I")
_ALIGN = 64  # for vectorised kernels
_MIN_BYTES = 2**20
_KEPT_BYTES = 2**23  # bytes that stay in memory between two messages


class MalformedMessageError(Exception):
    """The received bytes are not a message: the process at the other end is not to be trusted any more."""


def create_memory() -> io.FileIO:
    """Return new shared memory for one direction. Raises OSError."""
    file = io.FileIO(os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+")
    file.truncate(_MIN_BYTES)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return file


class Sender:
    """The writing end."""

    def __init__(self, channel: socket.socket, file: io.FileIO) -> None:
        self._channel, self._file = channel, file
        self._memory, self._used = mmap.mmap(file.fileno(), 0), 0

    def send(self, header: Header, arrays: Sequence[Array]) -> None:
        """Write a message and send its position. Raises OSError when the receiver is gone."""
        rows, end = [], 0
        plain = [_plain(array) for array in arrays]
        for (kind, array), given in zip(plain, arrays, strict=True):
            rows.append((kind, given.shape, end, array.nbytes))
            end += -(-array.nbytes // _ALIGN) * _ALIGN
        encoded = orjson.dumps({**header, "tensors": rows})
        self._reserve(end + len(encoded))
        for (_, array), row in zip(plain, rows, strict=True):
            np.ndarray(array.shape, array.dtype, self._memory, row[2])[...] = array
        self._memory[end : end + len(encoded)] = encoded
        self._channel.send(_FRAME.pack(end, len(encoded)))

    def _reserve(self, size: int) -> None:
        self._used = max(size, self._used)
        if size > len(self._memory):
            self._file.truncate(1 << (size - 1).bit_length())
            self._memory = mmap.mmap(self._file.fileno(), 0)

    def trim(self) -> None:
        """Free the memory of long messages; call when they have been read."""
        if self._used > _KEPT_BYTES:
            self._memory.madvise(mmap.MADV_REMOVE, _KEPT_BYTES, len(self._memory) - _KEPT_BYTES)
            self._used = 0


class Receiver:
    """The reading end."""

    def __init__(self, channel: socket.socket, file: io.FileIO) -> None:
        self._channel, self._file = channel, file
        self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def receive(self) -> tuple[Header, list[Array]]:
        """Wait for a message. Raises EOFError when the other end is gone, OSError, and Garbled."""
        frame = self._channel.recv(_FRAME.size)
        if not frame:
            raise EOFError
        try:
            start, length = _FRAME.unpack(frame)
            if start + length > len(self._memory):
                self._memory = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
            header = orjson.loads(self._memory[start : start + length])
            return header, [_array(self._memory, *row) for row in header["tensors"]]
        except (ValueError, TypeError, KeyError, struct.error) as error:
            raise MalformedMessageError(str(error)) from None


def _plain(array: Array) -> tuple[str, Array]:
    """Return the kind of the elements of `array`, and an array of its bytes or numbers."""
    if array.dtype.kind not in "OUS":
        return array.dtype.name, array.astype(array.dtype.newbyteorder("="), copy=False)
    texts = all(isinstance(item, str) for item in array.reshape(-1))
    return "string" if texts else "bytes", np.asarray(to_binary(array))


def _array(memory: mmap.mmap, kind: str, shape: list[int], start: int, size: int) -> Array:
    if not 0 <= start <= start + size <= len(memory):  # numpy takes a negative start as it is
        raise ValueError(f"expected a position in {len(memory)} bytes, got {start} and {size}")
    if kind in ("string", "bytes"):
        with memoryview(memory) as whole:
            return _elements(bytes(whole[start : start + size]), kind == "string").reshape(shape)
    if kind not in DATATYPES:
        raise ValueError(f"unknown kind {kind}")
    found: Array = np.ndarray(shape, kind, memory, start)
    if found.nbytes != size:
        raise ValueError(f"expected {found.nbytes} bytes, got {size}")
    return found


def _elements(raw: bytes, texts: bool) -> Array:
    found: list[str | bytes] = []
    offset = 0
    while offset < len(raw):
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size + length
        if offset > len(raw):
            raise ValueError("an element is longer than the data")
        item = raw[offset - length : offset]
        found.append(item.decode() if texts else item)
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array
