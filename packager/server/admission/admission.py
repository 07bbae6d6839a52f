# SPDX-License-Identifier: Apache-2.0
"""Admission control: bound how many requests are in flight, and how many bytes requests hold.

A request that is still arriving holds bytes but no slot: clients that send slowly do not keep others out.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from packager.server.errors import RequestError
from packager.server.knobs import read_default

_POLL_SECONDS = 0.01
_SMOOTH = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients may take: bytes, counts and seconds. `held`: bytes of all requests, if it is stated."""

    max_body: int = read_default("server.max_body")
    max_in_flight: int = read_default("server.max_in_flight")
    connections: int = read_default("server.max_connections")
    read_timeout: float = read_default("server.read_timeout")
    body_timeout: float = read_default("server.body_timeout")
    request_timeout: float | None = None
    held: int | None = None

    @property
    def max_held(self) -> int:
        """Bytes that all requests may hold at once: their bodies, and what these become when they are parsed."""
        return 4 * self.max_body if self.held is None else self.held

    @property
    def max_message(self) -> int:
        """Bytes of one message over gRPC, which grpcio holds three times until it is whole.

        A quarter of a body, where no contract bounds it.
        """
        return self.max_body // 4 if self.held is None else self.max_body

    def narrowed_to(self, largest: int | None) -> Limits:
        """Return these limits for a contract whose requests have at most `largest` bytes; None: it states no bound."""
        if largest is None or largest >= self.max_body:
            return self
        return replace(self, max_body=largest, held=self.max_held)


def overload_error(message: str, after: float = 1.0) -> RequestError:
    """Return the refusal of a request that may succeed in `after` seconds."""
    return RequestError(message, status=429, retry_after=max(1, math.ceil(after)))


def not_ready_error(message: str) -> RequestError:
    """Return the refusal of a request by a server that is not ready."""
    return RequestError(message, status=503, retry_after=1)


def _ignore(seconds: float) -> None:
    pass


class Admission:
    """Counts requests and bytes, for the event loop and for the threads of gRPC."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.arriving = 0
        self.held = 0
        self.last_request = time.monotonic()
        self._lock = threading.Lock()
        self._seconds_per_slot = 0.0

    def lease(self, on_end: Callable[[float], None] = _ignore) -> Lease:
        """Return a block in which one request sends its body; `on_end` gets the seconds that the block took.

        Holding bytes raises RequestError when there is no room.
        """
        return Lease(self, on_end, time.perf_counter())

    def admit(self) -> Slot:
        """Return a block in which a request is in flight. Entering it raises RequestError when the server is full."""
        return Slot(self)

    def _full_error(self) -> RequestError:
        """Return the refusal of a request when all slots are taken."""
        wait = self._seconds_per_slot * self.in_flight
        return overload_error(f"{self.in_flight} requests are in flight, as many as this server takes", wait)

    def acquire_slot(self) -> None:
        """Take a slot. Raises RequestError when there is none."""
        with self._lock:
            if self.in_flight >= self.limits.max_in_flight:
                raise self._full_error()
            self.in_flight += 1

    def release_slot(self, spent: float) -> None:
        """Give back a slot that was taken for `spent` seconds."""
        with self._lock:
            # Seconds that each further slot costs, smoothed: refused clients get them as `Retry-After`.
            self._seconds_per_slot += _SMOOTH * (spent / self.in_flight - self._seconds_per_slot)
            self.in_flight -= 1

    def begin_body(self) -> None:
        """Count one more request that sends its body."""
        with self._lock:
            self.arriving += 1

    def end_body(self, size: int) -> None:
        """Count one less, and release the `size` bytes that it held."""
        with self._lock:
            self.last_request = time.monotonic()
            self.arriving -= 1
            self.held -= size

    def hold(self, size: int) -> None:
        """Count `size` more bytes as held. Raises RequestError when there is no room."""
        with self._lock:
            if self.held + size > self.limits.max_held:
                raise overload_error("the bodies of other requests fill this server's memory")
            self.held += size

    async def wait_idle(self, seconds: float) -> None:
        """Return when no request is in flight or arriving, and none has come for `seconds`."""
        while True:
            while self.arriving or self.in_flight:  # an event could not be set from another thread
                await asyncio.sleep(_POLL_SECONDS)
            left = self.last_request + seconds - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)


@dataclass(slots=True)
class Slot:
    """A block in which a request is in flight."""

    admission: Admission
    since: float = 0.0

    def __enter__(self) -> None:
        self.admission.acquire_slot()
        self.since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.admission.release_slot(time.monotonic() - self.since)


@dataclass(slots=True)
class Lease:
    """The bytes that one request holds: `body` of its body, `size` in all."""

    admission: Admission
    on_end: Callable[[float], None]
    began: float
    size: int = 0
    body: int = 0

    def __enter__(self) -> Lease:
        self.admission.begin_body()
        return self

    def __exit__(self, *_: object) -> None:
        self.admission.end_body(self.size)
        self.on_end(time.perf_counter() - self.began)

    def hold_body(self, size: int) -> None:
        """Hold `size` more bytes of the body, before they are read. Raises RequestError."""
        if self.body + size > self.admission.limits.max_body:
            raise RequestError(f"expected a body of at most {self.admission.limits.max_body} bytes", status=413)
        self.body += size
        self.hold(size)

    def hold(self, size: int) -> None:
        """Hold `size` more bytes of anything that the request makes the server allocate. Raises RequestError."""
        most = self.admission.limits.max_held
        if self.size + size > most:  # it never fits
            raise RequestError(f"expected a request that takes at most {most} bytes", status=413)
        self.admission.hold(size)
        self.size += size
