# SPDX-License-Identifier: Apache-2.0
"""Read a request body within its bounds, and undo its content encoding."""

from __future__ import annotations

import asyncio
import zlib

from granian.rsgi import Headers, HTTPProtocol

from packager.server.errors import RequestError, quote
from packager.server.gate import Lease

# zlib's name for the container: gzip, or zlib as HTTP's "deflate" means it (RFC 9110 §8.4.1.2).
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PLAIN = ("", "identity")


async def read(headers: Headers, proto: HTTPProtocol, lease: Lease) -> bytes:
    """Return the whole body, never having held more than the lease allows.

    Raises RequestError: 413 too large, 503 no room, 408 too slow; and granian's ProtocolClosed.
    """
    try:
        async with asyncio.timeout(lease.gate.limits.read_timeout):
            # A request may carry both headers; the chunks then decide its length, so nothing may trust the other.
            if "transfer-encoding" in headers:
                return await _chunks(proto, lease)
            lease.hold(_declared(headers.get("content-length", "0")))
            return await proto()
    except TimeoutError:
        raise RequestError("the body did not arrive in time", status=408) from None


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


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo `encoding`, producing at most `limit` bytes. Raises RequestError."""
    if not encoding:
        return body
    inflater = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(f"the body is not {encoding} data") from None
    if len(plain) > limit:
        raise RequestError(f"expected a body of at most {limit} bytes after inflating", status=413)
    if not inflater.eof or inflater.unused_data:
        raise RequestError(f"the body is not one whole stream of {encoding} data")
    return plain
