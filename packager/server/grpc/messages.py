# SPDX-License-Identifier: Apache-2.0
"""Decode and encode the protobuf messages of the Open Inference Protocol v2, without I/O.

There is no generated code: stubs would pin `protobuf` in every installation, and two packages that define `package
inference` cannot be loaded into one process. Messages of clients are parsed strictly: every length is checked against
the bytes that are left, groups and unknown wire types are refused, no field is read that is not used.

Sources: protobuf.dev, "Encoding"; `grpc_predict_v2.proto` of the protocol for the field numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packager.server.admission import costs
from packager.server.errors import RequestError, quote, suggest_names
from packager.server.protocol import tensors
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.protocol import Request, Wanted
from packager.server.protocol.tensors import Array, Charge

_MAX_FIELDS = 1 << 16  # of one message that holds texts, each of which is a field
_MAX_RANK = 64  # numpy's
_SPARE_FIELDS = 256  # parameters, and fields of later versions of the protocol
_VARINT = 10  # bytes at most
_SLICE = 1 << 16  # bytes that are unpacked at once
_REFUSED = ("shared_memory_region", "classification")
_TYPED = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}
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

    def sizes(self, field: int, most: int) -> list[int]:
        """Return a few integers of a repeated field, packed or not. Raises RequestError, also for more than `most`."""
        found: list[int] = []
        for number, value in self.fields:
            if number != field:
                continue
            if isinstance(value, int):
                found.append(value)
                continue
            at = 0
            while at < len(value) and len(found) <= most:
                size, at = _varint(value, at)
                found.append(size)
        if len(found) > most:
            raise _too_many()
        return found

    def integers(self, field: int, most: int) -> NDArray[np.uint64]:
        """Return a repeated integer field, packed or not, of `most` elements. Raises RequestError, also for more."""
        parts: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        for number, value in self.fields:
            if number != field:
                continue
            part = np.array([value], np.uint64) if isinstance(value, int) else unpack(value, most)
            most -= len(part)
            if most < 0:
                raise _too_many()
            parts.append(part)
        return np.concatenate(parts)


def _malformed() -> RequestError:
    return RequestError("the request is not a message of the protocol")


def _too_many() -> RequestError:
    return RequestError("expected no more numbers than the shape and the contract allow, got more")


def read(data: bytes | memoryview, most: int = _MAX_FIELDS) -> Message:
    """Split a message into its fields, of which it may have `most`. Raises RequestError."""
    found: list[tuple[int, int | memoryview]] = []
    view, at = memoryview(data), 0
    while at < len(view):
        if len(found) == most:
            raise RequestError(f"expected at most {most} fields in a message")
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


def unpack(view: memoryview, most: int) -> NDArray[np.uint64]:
    """Return packed varints, at most `most` of them. Raises RequestError, before it reads one that is too long."""
    if len(view) > _VARINT * most:
        raise _too_many()
    found, filled, at = np.empty(min(most, len(view)), np.uint64), 0, 0
    while at < len(view):
        raw = np.frombuffer(view[at : at + _SLICE], np.uint8)
        ends = np.flatnonzero(raw < 0x80)
        if not len(ends) or filled + len(ends) > most:
            raise _too_many() if len(ends) else _malformed()
        found[filled : filled + len(ends)] = _values(raw, ends)
        filled += len(ends)
        at += int(ends[-1]) + 1
    return found[:filled]


def _values(raw: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return the varints whose last bytes are at `ends`, 7 bits of each byte, the lowest first."""
    starts = np.concatenate((ends[:1] * 0, ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _VARINT:
        raise _malformed()
    values = np.zeros(len(ends), np.uint64)
    for position in range(longest):
        there = lengths > position
        bits = (raw[starts[there] + position] & 0x7F).astype(np.uint64)
        values[there] |= bits << np.uint64(7 * position)
    return values


def encode_varint(value: int) -> bytes:
    """Encode an integer as a varint, negative ones as 64-bit two's complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(field: int, value: bytes | str | memoryview) -> bytes:
    """Encode a text, bytes or message field."""
    raw = value.encode() if isinstance(value, str) else value
    size = raw.nbytes if isinstance(raw, memoryview) else len(raw)
    return b"".join((encode_varint(field << 3 | 2), encode_varint(size), raw))


def encode_bool(field: int, value: bool) -> bytes:
    """Encode a boolean field; false is the default and takes no bytes."""
    return encode_varint(field << 3) + b"\1" if value else b""


def _sizes(field: int, shape: Iterable[int]) -> bytes:
    return encode_field(field, b"".join(map(encode_varint, shape)))


def encode_metadata(tensor: Tensor) -> bytes:
    """Encode the metadata of a tensor."""
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return encode_field(1, tensor.name) + encode_field(2, tensor.datatype) + _sizes(3, shape)


@dataclass(frozen=True, slots=True)
class Inference:
    """An inference request whose model is known, but that is not yet checked against the interface."""

    model: str
    version: str
    message: Message

    @staticmethod
    def of(data: bytes, interface: Interface) -> Inference:
        """Parse a message with no more tensors than the interface has. Raises RequestError."""
        message = read(data, 2 * len(interface.inputs) + len(interface.outputs) + _SPARE_FIELDS)
        return Inference(message.text(1), message.text(2), message)

    def names_any(self, names: Collection[str]) -> bool:
        """Return whether an input has one of these names. Raises RequestError."""
        return any(read(item, _MAX_RANK + _SPARE_FIELDS).text(1) in names for item in self.message.blocks(5))

    def request(self, interface: Interface, charge: Charge = tensors.no_charge) -> Request:
        """Check the request against the interface, as HTTP does; `charge` as in `protocol.parse`.

        Raises RequestError.
        """
        message = self.message
        _check_parameters(message, 4, "the request")
        feeds, sizes = _feeds(message, interface, charge)
        interface.check_values(feeds)
        first = interface.inputs[0]
        rows = feeds[first.name].shape[0] if first.shape and isinstance(first.shape[0], str) else 1
        return Request(
            id=message.text(3) or None,
            feeds=feeds,
            wanted=_wanted(message, interface),
            rows=rows,
            outside=interface.outside(sizes),
        )


def _check_parameters(message: Message, field: int, subject: str) -> None:
    """Refuse parameters that change the meaning of a tensor and are not offered; others are ignored."""
    for entry in message.blocks(field):
        name = read(entry, _SPARE_FIELDS).text(1)
        if name in _REFUSED:
            raise RequestError(f"{subject}: `{name}` is not offered by this server")


def _feeds(message: Message, interface: Interface, charge: Charge) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the inputs, and the size of every dimension that they name."""
    promised = {tensor.name: tensor for tensor in interface.inputs}
    raws = message.blocks(7)
    ranks = max(len(tensor.shape) for tensor in interface.inputs)
    items = [read(item, ranks + _SPARE_FIELDS) for item in message.blocks(5)]
    if raws and len(raws) != len(items):
        raise RequestError(f"expected {len(items)} `raw_input_contents`, one per input, got {len(raws)}")
    feeds: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for index, item in enumerate(items):
        tensor = _named(item.text(1), promised, "input")
        if tensor.name in feeds:
            raise RequestError(f"input {quote(tensor.name)} appears twice")
        feeds[tensor.name] = _feed(item, tensor, interface, sizes, raws[index] if raws else None, charge)
    for name in promised:
        if name not in feeds:
            raise RequestError(f"input {quote(name)} is missing")
    interface.check_ties(sizes)
    return feeds, sizes


def _named(name: str, promised: Mapping[str, Tensor], role: str) -> Tensor:
    if name not in promised:
        raise RequestError(f"unknown {role} {quote(name)}: {suggest_names(name, promised)}")
    return promised[name]


def _feed(
    item: Message, tensor: Tensor, interface: Interface, sizes: dict[str, int], raw: memoryview | None, charge: Charge
) -> Array:
    subject = f"input {quote(tensor.name)}"
    short = tensors.is_bf16_of(item.text(2), tensor.dtype)
    if item.text(2) != tensor.datatype and not short:
        raise RequestError(f"{subject}: expected datatype {tensor.datatype}, got {quote(item.text(2))}")
    shape = tuple(item.sizes(3, len(tensor.shape) + 1))
    if any(size >= 2**63 for size in shape):
        raise RequestError(f"{subject}: expected a list of sizes as `shape`")
    interface.check_shape(tensor, shape, sizes)
    _check_parameters(item, 4, subject)
    typed = item.blocks(5)
    if (raw is None) == (not typed):
        raise RequestError(f"{subject}: expected its data in either `contents` or `raw_input_contents`")
    if short and raw is None:
        raise RequestError(f"{subject}: BF16 travels in `raw_input_contents` only")
    if short and raw is not None:
        return tensors.widen_bf16(raw, math.prod(shape), subject, charge).reshape(shape)
    if raw is not None:
        return tensors.from_binary(raw, tensor.dtype, math.prod(shape), subject, charge).reshape(shape)
    return _contents(typed[-1], tensor, shape, subject, charge).reshape(shape)


def _contents(raw: memoryview, tensor: Tensor, shape: tuple[int, ...], subject: str, charge: Charge) -> Array:
    """Return the elements of InferTensorContents, checked as JSON elements are."""
    field, count = _TYPED.get(tensor.datatype), math.prod(shape)
    if field is None:
        raise RequestError(f"{subject}: {tensor.datatype} travels in `raw_input_contents` only")
    contents = read(raw, min(count + _SPARE_FIELDS, _MAX_FIELDS))
    if tensor.datatype in _FLOATS:
        blocks = contents.blocks(field)
        if len(blocks) > 1 and len(raw) > costs.SMALL:
            charge(len(raw))
        joined = blocks[0] if len(blocks) == 1 else memoryview(b"".join(blocks))
        return tensors.from_binary(joined, tensor.dtype, count, subject, charge)
    costs.check_values(count)
    if tensor.datatype == "BYTES":
        texts = contents.blocks(field)
        if len(raw) > costs.SMALL:
            charge(len(raw) + tensors.TEXT * len(texts))
        if tensor.dtype == "bytes":
            return tensors.from_pieces(texts, count, subject)
        return tensors.from_json([_text(item, subject) for item in texts], tensor.dtype, shape, subject)
    if len(raw) > costs.SMALL:
        charge(3 * np.dtype(np.uint64).itemsize * min(count, len(raw)))
    return _numbers(contents.integers(field, count), tensor, count, subject)


def _numbers(values: NDArray[np.uint64], tensor: Tensor, count: int, subject: str) -> Array:
    """Return integers as elements of a tensor. Raises RequestError for another number of them, or one too large."""
    if len(values) != count:
        raise RequestError(f"{subject}: expected {count} elements in `contents` for its shape, got {len(values)}")
    kind = tensors.dtype_of(tensor.dtype)
    if kind.kind == "b":
        return values != 0
    found = values.view(np.int64) if kind.kind == "i" else values
    for value in (found.min(), found.max()) if count else ():
        if not np.iinfo(kind).min <= value <= np.iinfo(kind).max:
            raise RequestError(f"{subject}: {value} is out of range for {tensor.datatype}")
    return found.astype(kind)


def _text(raw: memoryview, subject: str) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{subject}: a text is not UTF-8") from None


def _wanted(message: Message, interface: Interface) -> tuple[Wanted, ...]:
    promised = {tensor.name: tensor for tensor in interface.outputs}
    wanted: dict[str, Wanted] = {}
    for block_ in message.blocks(6):
        item = read(block_, _SPARE_FIELDS)
        name = _named(item.text(1), promised, "output").name
        if name in wanted:
            raise RequestError(f"output {quote(name)} appears twice")
        _check_parameters(item, 2, f"output {quote(name)}")
        wanted[name] = Wanted(name, True)
    return tuple(wanted.values()) or tuple(Wanted(name, True) for name in promised)


def render(request: Request, results: Mapping[str, Array], model: str, version: str) -> bytes:
    """Write the response to `request`: every wanted output as raw bytes."""
    parts: list[bytes | memoryview] = [encode_field(1, model), encode_field(2, version)]
    if request.id is not None:
        parts.append(encode_field(3, request.id))
    raws: list[bytes | memoryview] = []
    for wanted in request.wanted:
        array = np.asarray(results[wanted.name])
        output = encode_field(1, wanted.name) + encode_field(2, tensors.datatype_of(array)) + _sizes(3, array.shape)
        parts.append(encode_field(5, output))
        raw = tensors.to_binary(array)
        raws += [encode_varint(6 << 3 | 2), encode_varint(raw.nbytes), raw]
    return b"".join([*parts, *raws])
