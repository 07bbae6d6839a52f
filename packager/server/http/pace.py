# SPDX-License-Identifier: Apache-2.0
"""Limit the time that requests take in one iteration of the event loop; the rest waits for the next one.

An iteration runs all callbacks that are ready. A hundred requests of a millisecond that are ready at once would delay a
health probe that arrives a moment later by all of them; so a request that is parsed in the loop checks here first, and
after some milliseconds waits for the next iteration.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

_SECONDS = 0.005  # of requests in one iteration
_PAUSE_SECONDS = 0.02  # without a request: other callbacks have run
_MAX_WOKEN = 8  # at most in one iteration; each checks again


class Pace:
    """The requests of one event loop.

    A callback at the end of each iteration would cost an iteration itself. So iterations are only counted when
    requests have followed each other for some milliseconds: then one waits an iteration, and the time starts again.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # when the first of the requests that follow each other began
        self._last = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def has_time(self) -> bool:
        """Return whether one more request may begin in this iteration."""
        now = time.monotonic()
        paused = now - self._last > _PAUSE_SECONDS
        self._last = now
        if paused or self._since is None:
            self._since = now
        return now - self._since < _SECONDS

    async def wait(self) -> None:
        """Return in an iteration that has time for one more request."""
        loop = asyncio.get_running_loop()
        while not self.has_time():
            iteration = loop.create_future()
            self._waiting.append(iteration)
            if len(self._waiting) == 1:
                loop.call_soon(self._next, loop)
            await iteration

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin an iteration, and wake some of the waiting requests, in their order."""
        self._since = None
        for _ in range(min(_MAX_WOKEN, len(self._waiting))):
            iteration = self._waiting.popleft()
            if not iteration.done():  # otherwise its client is gone
                iteration.set_result(None)
        if self._waiting:
            loop.call_soon(self._next, loop)
