# SPDX-License-Identifier: Apache-2.0
"""The messages of the Open Inference Protocol v2 as gRPC carries them: bytes to requests, results to bytes, no I/O.

Read and written without generated code: stubs would pin `protobuf` in every installation, and two packages that
define `package inference` cannot be loaded into one process. What a client sent is read strictly: every length is
checked against what is left, groups and unknown wire types are refused, no field is read that is not used.

Sources: protobuf.dev, "Encoding"; `grpc_predict_v2.proto` of the protocol for the field numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from packager.server import tensors
from packager.server.errors import RequestError, known, quote
from packager.server.interface import Interface, Tensor
from packager.server.protocol import Request, Wanted
from packager.server.tensors import Array

_MAX_FIELDS = 1 << 16  # of one message: a request has a handful per tensor
_REFUSED = ("shared_memory_region", "classification")
_TYPED = {
    "BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5,
    "FP32": 6, "FP64": 7, "BYTES": 8,
}  # fmt: skip
_FLOATS = {"FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message in their order; a value is an integer, or a view of bytes."""

    fields: tuple[tuple[int, int | memoryview], ...]

    def blocks(self, field: int) -> list[memoryview]:
        """Return every occurrence of a field that has a length. Raises RequestError for another wire type."""
        found = [value for number, value in self.fields if number == field]
        if any(isinstance(value, int) for value in found):
            raise _malformed()
        return [value for value in found if not isinstance(value, int)]

    def text(self, field: int) -> str:
        """Return a text field, the last one if repeated, empty if absent. Raises RequestError."""
        found = self.blocks(field)
        try:
            return str(found[-1], "utf-8") if found else ""
        except UnicodeDecodeError:
            raise _malformed() from None

    def integers(self, field: int, *, signed: bool) -> list[int]:
        """Return a repeated integer field, packed or not. Raises RequestError."""
        found: list[int] = []
        for number, value in self.fields:
            if number != field:
                continue
            found += [value] if isinstance(value, int) else _varints(value)
        return [item - 2**64 if signed and item >= 2**63 else item for item in found]


def _malformed() -> RequestError:
    return RequestError("the request is not a message of the protocol")


def read(data: bytes | memoryview) -> Message:
    """Split a message into its fields. Raises RequestError."""
    found: list[tuple[int, int | memoryview]] = []
    view, at = memoryview(data), 0
    while at < len(view):
        if len(found) == _MAX_FIELDS:
            raise RequestError(f"expected at most {_MAX_FIELDS} fields in a message")
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            found.append((key >> 3, value))
            continue
        length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(view, at)
        if kind not in (1, 2, 5) or length > len(view) - at:
            raise _malformed()
        found.append((key >> 3, view[at : at + length]))
        at += length
    return Message(tuple(found))


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise _malformed()


