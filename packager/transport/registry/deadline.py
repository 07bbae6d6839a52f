# SPDX-License-Identifier: Apache-2.0
"""Enforce a deadline for every response: a timeout between two bytes is none, because each byte restarts it.

A response that is read whole has `answer` seconds, from its first line to its last byte. A streamed one has those for
its headers, and then time for its bytes at no less than `rate`. More than a few interim responses (1xx) are refused.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

from packager.records import dataclass

_INTERIM = 8


class OverdueError(TimeoutError):
    """The server sends, but too slowly."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits of a response: seconds for all of it, or for its headers and then bytes per second."""

    answer: float = 120.0
    rate: float = 1024.0

    def check(self, spent: float, received: int, *, streamed: bool) -> float:
        """Return the seconds that are left. Raises OverdueError if there are none."""
        left = self.answer + (received / self.rate if streamed else 0) - spent
        if left <= 0:
            raise OverdueError(f"no whole answer within {self.answer:g} s")
        return left


class _Timed(io.RawIOBase):
    """Reads from a socket until the deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, pace: Pace) -> None:
        self._raw, self._sock, self._pace = raw, sock, pace
        self._started, self._received = time.monotonic(), 0
        self._idle = self._limit = sock.gettimeout()
        self.streamed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._pace.check(time.monotonic() - self._started, self._received, streamed=self.streamed)
        idle = left if self._idle is None else self._idle
        if (limit := min(idle, left)) != self._limit:  # a system call, which a long stream does not need for each piece
            self._sock.settimeout(limit)
            self._limit = limit
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError as error:
            raise (OverdueError("the time is over") if left <= idle else error) from None
        self._received += count or 0
        return int(count) if count is not None else None

    def close(self) -> None:
        self._raw.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response with a deadline."""

    def __init__(self, pace: Pace, sock: socket.socket, *rest: Any, **named: Any) -> None:
        super().__init__(sock, *rest, **named)
        self._timed = _Timed(self.fp.detach(), sock, pace)
        self.fp = io.BufferedReader(self._timed)
        self._interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        self._interim += 1
        if self._interim > _INTERIM:
            raise http.client.HTTPException(f"more than {_INTERIM} interim answers")
        return found

    def stream(self) -> None:
        """Limit the body by its rate instead of its total time."""
        self._timed.streamed = True


def is_overdue(error: BaseException | None) -> bool:
    """Return whether an error comes from one of our deadlines."""
    while error is not None and not isinstance(error, OverdueError):
        error = error.__cause__ or error.__context__
    return error is not None
