# SPDX-License-Identifier: Apache-2.0
"""Convert a tensor from bytes or a JSON list to a numpy array and back.

Laws: `from_binary(to_binary(a))` and `from_json(loads(dumps(to_json(a))))` hold the bits of `a`, for every dtype and
every value that the form can represent. Binary carries all of them. JSON carries every finite number, written with
digits that give the same bits to a reader that parses doubles and rounds them to the dtype, as readers do; this was
checked for all finite float16 and float32. JSON has no NaN and no infinity: a result that holds one is refused
with 406 rather than sent as `null`. An input number that its dtype cannot hold is refused rather than wrapped or
turned into an infinity.

Source of the formats: Open Inference Protocol v2 with the binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from packager.server.admission import costs
from packager.server.errors import RequestError
from packager.server.protocol.datatypes import DATATYPES

Array: TypeAlias = NDArray[Any]
Charge: TypeAlias = Callable[[int], None]

_TEXTS = ("string", "bytes")

_WIRE = {np.dtype(name): datatype for name, datatype in DATATYPES.items() if name not in _TEXTS}
# The one float32 (of 2**31 non-negative ones) whose shortest digits, 7.038531e-26, a reader that rounds to double and
# then to float turns into its neighbour.
_ROUNDED_TWICE = np.uint32(0x15AE43FD).view(np.float32)
_LENGTH = struct.Struct("<I")
TEXT = 72  # bytes that CPython adds to a text, its pointer in an array included
_DIGITS = 26  # bytes of the longest number in JSON
_SLICE = 2**14  # values that are converted before another thread may run
_ACCEPTED: dict[str, tuple[str, set[type]]] = {
    "b": ("true or false", {bool}),
    "i": ("integers", {int}),
    "u": ("integers", {int}),
    "f": ("numbers", {int, float}),
    "O": ("strings", {str}),
}
_JSON_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
    bytes: "bytes",
}
_MISSING = {  # kind of a dtype -> what to do where a client sends null
    "f": ": the model takes no missing numbers here; a NaN all the same travels with `binary_data_size`",
    "O": ": a missing text is an empty one",
    "b": "",
    "i": ": whole numbers cannot be missing",
    "u": ": whole numbers cannot be missing",
}


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of an interface's dtype name; strings are Python objects, as runtimes take them."""
    return np.dtype(object if name in _TEXTS else name)


def datatype_of(array: Array) -> str:
    """Return the protocol's name for the dtype of a result."""
    return _WIRE.get(array.dtype, "BYTES")


def no_charge(size: int) -> None:
    """Charge nothing."""


def from_binary(raw: memoryview, dtype: str, count: int, subject: str, charge: Charge = no_charge) -> Array:
    """Return the `count` elements in `raw` as a flat array, a view where that is safe.

    `charge` gets the bytes that this allocates before it does, above `costs.SMALL`. Raises RequestError.
    """
    if dtype in _TEXTS:
        return _strings(raw, count, subject, charge, _utf8 if dtype == "string" else _plain)
    size = count * dtype_of(dtype).itemsize
    if len(raw) != size:
        raise RequestError(f"{subject}: expected a `binary_data_size` of {size} for its shape, got {len(raw)}")
    if dtype == "bool" and raw.nbytes and np.frombuffer(raw, np.uint8).max() > 1:
        raise RequestError(f"{subject}: expected bytes of 0 or 1, got another value")
    array: Array = np.frombuffer(raw, dtype_of(dtype)) if count else np.empty(0, dtype_of(dtype))
    return aligned(array, charge)


def is_bf16_of(datatype: object, dtype: str) -> bool:
    """Return whether `datatype` is BF16 and `dtype` float32, which holds each such number without loss."""
    return datatype == "BF16" and dtype == "float32"


