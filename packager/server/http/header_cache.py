# SPDX-License-Identifier: Apache-2.0
"""Cache of parsed request headers. Repeated requests have the same JSON header and differ only in tensor bytes.

Equal bytes have an equal meaning, so the checked result is kept: names, types, shapes, offsets, requested outputs.
Law: with the cache a request gives the feeds, or the refusal, that it gives without.

Only headers that were accepted, hold no elements of tensors and no `id` (which tends to differ each time), and are
short are kept; a bounded number of them, the oldest goes first. What depends on the bytes behind the header, their
number and values, is checked each time.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from packager.server.errors import quote
from packager.server.execution import batching
from packager.server.protocol import protocol, tensors
from packager.server.protocol.interface import Interface
from packager.server.protocol.protocol import Body, Reply, Request, Wanted
from packager.server.protocol.tensors import Array, Charge

MAX_HEADER_BYTES = 4096
MAX_ENTRIES = 256
_CHECKED = ("string", "bool")  # dtypes with invalid byte values


@dataclass(frozen=True, slots=True)
class InputSlice:
    """The position of one input, counted from the end of the header, and its name, type and shape."""

    name: str
    dtype: str
    kind: np.dtype
    shape: tuple[int, ...]
    start: int
    size: int
    count: int

    def array(self, body: Body, length: int, charge: Charge) -> Array:
        """Return the input in `body`, whose header has `length` bytes. Raises RequestError."""
        at = length + self.start
        if self.dtype in _CHECKED:
            raw = memoryview(body)[at : at + self.size]
            subject = f"input {quote(self.name)}"
            return tensors.from_binary(raw, self.dtype, self.count, subject, charge).reshape(self.shape)
        return tensors.aligned(np.ndarray(self.shape, self.kind, body, at), charge)


@dataclass(frozen=True, slots=True)
class Layout:
    """A parsed header: the inputs, the bytes they take together, and the requested outputs."""

    parts: tuple[InputSlice, ...]
    size: int
    wanted: tuple[Wanted, ...]
    rows: int
    key: Hashable
    outside: tuple[str, ...]

    @staticmethod
    def of(request: Request, sizes: list[int], interface: Interface) -> Layout:
        """Return the layout of a request whose inputs have `sizes` bytes."""
        dtypes = {tensor.name: tensor.dtype for tensor in interface.inputs}
        parts, start = [], 0
        for (name, array), size in zip(request.feeds.items(), sizes, strict=True):
            parts.append(InputSlice(name, dtypes[name], array.dtype, array.shape, start, size, array.size))
            start += size
        return Layout(
            tuple(parts), start, request.wanted, request.rows, batching.batch_key(request.feeds), request.outside
        )

    def request(self, body: Body, length: int, interface: Interface, charge: Charge) -> Request:
        """Return the request in `body`, whose header has `length` bytes. Raises RequestError."""
        feeds = {part.name: part.array(body, length, charge) for part in self.parts}
        interface.check_values(feeds)
        return Request(None, feeds, self.wanted, self.rows, self.key, self.outside)


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """The last values put, at most `MAX_ENTRIES`; may be used from several threads."""

    def __init__(self) -> None:
        self.entries: dict[K, V] = {}
        self._lock = threading.Lock()

    def put(self, key: K, value: V) -> None:
        """Add a value; the oldest goes."""
        with self._lock:
            if key not in self.entries and len(self.entries) >= MAX_ENTRIES:
                del self.entries[next(iter(self.entries))]
            self.entries[key] = value


class HeaderCache:
    """The headers of one model's requests and responses; may be used from several threads."""

    def __init__(self, interface: Interface, model: str, version: str) -> None:
        self._interface, self._model, self._version = interface, model, version
        self._requests: BoundedCache[bytes, Layout] = BoundedCache()
        self._responses: BoundedCache[Hashable, bytes] = BoundedCache()

    @property
    def request_count(self) -> int:
        """Return how many request headers are cached."""
        return len(self._requests.entries)

    @property
    def response_count(self) -> int:
        """Return how many response headers are cached."""
        return len(self._responses.entries)

    def parse(self, body: Body, length: int | None, charge: Charge = tensors.no_charge) -> Request:
        """Do what `protocol.parse` does. Raises RequestError."""
        if length is None or length > MAX_HEADER_BYTES:
            return protocol.parse(body, length, self._interface, charge)
        document = bytes(body[:length])
        layout = self._requests.entries.get(document)
        if layout is not None and length + layout.size == len(body):
            return layout.request(body, length, self._interface, charge)
        request, sizes = protocol.parse_with_sizes(body, length, self._interface, charge)
        if request.id is None and len(sizes) == len(request.feeds) and not _is_widened(request, sizes):
            self._requests.put(document, Layout.of(request, sizes, self._interface))
        return request

    def render(self, request: Request, results: Mapping[str, Array], charge: Charge = tensors.no_charge) -> Reply:
        """Do what `protocol.render` does. Raises RequestError."""
        if request.id is not None:
            return protocol.render(request, results, self._model, self._version, charge)
        arrays = [results[wanted.name] for wanted in request.wanted]
        key = (request.wanted, tuple([(array.dtype.char, array.shape) for array in arrays]))
        header = self._responses.entries.get(key)
        if header is not None:
            return Reply(b"".join([header, *map(tensors.to_binary, arrays)]), len(header))
        reply = protocol.render(request, results, self._model, self._version, charge)
        if reply.header_length is not None and _has_fixed_header(request, arrays):
            self._responses.put(key, reply.body[: reply.header_length])
        return reply


def _is_widened(request: Request, sizes: Sequence[int]) -> bool:
    """Return whether an input is larger than its bytes in the body."""
    pairs = zip(request.feeds.values(), sizes, strict=True)
    return any(array.dtype.kind != "O" and array.nbytes != size for array, size in pairs)


def _has_fixed_header(request: Request, arrays: Sequence[Array]) -> bool:
    """Return whether the header of a response follows from types and shapes alone."""
    binary = all(wanted.binary for wanted in request.wanted)
    return binary and all(array.dtype.kind not in "OUS" for array in arrays)
