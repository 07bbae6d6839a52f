# SPDX-License-Identifier: Apache-2.0
"""Who may come in: how many requests at once, and how many bytes of theirs are held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from packager.server.errors import RequestError


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
    """Counts requests and bytes. Belongs to one event loop; not for other threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self) -> Iterator[Lease]:
        """Let one request in for the length of the block. Raises RequestError when the server is full."""
        if self.in_flight >= self.limits.max_in_flight:
            raise overload(f"{self.in_flight} requests are in flight, as many as this server takes")
        lease = Lease(self)
        self.in_flight += 1
        self._idle.clear()
        try:
            yield lease
        finally:
            self.in_flight -= 1
            self.held -= lease.size
            if not self.in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no request is in flight."""
        await self._idle.wait()


@dataclass(slots=True)
class Lease:
    """What one admitted request holds, in bytes."""

    gate: Gate
    size: int = 0

    def hold(self, size: int) -> None:
        """Take room for `size` more bytes, before they are read. Raises RequestError."""
        if self.size + size > self.gate.limits.max_body:
            raise RequestError(f"expected a body of at most {self.gate.limits.max_body} bytes", status=413)
        if self.gate.held + size > self.gate.limits.max_held:
            raise overload("the bodies of other requests fill this server's memory")
        self.gate.held += size
        self.size += size