def _varints(view: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(view):
        value, at = _varint(view, at)
        found.append(value)
    return found


def number(value: int) -> bytes:
    """Encode an integer as a varint, negative ones as 64-bit two's complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(field: int, value: bytes | str | memoryview) -> bytes:
    """Encode a text, bytes or message field."""
    raw = value.encode() if isinstance(value, str) else value
    size = raw.nbytes if isinstance(raw, memoryview) else len(raw)
    return b"".join((number(field << 3 | 2), number(size), raw))


def flag(field: int, value: bool) -> bytes:
    """Encode a boolean field; false is the default and takes no bytes."""
    return number(field << 3) + b"\1" if value else b""


def _sizes(field: int, shape: Iterable[int]) -> bytes:
    return block(field, b"".join(map(number, shape)))


def describe(tensor: Tensor) -> bytes:
    """Encode the metadata of a tensor."""
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return block(1, tensor.name) + block(2, tensor.datatype) + _sizes(3, shape)


@dataclass(frozen=True, slots=True)
class Inference:
    """An inference request that is addressed but not yet held against the interface."""

    model: str
    version: str
    message: Message

    @staticmethod
    def of(data: bytes) -> Inference:
        """Read who is addressed. Raises RequestError."""
        message = read(data)
        return Inference(message.text(1), message.text(2), message)

    def request(self, interface: Interface) -> Request:
        """Hold the request against the interface, as the HTTP side does. Raises RequestError."""
        message = self.message
        _check_parameters(message, 4, "the request")
        feeds = _feeds(message, interface)
        first = interface.inputs[0]
        rows = feeds[first.name].shape[0] if first.shape and isinstance(first.shape[0], str) else 1
        return Request(id=message.text(3) or None, feeds=feeds, wanted=_wanted(message, interface), rows=rows)


def _check_parameters(message: Message, field: int, subject: str) -> None:
    """Refuse parameters that change the meaning of a tensor and are not offered; others are ignored."""
    for entry in message.blocks(field):
        name = read(entry).text(1)
        if name in _REFUSED:
            raise RequestError(f"{subject}: `{name}` is not offered by this server")


def _feeds(message: Message, interface: Interface) -> dict[str, Array]:
    promised = {tensor.name: tensor for tensor in interface.inputs}
    raws = message.blocks(7)
    items = [read(item) for item in message.blocks(5)]
    if raws and len(raws) != len(items):
        raise RequestError(f"expected {len(items)} `raw_input_contents`, one per input, got {len(raws)}")
    feeds: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for index, item in enumerate(items):
        tensor = _named(item.text(1), promised, "input")
        if tensor.name in feeds:
            raise RequestError(f"input {quote(tensor.name)} appears twice")
        feeds[tensor.name] = _feed(item, tensor, interface, sizes, raws[index] if raws else None)
    for name in promised:
        if name not in feeds:
            raise RequestError(f"input {quote(name)} is missing")
    return feeds


def _named(name: str, promised: Mapping[str, Tensor], role: str) -> Tensor:
    if name not in promised:
        raise RequestError(f"unknown {role} {quote(name)}: {known(name, promised)}")
    return promised[name]


def _feed(
    item: Message, tensor: Tensor, interface: Interface, sizes: dict[str, int], raw: memoryview | None
) -> Array:  # fmt: skip
    subject = f"input {quote(tensor.name)}"
    if item.text(2) != tensor.datatype:
        raise RequestError(f"{subject}: expected datatype {tensor.datatype}, got {quote(item.text(2))}")
    shape = tuple(item.integers(3, signed=True))
    if any(size < 0 for size in shape):
        raise RequestError(f"{subject}: expected a list of sizes as `shape`")
    interface.check_shape(tensor, shape, sizes)
    _check_parameters(item, 4, subject)
    typed = item.blocks(5)
    if (raw is None) == (not typed):
        raise RequestError(f"{subject}: expected its data in either `contents` or `raw_input_contents`")
    if raw is not None:
        return tensors.from_binary(raw, tensor.dtype, math.prod(shape), subject).reshape(shape)
    return _contents(read(typed[-1]), tensor, shape, subject).reshape(shape)


def _contents(contents: Message, tensor: Tensor, shape: tuple[int, ...], subject: str) -> Array:
    """Return the elements of InferTensorContents, checked as JSON elements are."""
    field = _TYPED.get(tensor.datatype)
    if field is None:
        raise RequestError(f"{subject}: {tensor.datatype} travels in `raw_input_contents` only")
    if tensor.datatype in _FLOATS:
        raw = b"".join(contents.blocks(field))
        return tensors.from_binary(memoryview(raw), tensor.dtype, math.prod(shape), subject)
    values: list[Any]
    if tensor.datatype == "BYTES":
        values = [_text(item, subject) for item in contents.blocks(field)]
    else:
        values = contents.integers(field, signed=tensor.datatype.startswith("INT"))
        values = list(map(bool, values)) if tensor.datatype == "BOOL" else values
    return tensors.from_json(values, tensor.dtype, shape, subject)


def _text(raw: memoryview, subject: str) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{subject}: a text is not UTF-8") from None


def _wanted(message: Message, interface: Interface) -> tuple[Wanted, ...]:
    promised = {tensor.name: tensor for tensor in interface.outputs}
    wanted: dict[str, Wanted] = {}
    for block_ in message.blocks(6):
        item = read(block_)
        name = _named(item.text(1), promised, "output").name
        if name in wanted:
            raise RequestError(f"output {quote(name)} appears twice")
        _check_parameters(item, 2, f"output {quote(name)}")
        wanted[name] = Wanted(name, True)
    return tuple(wanted.values()) or tuple(Wanted(name, True) for name in promised)


def render(request: Request, results: Mapping[str, Array], model: str, version: str) -> bytes:
    """Write the response to `request`: every wanted output as raw bytes."""
    parts = [block(1, model), block(2, version)]
    if request.id is not None:
        parts.append(block(3, request.id))
    raws = []
    for wanted in request.wanted:
        array = np.asarray(results[wanted.name])
        output = block(1, wanted.name) + block(2, tensors.datatype_of(array)) + _sizes(3, array.shape)
        parts.append(block(5, output))
        raws.append(block(6, tensors.to_binary(array)))
    return b"".join([*parts, *raws])
