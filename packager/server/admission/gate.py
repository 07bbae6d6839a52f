# SPDX-License-Identifier: Apache-2.0
"""Who may come in: how many requests at once, and how many bytes of theirs are held.

A request that is still arriving holds bytes but no place: clients that send slowly keep nobody else out.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from packager.server.errors import RequestError
from packager.server.knobs import default

_LOOK_SECONDS = 0.01
_SMOOTH = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may take: bytes, counts and seconds. `held`: bytes of all requests, if it is stated."""

    max_body: int = default("server.max_body")
    max_in_flight: int = default("server.max_in_flight")
    connections: int = default("server.max_connections")
    read_timeout: float = default("server.read_timeout")
    body_timeout: float = default("server.body_timeout")
    request_timeout: float | None = None
    held: int | None = None

    @property
    def max_held(self) -> int:
        """Bytes that requests may take at once: their bodies, and what these become when they are read."""
        return 4 * self.max_body if self.held is None else self.held

    @property
    def max_message(self) -> int:
        """Bytes of one message over gRPC, which grpcio holds three times until it is whole.

        A quarter of a body, where no contract bounds it.
        """
        return self.max_body // 4 if self.held is None else self.max_body

    def within(self, largest: int | None) -> Limits:
        """Return these limits for a contract whose requests take `largest` bytes at most; None: it does not say."""
        if largest is None or largest >= self.max_body:
            return self
        return replace(self, max_body=largest, held=self.max_held)


def overload(message: str, after: float = 1.0) -> RequestError:
    """Return the refusal of a request that may succeed in `after` seconds."""
    return RequestError(message, status=429, retry_after=max(1, math.ceil(after)))


def unready(message: str) -> RequestError:
    """Return the refusal of a request by a server that is not ready."""
    return RequestError(message, status=503, retry_after=1)


def _nobody(seconds: float) -> None:
    pass


class Gate:
    """Counts requests and bytes, for the event loop and for the threads of gRPC."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.arriving = 0
        self.held = 0
        self.last = time.monotonic()
        self._lock = threading.Lock()
        self._pace = 0.0

    def arrive(self, told: Callable[[float], None] = _nobody) -> Lease:
        """Let one request send its body within a block, and tell how many seconds that block took.

        Holding bytes raises RequestError when there is no room.
        """
        return Lease(self, told, time.perf_counter())

    def admit(self) -> Place:
        """Give a request a place within a block. Entering it raises RequestError when the server is full."""
        return Place(self)

    def _full(self) -> RequestError:
        """Return the refusal of a request that finds no place."""
        wait = self._pace * self.in_flight
        return overload(f"{self.in_flight} requests are in flight, as many as this server takes", wait)

    def enter(self) -> None:
        """Take a place. Raises RequestError when there is none."""
        with self._lock:
            if self.in_flight >= self.limits.max_in_flight:
                raise self._full()
            self.in_flight += 1

    def leave(self, spent: float) -> None:
        """Give a place back that was held for `spent` seconds."""
        with self._lock:
            # What one more place costs, in seconds, smoothed: who is refused is told when one may be free.
            self._pace += _SMOOTH * (spent / self.in_flight - self._pace)
            self.in_flight -= 1

    def begin(self) -> None:
        """Count one more request that sends its body."""
        with self._lock:
            self.arriving += 1

    def end(self, size: int) -> None:
        """Count one less, and `size` bytes that it held."""
        with self._lock:
            self.last = time.monotonic()
            self.arriving -= 1
            self.held -= size

    def take(self, size: int) -> None:
        """Count `size` more bytes as held. Raises RequestError when there is no room."""
        with self._lock:
            if self.held + size > self.limits.max_held:
                raise overload("the bodies of other requests fill this server's memory")
            self.held += size

    async def quiet(self, seconds: float) -> None:
        """Return when no request is in flight or arriving, and none came for so long."""
        while True:
            while self.arriving or self.in_flight:  # an event could not be set from another thread
                await asyncio.sleep(_LOOK_SECONDS)
            left = self.last + seconds - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)


@dataclass(slots=True)
class Place:
    """A place in flight, from entering a block to leaving it."""

    gate: Gate
    since: float = 0.0

    def __enter__(self) -> None:
        self.gate.enter()
        self.since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.gate.leave(time.monotonic() - self.since)


@dataclass(slots=True)
class Lease:
    """What one request holds, in bytes."""

    gate: Gate
    told: Callable[[float], None]
    began: float
    size: int = 0
    body: int = 0

    def __enter__(self) -> Lease:
        self.gate.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.end(self.size)
        self.told(time.perf_counter() - self.began)

    def hold(self, size: int) -> None:
        """Take room for `size` more bytes of the body, before they are read. Raises RequestError."""
        if self.body + size > self.gate.limits.max_body:
            raise RequestError(f"expected a body of at most {self.gate.limits.max_body} bytes", status=413)
        self.body += size
        self.take(size)

    def take(self, size: int) -> None:
        """Take room for `size` more bytes of whatever the request makes the server hold. Raises RequestError."""
        most = self.gate.limits.max_held
        if self.size + size > most:  # it never fits
            raise RequestError(f"expected a request that takes at most {most} bytes", status=413)
        self.gate.take(size)
        self.size += size
