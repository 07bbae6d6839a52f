# SPDX-License-Identifier: Apache-2.0
"""Read the parts of a multipart/form-data body (RFC 7578), which was read whole and within its bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message

from packager.server.errors import RequestError, quote

MAX_PARTS = 1024
_MAX_HEADERS = 8192
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")


def split_parts(body: bytes | bytearray, content_type: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of every part, in order. Raises RequestError."""
    boundary = _parameter("content-type", content_type, "boundary")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestError("`Content-Type`: expected a boundary")
    delimiter = f"\r\n--{boundary}".encode()
    rest, count = b"\r\n" + bytes(body), 0
    position = rest.find(delimiter)
    while position >= 0:
        position += len(delimiter)
        if rest[position : position + 2] == b"--":
            return
        end = rest.find(delimiter, position)
        start = rest.find(b"\r\n\r\n", position, position + _MAX_HEADERS)
        count += 1
        if end < 0 or start < 0 or start > end or count > MAX_PARTS:
            break
        head = rest[position:start].decode("utf-8", "replace")
        yield _name(head), rest[start + 4 : end]
        position = end
    raise RequestError(f"the body is not whole multipart data of at most {MAX_PARTS} parts")


def _name(head: str) -> str:
    for line in head.split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            return _parameter("content-disposition", value.strip(), "name")
    raise RequestError(f"a part has no `Content-Disposition`: {quote(head)}")


def _parameter(field: str, value: str, name: str) -> str:
    message = Message()
    message[field] = value.replace("\r", " ").replace("\n", " ")
    found = message.get_param(name, "", header=field)
    return found if isinstance(found, str) else ""
