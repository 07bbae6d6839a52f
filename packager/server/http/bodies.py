# SPDX-License-Identifier: Apache-2.0
"""Read a request body within its bounds, undo its content encoding, and encode answers on request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from granian.rsgi import Headers, HTTPProtocol, ProtocolClosed

from packager.server.admission.admission import Lease
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError, quote

# zlib's name for the container: gzip, or zlib as HTTP's "deflate" means it (RFC 9110 §8.4.1.2).
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PLAIN = ("", "identity")
_SHORT_BYTES = 2**20
_OUTPUT_BYTES = 2**18
_INPUT_BYTES = 2**16
_MAX_CODINGS = 16
_MAX_MEMBERS = 1024
MIN_ENCODED_BYTES = 1400  # a shorter answer fits one packet as it is
_MAX_CHUNKS = 2**16


async def read_body(headers: Headers, proto: HTTPProtocol, lease: Lease, timeout: SharedTimeout) -> bytes | bytearray:
    """Return the whole body, never holding more than the lease allows.

    The bytes of a long body are counted as they arrive, those of a short one at once: a client that announces much and
    sends nothing does not keep others out, and short bodies are not copied. A chunked body counts as long.
    Raises RequestError: 400 cut short or garbled, 413 too large, 429 no room, 408 too slow.
    """
    try:
        with timeout.start():
            if "transfer-encoding" in headers:
                return await _read_chunked(headers, proto, lease)
            size = _parse_length(headers.get("content-length", "0"))
            if size > lease.admission.limits.max_body:
                lease.hold_body(size)
            if size > _SHORT_BYTES:
                return await _read_long(proto, lease, size)
            lease.hold_body(size)
            return await proto()
    except TimeoutError:
        raise RequestError("the body did not arrive in time", status=408) from None
    except ProtocolClosed:  # the client may still receive: it may have closed its half only
        raise RequestError("the body ended before its length") from None


def _parse_length(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise RequestError(f"`Content-Length`: expected a number, got {quote(value)}")
    return int(value) if len(value) <= 18 else 10**18


async def _read_long(proto: HTTPProtocol, lease: Lease, size: int) -> bytearray:
    """Return a long body, collected as it arrives: joining it at the end would block the event loop."""
    body = bytearray()
    async for part in proto:
        lease.hold_body(len(part))
        body += part
    if len(body) != size:
        raise RequestError("the body ended before its length")
    return body


async def _read_chunked(headers: Headers, proto: HTTPProtocol, lease: Lease) -> bytearray:
    """Return a chunked body, which has to end with the last chunk.

    granian 2.8 ends every body with one empty part. A body that is cut or malformed has a second one before it, in
    place of the error, and so has a trailer, which is not supported here.
    """
    coding = headers.get("transfer-encoding")  # granian ignores a length beside it, as RFC 9112 §6.3 requires
    if coding.strip().lower() != "chunked":
        raise RequestError(f"expected `Transfer-Encoding: chunked`, got {quote(coding)}")
    body, parts, empty = bytearray(), 0, 0
    async for part in proto:
        parts += 1
        if parts > _MAX_CHUNKS:
            raise RequestError(f"expected at most {_MAX_CHUNKS} chunks", status=413)
        lease.hold_body(len(part))
        body += part
        empty += not part
    if empty != 1:
        raise RequestError("the body in chunks did not end as it should: cut, garbled, or with a trailer")
    return body


def content_encoding(headers: Headers) -> str:
    """Return the content encoding, "" for none. Raises RequestError with status 415 for one that is not offered."""
    value: str = headers.get("content-encoding", "").strip().lower()
    if value in _PLAIN:
        return ""
    if value not in _WINDOW_BITS:
        raise RequestError(f"`Content-Encoding`: expected gzip or deflate, got {quote(value)}", status=415)
    return value


def _ignore(size: int) -> None:
    pass


def inflate(
    body: bytes | bytearray, encoding: str, limit: int, hold: Callable[[int], None] = _ignore
) -> bytes | bytearray:
    """Undo `encoding`, producing at most `limit` bytes; `hold` gets the size of each piece. Raises RequestError.

    A body of gzip may have several members, one after the other (RFC 1952 §2.2).
    """
    if not encoding:
        return body
    inflater, found, view, fed = zlib.decompressobj(_WINDOW_BITS[encoding]), bytearray(), memoryview(body), 0
    members = 1
    try:
        while fed < len(view):
            if inflater.eof:
                members += 1
                if encoding == "deflate" or members > _MAX_MEMBERS:
                    break
                inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
            piece = view[fed : fed + _INPUT_BYTES]
            for part in _inflate_piece(inflater, piece):
                if len(found) + len(part) > limit:
                    raise RequestError(f"expected a body of at most {limit} bytes after inflating", status=413)
                hold(len(part))
                found += part
            fed += len(piece) - len(inflater.unused_data)
    except zlib.error:
        raise RequestError(f"the body is not {encoding} data") from None
    if not inflater.eof or fed < len(view):
        most = f" (at most {_MAX_MEMBERS} members)" if members > _MAX_MEMBERS else ""
        raise RequestError(f"the body is not whole {encoding} data{most}")
    return found


def _inflate_piece(inflater: Any, piece: bytes | memoryview) -> Iterator[bytes]:
    """Yield the output of a piece in pieces: zlib copies the input that is left at each call."""
    while not inflater.eof:
        part = inflater.decompress(piece, _OUTPUT_BYTES)
        yield part
        piece = inflater.unconsumed_tail
        if not piece and len(part) < _OUTPUT_BYTES:
            return


def wanted_encoding(value: str | None) -> str:
    """Return the encoding of an answer for an `Accept-Encoding` header (RFC 9110 §12.5.3), "" for none."""
    if not value:
        return ""
    rows = [row.strip().lower().partition(";") for row in value.split(",")[:_MAX_CODINGS]]
    wanted = {
        name.strip() for name, _, rest in rows if rest.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    }
    return next((name for name in ("gzip", "deflate") if name in wanted), "")


def deflate(body: bytes, encoding: str) -> bytes:
    """Encode an answer at the fastest level."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return deflater.compress(body) + deflater.flush()
