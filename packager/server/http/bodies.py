# SPDX-License-Identifier: Apache-2.0
"""Read a request body within its bounds, undo its content encoding, and encode answers for who asks for it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from granian.rsgi import Headers, HTTPProtocol, ProtocolClosed

from packager.server.admission.gate import Lease
from packager.server.admission.shared_timeout import Patience
from packager.server.errors import RequestError, quote

# zlib's name for the container: gzip, or zlib as HTTP's "deflate" means it (RFC 9110 §8.4.1.2).
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PLAIN = ("", "identity")
_AT_ONCE = 2**20
_PIECE = 2**18
_FED = 2**16
_MOST_CODINGS = 16
_MOST_MEMBERS = 1024
LEAST_ENCODED = 1400  # bytes of an answer: what is shorter is one packet as it is
_MOST_CHUNKS = 2**16


async def read(headers: Headers, proto: HTTPProtocol, lease: Lease, patience: Patience) -> bytes | bytearray:
    """Return the whole body, never having held more than the lease allows.

    A long body takes room as it arrives, a short one all at once: somebody who announces much and sends nothing keeps
    no other out, and short bodies are not copied. One in chunks announces nothing, so it is long.
    Raises RequestError: 400 cut short or garbled, 413 too large, 429 no room, 408 too slow.
    """
    try:
        with patience.wait():
            if "transfer-encoding" in headers:
                return await _chunks(headers, proto, lease)
            size = _declared(headers.get("content-length", "0"))
            if size > lease.gate.limits.max_body:
                lease.hold(size)
            if size > _AT_ONCE:
                return await _pieces(proto, lease, size)
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


async def _pieces(proto: HTTPProtocol, lease: Lease, size: int) -> bytearray:
    """Return a long body, collected as it comes: joining it at the end would keep the event loop from all else."""
    body = bytearray()
    async for part in proto:
        lease.hold(len(part))
        body += part
    if len(body) != size:
        raise RequestError("the body ended before its length")
    return body


async def _chunks(headers: Headers, proto: HTTPProtocol, lease: Lease) -> bytearray:
    """Return a body in chunks, which has to end with the last one.

    granian 2.8 ends every body with one empty part. One that is cut or garbled has a second before it, in place of the
    error, and so have the fields of a trailer, which nothing here could use.
    """
    coding = headers.get("transfer-encoding")  # granian forgets a length beside it, as RFC 9112 §6.3 says
    if coding.strip().lower() != "chunked":
        raise RequestError(f"expected `Transfer-Encoding: chunked`, got {quote(coding)}")
    body, parts, empty = bytearray(), 0, 0
    async for part in proto:
        parts += 1
        if parts > _MOST_CHUNKS:
            raise RequestError(f"expected at most {_MOST_CHUNKS} chunks", status=413)
        lease.hold(len(part))
        body += part
        empty += not part
    if empty != 1:
        raise RequestError("the body in chunks did not end as it should: cut, garbled, or with a trailer")
    return body


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


def inflate(
    body: bytes | bytearray, encoding: str, limit: int, take: Callable[[int], None] = _nothing
) -> bytes | bytearray:
    """Undo `encoding`, producing at most `limit` bytes; `take` hears of each piece. Raises RequestError.

    A body of gzip may have several members, one after the other (RFC 1952 §2.2).
    """
    if not encoding:
        return body
    inflater, found, view, fed = zlib.decompressobj(_WINDOW[encoding]), bytearray(), memoryview(body), 0
    members = 1
    try:
        while fed < len(view):
            if inflater.eof:
                members += 1
                if encoding == "deflate" or members > _MOST_MEMBERS:
                    break
                inflater = zlib.decompressobj(_WINDOW[encoding])
            piece = view[fed : fed + _FED]
            for part in _inflated(inflater, piece):
                if len(found) + len(part) > limit:
                    raise RequestError(f"expected a body of at most {limit} bytes after inflating", status=413)
                take(len(part))
                found += part
            fed += len(piece) - len(inflater.unused_data)
    except zlib.error:
        raise RequestError(f"the body is not {encoding} data") from None
    if not inflater.eof or fed < len(view):
        most = f" (at most {_MOST_MEMBERS} members)" if members > _MOST_MEMBERS else ""
        raise RequestError(f"the body is not whole {encoding} data{most}")
    return found


def _inflated(inflater: Any, piece: bytes | memoryview) -> Iterator[bytes]:
    """Yield what becomes of a piece, in pieces: zlib copies what it has not looked at each time it is called."""
    while not inflater.eof:
        part = inflater.decompress(piece, _PIECE)
        yield part
        piece = inflater.unconsumed_tail
        if not piece and len(part) < _PIECE:
            return


def wanted_encoding(value: str | None) -> str:
    """Return what to encode an answer with, for an `Accept-Encoding` header (RFC 9110 §12.5.3); "": nothing."""
    if not value:
        return ""
    told = [row.strip().lower().partition(";") for row in value.split(",")[:_MOST_CODINGS]]
    wanted = {
        name.strip() for name, _, rest in told if rest.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    }
    return next((name for name in ("gzip", "deflate") if name in wanted), "")


def deflate(body: bytes, encoding: str) -> bytes:
    """Encode an answer, quickly rather than well."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[encoding])
    return deflater.compress(body) + deflater.flush()
