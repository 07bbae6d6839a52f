# SPDX-License-Identifier: Apache-2.0
"""Files in rows of requests: bytes as a multipart body brings them, or base64 as JSON does, also as a `data:` URL."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from packager.server.errors import RequestError, quote


def read_file(row: Any, index: int, member: str, expected: str) -> bytes:
    """Return the bytes of a row's only `member`, or of a row that is the value itself.

    `expected` names the file in errors. Raises RequestError.
    """
    row = row if isinstance(row, Mapping) else {member: row}
    if unknown := sorted(set(row) - {member}):
        raise RequestError(f"row {index}: unknown member {quote(unknown[0])}, expected `{member}`")
    value = row.get(member)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str):
        raise RequestError(f"row {index}: expected `{member}`, {expected} in base64")
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"row {index}: `{member}` is not base64") from None
