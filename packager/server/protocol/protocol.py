# SPDX-License-Identifier: Apache-2.0
"""Parse and write the HTTP messages of the Open Inference Protocol v2, without I/O.

`parse` turns a request body into feeds that satisfy the interface, or raises RequestError and no other exception,
whatever the bytes. `render` turns results into a response body.

A body is a JSON document, followed by the raw bytes of those inputs that have `binary_data_size`, in their order; a
header then gives the length of the document. `outputs` selects and orders results; without it, all are returned.
`binary_data` of an output, or else `binary_data_output` of the request, selects the form of a result; JSON is the
default. Unknown members are ignored, as the protocol allows, and `null` is no member; features that change
the meaning of a tensor and are not offered (shared memory, classification) are refused. Numbers of BF16 are taken for
FP32, which holds each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import orjson

from packager.server.admission import costs
from packager.server.errors import RequestError, quote, suggest_names
from packager.server.protocol import tensors
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, Charge

# The version in the server's metadata.
VERSION = "1"
EXTENSIONS = ["binary_tensor_data"]
Body: TypeAlias = bytes | bytearray
_REFUSED = ("shared_memory_region", "classification")
_AROUND = 20  # characters before and behind an error


class Wanted(NamedTuple):
    """One requested output and its form."""

    name: str
    binary: bool


class Request(NamedTuple):
    """A checked inference request. `rows` is the size of the first input's first dimension if that one varies.

    `key` is `batching.batch_key` of the feeds, if it is known already; `outside` has the dimensions whose sizes the
    build did not measure.
    """

    id: str | None
    feeds: Mapping[str, Array]
    wanted: tuple[Wanted, ...]
    rows: int
    key: Hashable = None
    outside: tuple[str, ...] = ()


class Reply(NamedTuple):
    """A response body; `header_length` is the length of its JSON document if binary data follows."""

    body: bytes
    header_length: int | None


@dataclass(slots=True)
class _Tail:
    """The binary data behind the document, handed out in order."""

    view: memoryview
    offset: int
    charge: Charge
    sizes: list[int] = field(default_factory=list)

    def take(self, size: int, subject: str) -> memoryview:
        end = self.offset + size
        if end > len(self.view):
            left = len(self.view) - self.offset
            raise RequestError(f"{subject}: expected {size} bytes of binary data, got {left}")
        part = self.view[self.offset : end]
        self.offset = end
        self.sizes.append(size)
        return part

    def finish(self) -> None:
        left = len(self.view) - self.offset
        if left:
            raise RequestError(f"expected no bytes behind the last input, got {left}")


def header_length(value: str | None, size: int) -> int | None:
    """Return the number in an `Inference-Header-Content-Length` header for a body of `size` bytes.

    Raises RequestError.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 18 and 0 < int(value) <= size):
        raise RequestError(f"`Inference-Header-Content-Length`: expected 1 to {size}, got {quote(value)}")
    return int(value)


def parse(body: Body, length: int | None, interface: Interface, charge: Charge = tensors.no_charge) -> Request:
    """Check a request body against the interface; `length` is that of its document, None for the whole body.

    The arrays are views of `body` where possible; `charge` gets the bytes of all other allocations beforehand.
    Raises RequestError.
    """
    return parse_with_sizes(body, length, interface, charge)[0]


def parse_with_sizes(
    body: Body, length: int | None, interface: Interface, charge: Charge = tensors.no_charge
) -> tuple[Request, list[int]]:
    """Parse as `parse` does; also return how many bytes behind the document each input has, in order.

    Inputs whose elements are in the document have none and are left out.
    """
    view = memoryview(body)
    raw = view if length is None else view[:length]
    weight = costs.estimate_json_memory(body if length is None else raw) if len(raw) > costs.SMALL else 0
    charge(weight)
    document = _document(raw)
    tail = _Tail(view, len(body) if length is None else length, charge)
    request = _request(document, interface, tail)
    arrays = request.feeds.values()
    if weight and not any(array.dtype.kind == "O" for array in arrays):  # the document ends here
        charge(sum(array.nbytes for array in arrays) - weight)
    return request, tail.sizes


def read_document(document: dict[str, Any], interface: Interface) -> Request:
    """Check a request that another server has parsed, every element in `data`; files may be bytes there, not base64.

    Raises RequestError.
    """
    return _request(document, interface, _Tail(memoryview(b""), 0, tensors.no_charge))


def _request(document: dict[str, Any], interface: Interface, tail: _Tail) -> Request:
    feeds, sizes = _feeds(document, interface, tail)
    tail.finish()
    interface.check_values(feeds)
    first = interface.inputs[0]
    return Request(
        id=_identifier(document),
        feeds=feeds,
        wanted=_wanted(document, interface),
        rows=feeds[first.name].shape[0] if first.shape and isinstance(first.shape[0], str) else 1,
        outside=interface.outside(sizes),
    )


def _document(raw: memoryview) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(
            f"the request is not JSON: {str(error)[:200]}{_context_of(error)}{_not_finite(raw)}"
        ) from None
    return _object(value, "the request")


def _context_of(error: orjson.JSONDecodeError) -> str:
    """Return the text around an error."""
    start = max(0, error.pos - _AROUND)
    found = error.doc[start : error.pos + _AROUND]
    return f", at {quote(found)}" if found.strip() else ""


