# SPDX-License-Identifier: Apache-2.0
"""Tensors between two workers, one of which is untrusted: frames of a socket, bounded and checked.

    4 bytes   length of the header, big-endian
    header    JSON; a mapping stands in it as {"map": …}, a tensor as {"tensor": number, "dtype": …, "shape": […]}, and
              one of texts holds its "texts"
    tensors   their bytes in the order of their numbers, little-endian, each as long as dtype and shape say

Nothing is unpickled, no type is named that is no number.
"""

from __future__ import annotations

import importlib
import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

from packager.errors import StepError

MAX_HEADER = 256 << 20  # bytes; texts stand in the header
MAX_TENSORS = 4096  # of one frame
MAX_BYTES = 1 << 36  # of all tensors of one frame
_NUMBERS = frozenset(
    {
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "bfloat16",
    }
)
_TEXTS = "object"


class ClosedError(Exception):
    """The other side is gone."""


def send(channel: socket.socket, value: Any) -> None:
    """Send a value of JSON and numpy arrays."""
    tensors: list[Any] = []
    header = json.dumps(_packed(value, tensors)).encode()
    try:
        channel.sendall(struct.pack(">I", len(header)) + header)
        for tensor in tensors:
            channel.sendall(memoryview(tensor) if tensor.size else b"")
    except OSError as error:
        raise ClosedError from error


def receive(channel: socket.socket) -> Any:
    """Return the next value. Raises ClosedError at the end, StepError for what is no frame."""
    (length,) = struct.unpack(">I", _read(channel, 4))
    if length > MAX_HEADER:
        raise _malformed("a header is too long")
    try:
        header = json.loads(_read(channel, length))
    except (ValueError, RecursionError):
        raise _malformed("a header is no JSON") from None
    positions: list[Any] = []
    value = _unpacked(header, positions, 0)
    if [about.get("tensor") for about, _ in positions] != list(range(len(positions))):
        raise _malformed("tensors are not in order")
    if sum(array.nbytes for _, array in positions) > MAX_BYTES:
        raise _malformed("its tensors are too large")
    for _, array in positions:
        if array.size:
            _fill(channel, memoryview(array.reshape(-1).view("uint8")))
    return _viewed(value, positions)


def _packed(value: Any, tensors: list[Any]) -> Any:
    numpy = importlib.import_module("numpy")
    if isinstance(value, numpy.ndarray):
        return _described(numpy, value, tensors)
    if isinstance(value, Mapping):
        return {"map": {str(name): _packed(member, tensors) for name, member in value.items()}}
    if isinstance(value, list | tuple):
        return [_packed(member, tensors) for member in value]
    return value.item() if isinstance(value, numpy.generic) else value


def _described(numpy: Any, array: Any, tensors: list[Any]) -> Any:
    about = {"shape": list(array.shape)}
    if array.dtype.kind in "OUS":
        listed = [item.item() if isinstance(item, numpy.generic) else item for item in array.reshape(-1).tolist()]
        return {**about, "dtype": _TEXTS, "texts": listed}
    if array.dtype.name not in _NUMBERS:
        raise StepError(f"the source answers with tensors of {array.dtype.name:.60}, which are no numbers")
    plain = numpy.ascontiguousarray(array)
    raw = plain.astype(plain.dtype.newbyteorder("<"), copy=False) if plain.dtype.kind in "iuf" else plain
    tensors.append(raw.reshape(-1).view("uint8"))
    return {**about, "dtype": array.dtype.name, "tensor": len(tensors) - 1}


def _unpacked(value: Any, positions: list[Any], depth: int) -> Any:
    if depth > 16:
        raise _malformed("it is nested too deeply")
    if isinstance(value, list):
        return [_unpacked(member, positions, depth + 1) for member in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"map"} and isinstance(value["map"], dict):
        return {name: _unpacked(member, positions, depth + 1) for name, member in value["map"].items()}
    numpy = importlib.import_module("numpy")
    shape, dtype = value.get("shape"), value.get("dtype")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise _malformed("a tensor has no shape")
    count = math.prod(shape)
    if dtype == _TEXTS:
        listed = value.get("texts")
        if not isinstance(listed, list) or len(listed) != count or not all(map(_is_text, listed)):
            raise _malformed("texts do not fill their shape")
        made = numpy.empty(count, dtype="object")
        made[:] = listed
        return made.reshape(shape)
    if not isinstance(dtype, str) or dtype not in _NUMBERS or len(positions) >= MAX_TENSORS:
        raise _malformed("a tensor is of no known type")
    kind = importlib.import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    if count * numpy.dtype(kind).itemsize > MAX_BYTES:
        raise _malformed("a tensor is too large")
    array = numpy.empty(shape, dtype=kind)
    positions.append((value, array))
    return array


def _is_text(item: object) -> bool:
    return item is None or isinstance(item, str | bool | int | float)


def _viewed(value: Any, positions: list[Any]) -> Any:
    """Return the value; flags that are neither 0 nor 1 in memory would be neither to numpy."""
    for _, array in positions:
        if array.dtype == bool and array.size and array.view("uint8").max() > 1:
            raise _malformed("a flag is neither true nor false")
    return value


def _fill(channel: socket.socket, room: memoryview) -> None:
    while room:
        try:
            count = channel.recv_into(room, min(len(room), 1 << 24))
        except OSError as error:
            raise ClosedError from error
        if not count:
            raise ClosedError
        room = room[count:]


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:  # room is made for what came, not for what was promised
        try:
            part = channel.recv(min(size - len(data), 1 << 20))
        except OSError as error:
            raise ClosedError from error
        if not part:
            raise ClosedError
        data += part
    return bytes(data)


def _malformed(why: str) -> StepError:
    return StepError(f"the worker of the source says what no source does: {why}")