def widen_bf16(raw: memoryview, count: int, subject: str, charge: Charge = no_charge) -> Array:
    """Return `count` numbers of BF16 as float32, which holds each of them. Raises RequestError."""
    if len(raw) != 2 * count:
        raise RequestError(f"{subject}: expected a `binary_data_size` of {2 * count} for its shape, got {len(raw)}")
    if len(raw) > costs.SMALL:
        charge(4 * count)
    found: Array = np.frombuffer(raw, "<u2").astype(np.uint32)
    found <<= np.uint32(16)
    return found.view(np.float32)


def aligned(array: Array, charge: Charge = no_charge) -> Array:
    """Return `array`, or a copy where it does not start at a multiple of its element's size.

    The client chooses where in the body a tensor starts. Runtimes take the pointer as it is, and vectorised kernels may
    fault on one that is not aligned to its element: a copy (about 40 µs for 600 KB) is the price.
    """
    if array.flags.aligned:
        return array
    if array.nbytes > costs.SMALL:
        charge(array.nbytes)
    return array.copy()


def _strings(
    raw: memoryview, count: int, subject: str, charge: Charge, read: Callable[[memoryview, int, str], str | bytes]
) -> Array:
    costs.check_values(count)
    if len(raw) > costs.SMALL:
        charge(len(raw) + TEXT * min(count, len(raw) // _LENGTH.size))
    values: list[str | bytes] = []
    offset = 0
    while offset < len(raw):
        if len(values) == count:
            raise RequestError(f"{subject}: expected {count} elements for its shape, got more")
        start = offset + _LENGTH.size
        if start > len(raw) or start + _LENGTH.unpack_from(raw, offset)[0] > len(raw):
            raise RequestError(f"{subject}: element {len(values)} is longer than the data")
        offset = start + _LENGTH.unpack_from(raw, offset)[0]
        values.append(read(raw[start:offset], len(values), subject))
    if len(values) != count:
        raise RequestError(f"{subject}: expected {count} elements for its shape, got {len(values)}")
    return _objects(values)


def _plain(raw: memoryview, index: int, subject: str) -> bytes:
    return bytes(raw)


def _utf8(raw: memoryview, index: int, subject: str) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{subject}: element {index} is not UTF-8") from None


def _objects(values: Sequence[str | bytes]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def from_pieces(pieces: Sequence[memoryview], count: int, subject: str) -> Array:
    """Return elements that are bytes as a flat array. Raises RequestError for another number of them."""
    if len(pieces) != count:
        raise RequestError(f"{subject}: expected {count} elements for its shape, got {len(pieces)}")
    return _objects([bytes(piece) for piece in pieces])


def from_json(data: Any, dtype: str, shape: tuple[int, ...], subject: str, *, missing: bool = False) -> Array:
    """Return the elements of a flat or nested JSON list as a flat array; `null` is NaN where a number may be `missing`.

    Raises RequestError.
    """
    flat = _flatten(data, shape, subject)
    kind = dtype_of(dtype)
    expected, types = _ACCEPTED[kind.kind]
    types = types | {type(None)} if missing and kind.kind == "f" else types
    types = types | {bytes} if dtype == "bytes" else types  # not from JSON: another server has read them
    for start in range(0, len(flat), _SLICE):
        part = flat if len(flat) <= _SLICE else flat[start : start + _SLICE]
        if set(map(type, part)) - types:
            at = next(at for at, item in enumerate(part) if type(item) not in types)
            wrong = type(part[at])
            advice = _MISSING[kind.kind] if wrong is type(None) else ""
            position = _position_text(start + at, shape)
            raise RequestError(f"{subject}: expected {expected} in `data`, got {_JSON_NAMES[wrong]} {position}{advice}")
    if kind.kind == "O":
        return _objects(flat)
    if len(flat) <= _SLICE:
        return _numbers(flat, kind, subject, 0, shape)
    parts = (_numbers(flat[at : at + _SLICE], kind, subject, at, shape) for at in range(0, len(flat), _SLICE))
    return np.concatenate(list(parts))


def _position_text(index: int, shape: tuple[int, ...]) -> str:
    """Return the position of the element with this index."""
    return f"at element {list(map(int, np.unravel_index(index, shape)))}" if shape else "there"


def _numbers(flat: list[Any], kind: np.dtype[Any], subject: str, start: int, shape: tuple[int, ...]) -> Array:
    """Return a part of the elements; `start` is the index of its first."""
    if kind.kind == "f":
        return _floats(flat, kind, subject, start, shape)
    if flat and kind.kind in "iu":
        _check_integers(flat, kind, subject, start, shape)
    return np.array(flat, dtype=kind)


def _flatten(data: Any, shape: tuple[int, ...], subject: str) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(f"{subject}: expected a list as `data`")
    if data and isinstance(data[0], list):
        return _unnest(data, shape, subject)
    count = math.prod(shape)
    if len(data) != count:
        raise RequestError(f"{subject}: expected {count} elements in `data` for its shape, got {len(data)}")
    return data


def _unnest(data: list[Any], shape: tuple[int, ...], subject: str) -> list[Any]:
    if not shape or len(data) != shape[0]:
        raise RequestError(f"{subject}: the nesting of `data` does not follow its shape")
    for size in shape[1:]:
        if not all(isinstance(item, list) and len(item) == size for item in data):
            raise RequestError(f"{subject}: the nesting of `data` does not follow its shape")
        data = list(chain.from_iterable(data))
    return data


def _check_integers(flat: list[int], kind: np.dtype[Any], subject: str, start: int, shape: tuple[int, ...]) -> None:
    limits = np.iinfo(kind)
    for value in (min(flat), max(flat)):
        if not limits.min <= value <= limits.max:
            position = _position_text(start + flat.index(value), shape)
            raise RequestError(f"{subject}: {value} {position} is out of range for {DATATYPES[kind.name]}")


def _floats(flat: list[float | None], kind: np.dtype[Any], subject: str, start: int, shape: tuple[int, ...]) -> Array:
    with np.errstate(over="ignore"):
        array = np.array(flat, dtype=np.float64).astype(kind)
    if not np.isfinite(array).all() and np.isinf(array).any():
        position = _position_text(start + int(np.isinf(array).argmax()), shape)
        raise RequestError(
            f"{subject}: the number {position} of `data` is out of range for {DATATYPES[kind.name]}; an infinity "
            "travels with `binary_data_size` only"
        )
    return array


def to_binary(array: Array) -> memoryview:
    """Return the elements of `array` in row-major order, without copying where they already lie so."""
    if array.dtype.kind not in "OUS":
        return array.data if array.flags.c_contiguous else np.ascontiguousarray(array).data
    values = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
    return memoryview(b"".join(chain.from_iterable((_LENGTH.pack(len(value)), value) for value in values)))


def to_json(array: Array, subject: str, charge: Charge = no_charge) -> Array | list[str] | orjson.Fragment:
    """Return the elements of `array` as something orjson writes as a flat list.

    `charge` gets the bytes that a long list allocates. Raises RequestError with status 406 if a value has no JSON form.
    """
    if array.size <= _SLICE:
        return _listed(array, subject)
    charge(array.size * _DIGITS)
    parts = (_listed(array.reshape(-1)[start : start + _SLICE], subject) for start in range(0, array.size, _SLICE))
    text = b",".join([orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for part in parts])
    return orjson.Fragment(b"[%b]" % text)


def _listed(array: Array, subject: str) -> Array | list[str]:
    if array.dtype.kind in "OUS":
        return [item if isinstance(item, str) else _utf8_result(item, subject) for item in array.reshape(-1)]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(
            f"{subject} holds NaN or infinity, which JSON cannot represent: request it with `binary_data`", status=406
        )
    if array.dtype == np.float32 and (np.abs(array) == _ROUNDED_TWICE).any():
        array = array.astype(np.float64)
    return np.ascontiguousarray(array).reshape(-1)


def _utf8_result(value: bytes, subject: str) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise RequestError(
            f"{subject} is not UTF-8, which JSON cannot represent: request it with `binary_data`", status=406
        ) from None
