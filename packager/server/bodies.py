# SPDX-License-Identifier: Apache-2.0
"""Read a request body within its bounds, and undo its content encoding."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from granian.rsgi import Headers, HTTPProtocol, ProtocolClosed

from packager.server.errors import RequestError, quote
from packager.server.gate import Lease
from packager.server.patience import Patience

# zlib's name for the container: gzip, or zlib as HTTP's "deflate" means it (RFC 9110 §8.4.1.2).
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PLAIN = ("", "identity")
_AT_ONCE = 2**20
_PIECE = 2**18


async def read(headers: Headers, proto: HTTPProtocol, lease: Lease, patience: Patience) -> bytes:
    """Return the whole body, never having held more than the lease allows.

    A long body takes room as it arrives, a short one all at once: somebody who announces much and sends nothing keeps
    no other out, and short bodies are not copied.
    Raises RequestError: 400 cut short, 413 too large, 429 no room, 408 too slow.
    """
    try:
        with patience.wait():
            # A request may carry both headers; the chunks then decide its length, so nothing may trust the other.
            if "transfer-encoding" in headers:
                return await _chunks(proto, lease)
            size = _declared(headers.get("content-length", "0"))
            if size > lease.gate.limits.max_body:
                lease.hold(size)
            if size > _AT_ONCE:
                return await _chunks(proto, lease)
            lease.hold(size)
            return await proto()
    except TimeoutError:
        raise RequestError("the body did not arrive in time", status=408) from None
    except ProtocolClosed:  # the client may still listen: one that closed its half only
        raise RequestError("the body ended before its length") from None


def _declared(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise RequestError(f"`Content-Length`: expected a number, got {quote(value)}")
    return int(value) if len(value) <= 18 else 10**18


async def _chunks(proto: HTTPProtocol, lease: Lease) -> bytes:
    parts: list[bytes] = []
    async for part in proto:
        lease.hold(len(part))
        parts.append(part)
    return b"".join(parts)


def encoding(headers: Headers) -> str:
    """Return the content encoding, "" for none. Raises RequestError with status 415 for one that is not offered."""
    value: str = headers.get("content-encoding", "").strip().lower()
    if value in _PLAIN:
        return ""
    if value not in _WINDOW:
        raise RequestError(f"`Content-Encoding`: expected gzip or deflate, got {quote(value)}", status=415)
    return value


def _nothing(size: int) -> None:
    pass


def inflate(body: bytes, encoding: str, limit: int, take: Callable[[int], None] = _nothing) -> bytes:
    """Undo `encoding`, producing at most `limit` bytes; `take` hears of each piece. Raises RequestError."""
    if not encoding:
        return body
    inflater, parts, rest = zlib.decompressobj(_WINDOW[encoding]), [], body
    size = 0
    try:
        while not inflater.eof and (part := inflater.decompress(rest, _PIECE)):
            size += len(part)
            if size > limit:
                raise RequestError(f"expected a body of at most {limit} bytes after inflating", status=413)
            take(len(part))
            parts.append(part)
            rest = inflater.unconsumed_tail
    except zlib.error:
        raise RequestError(f"the body is not {encoding} data") from None
    if not inflater.eof or inflater.unused_data:
        raise RequestError(f"the body is not one whole stream of {encoding} data")
    return b"".join(parts)
