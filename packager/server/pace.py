# SPDX-License-Identifier: Apache-2.0
"""How much of each turn of the event loop goes to requests: the rest waits for the next turn.

A turn serves whatever is ready. A hundred requests of a millisecond that are ready at once would keep a health probe,
which came a moment later, waiting for all of them; so what is read in the loop asks here first, and after a few
milliseconds waits until the loop has been round.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

_SECONDS = 0.005  # of requests in one turn
_WOKEN = 8  # at most in one turn of those that waited; each asks again


class Pace:
    """The requests of one event loop."""

    def __init__(self) -> None:
        self._since: float | None = None  # when the first request of this turn began
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def has_time(self) -> bool:
        """Tell whether one more request may begin in this turn."""
        now = time.perf_counter()
        if self._since is None:
            loop = self._loop
            if loop is None:  # asking for it costs a system call before Python 3.12
                loop = self._loop = asyncio.get_running_loop()
            self._since = now
            loop.call_soon(self._next, loop)
        return now - self._since < _SECONDS

    async def wait(self) -> None:
        """Return in a turn that has time for one more request."""
        while not self.has_time():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._since = None
        for _ in range(min(_WOKEN, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited is gone
                turn.set_result(None)
        if self._waiting:
            self._since = time.perf_counter()
            loop.call_soon(self._next, loop)
