# SPDX-License-Identifier: Apache-2.0
"""Wait for the result of a run: until its deadline, or until the client disconnects."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future

from granian.rsgi import HTTPProtocol, ProtocolClosed

from packager.server.errors import RequestError, quote
from packager.server.execution import batching
from packager.server.protocol.tensors import Array

_WATCH_SECONDS = 0.05  # before this the client is not watched for a disconnect


async def wait_result(answer: Future[Sequence[Array]], proto: HTTPProtocol, deadline: float | None) -> Sequence[Array]:
    """Wait for a result until its deadline, or until the client disconnects; a run that has not begun is then dropped.

    Raises RequestError with status 504, and ProtocolClosed.
    """
    result = asyncio.wrap_future(answer)
    left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        await asyncio.wait((result,), timeout=min(left, _WATCH_SECONDS))
        if result.done():
            return result.result()
        await _wait_result_or_disconnect(result, proto, left - _WATCH_SECONDS)
        return result.result()
    finally:
        result.cancel()


async def _wait_result_or_disconnect(result: asyncio.Future[Sequence[Array]], proto: HTTPProtocol, left: float) -> None:
    """Return when `result` is done. Raises RequestError after `left` seconds, ProtocolClosed on a disconnect."""
    disconnected = asyncio.ensure_future(proto.client_disconnect())
    try:
        timeout = None if left == math.inf else max(0.0, left)
        await asyncio.wait((result, disconnected), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ProtocolClosed if disconnected.done() else batching.deadline_error()
    finally:
        disconnected.cancel()


def parse_timeout(value: str | None) -> float | None:
    """Parse `x-request-timeout`. Raises RequestError."""
    if value is None:
        return None
    if not (len(value) <= 18 and value.isascii() and value.replace(".", "", 1).isdigit()):
        raise RequestError(f"`X-Request-Timeout`: expected seconds, got {quote(value)}")
    return float(value)