def _not_finite(raw: memoryview) -> str:
    """Return how to send NaN and infinity, if the request seems to hold one."""
    if not re.search(rb"[:\[,\s-](NaN|Infinity)", raw):
        return ""
    return "; JSON has no NaN and no infinity: send `null` for a missing number, others with `binary_data_size`"


def _object(value: Any, subject: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{subject}: expected a JSON object")
    return value


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if not isinstance(value, list):
        raise RequestError(f"`{key}`: expected a list of objects")
    return [_object(item, f"`{key}[{index}]`") for index, item in enumerate(value)]


def _identifier(document: dict[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and not isinstance(value, str):
        raise RequestError("`id`: expected a string")
    return value


def _parameters(item: dict[str, Any], subject: str) -> dict[str, Any]:
    value = item.get("parameters")
    parameters = {} if value is None else _object(value, f"{subject}: `parameters`")
    for name in _REFUSED:
        if parameters.get(name):
            raise RequestError(f"{subject}: `{name}` is not offered by this server")
    return parameters


def _feeds(document: dict[str, Any], interface: Interface, tail: _Tail) -> tuple[dict[str, Array], dict[str, int]]:
    """Return the inputs, and the size of every dimension that they name."""
    promised = {tensor.name: tensor for tensor in interface.inputs}
    feeds: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for item in _objects(document, "inputs"):
        tensor = _named(item, promised, "input")
        if tensor.name in feeds:
            raise RequestError(f"input {quote(tensor.name)} appears twice")
        feeds[tensor.name] = _feed(item, tensor, interface, sizes, tail)
    for name in promised:
        if name not in feeds:
            raise RequestError(f"input {quote(name)} is missing")
    interface.check_ties(sizes)
    return feeds, sizes


def _named(item: dict[str, Any], promised: Mapping[str, Tensor], role: str) -> Tensor:
    name = item.get("name")
    if not isinstance(name, str):
        raise RequestError(f"every {role} needs a `name`, a string")
    if name not in promised:
        raise RequestError(f"unknown {role} {quote(name)}: {suggest_names(name, promised)}")
    return promised[name]


def _feed(item: dict[str, Any], tensor: Tensor, interface: Interface, sizes: dict[str, int], tail: _Tail) -> Array:
    subject = f"input {quote(tensor.name)}"
    short = tensors.is_bf16_of(item.get("datatype"), tensor.dtype)
    if item.get("datatype") != tensor.datatype and not short:
        raise RequestError(f"{subject}: expected datatype {tensor.datatype}, got {quote(item.get('datatype'))}")
    shape = _shape(item, subject)
    interface.check_shape(tensor, shape, sizes)
    size = _parameters(item, subject).get("binary_data_size")
    data = item.get("data")
    if (size is None) == (data is None):
        raise RequestError(f"{subject}: expected either `data` or `parameters.binary_data_size`")
    if size is None:
        if short:
            raise RequestError(f"{subject}: BF16 travels with `binary_data_size` only")
        gaps = tensor.name in interface.missing
        return tensors.from_json(data, tensor.dtype, shape, subject, missing=gaps).reshape(shape)
    if type(size) is not int or size < 0:
        raise RequestError(f"{subject}: expected a size in bytes as `binary_data_size`")
    raw = tail.take(size, subject)
    if short:
        return tensors.widen_bf16(raw, math.prod(shape), subject, tail.charge).reshape(shape)
    return tensors.from_binary(raw, tensor.dtype, math.prod(shape), subject, tail.charge).reshape(shape)


def _shape(item: dict[str, Any], subject: str) -> tuple[int, ...]:
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(f"{subject}: expected a list of sizes as `shape`")
    return tuple(shape)


def _wanted(document: dict[str, Any], interface: Interface) -> tuple[Wanted, ...]:
    default = _flag(_parameters(document, "the request"), "binary_data_output", False)
    promised = {tensor.name: tensor for tensor in interface.outputs}
    if not document.get("outputs"):
        return tuple(Wanted(name, default) for name in promised)
    wanted: dict[str, Wanted] = {}
    for item in _objects(document, "outputs"):
        name = _named(item, promised, "output").name
        if name in wanted:
            raise RequestError(f"output {quote(name)} appears twice")
        parameters = _parameters(item, f"output {quote(name)}")
        wanted[name] = Wanted(name, _flag(parameters, "binary_data", default))
    return tuple(wanted.values())


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"`{name}`: expected true or false")
    return value


def render(
    request: Request, results: Mapping[str, Array], model: str, version: str, charge: Charge = tensors.no_charge
) -> Reply:
    """Write the response to `request`. Raises RequestError if a result has no JSON form and JSON was requested."""
    outputs: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    for wanted in request.wanted:
        array = results[wanted.name]
        output: dict[str, Any] = {"name": wanted.name, "datatype": tensors.datatype_of(array), "shape": array.shape}
        if wanted.binary:
            part = tensors.to_binary(array)
            output["parameters"] = {"binary_data_size": part.nbytes}
            parts.append(part)
        else:
            output["data"] = tensors.to_json(array, f"output {quote(wanted.name)}", charge)
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(b"".join([memoryview(head), *parts]), len(head)) if parts else Reply(head, None)
