# SPDX-License-Identifier: Apache-2.0
"""Who may come in: how many requests at once, and how many bytes of theirs are held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from packager.server.errors import RequestError

_LOOK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may take: bytes, counts and seconds."""

    max_body: int = 64 * 2**20
    max_in_flight: int = 128
    connections: int = 1024
    read_timeout: float = 75.0

    @property
    def max_held(self) -> int:
        """Bytes of request bodies that may be in memory at once."""
        return 4 * self.max_body


def overload(message: str) -> RequestError:
    """Return the refusal of a request that may succeed later."""
    return RequestError(message, status=503)


class Gate:
    """Counts requests and bytes, for the event loop and for the threads of gRPC."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.held = 0
        self._lock = threading.Lock()

    @contextmanager
    def admit(self) -> Iterator[Lease]:
        """Let one request in for the length of the block. Raises RequestError when the server is full."""
        with self._lock:
            if self.in_flight >= self.limits.max_in_flight:
                raise overload(f"{self.in_flight} requests are in flight, as many as this server takes")
            self.in_flight += 1
        lease = Lease(self)
        try:
            yield lease
        finally:
            with self._lock:
                self.in_flight -= 1
                self.held -= lease.size

    def take(self, size: int) -> None:
        """Count `size` more bytes as held. Raises RequestError when there is no room."""
        with self._lock:
            if self.held + size > self.limits.max_held:
                raise overload("the bodies of other requests fill this server's memory")
            self.held += size

    async def idle(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:  # only asked at shutdown; an event could not be set from another thread
            await asyncio.sleep(_LOOK_SECONDS)


@dataclass(slots=True)
class Lease:
    """What one admitted request holds, in bytes."""

    gate: Gate
    size: int = 0

    def hold(self, size: int) -> None:
        """Take room for `size` more bytes, before they are read. Raises RequestError."""
        if self.size + size > self.gate.limits.max_body:
            raise RequestError(f"expected a body of at most {self.gate.limits.max_body} bytes", status=413)
        self.gate.take(size)
        self.size += size
