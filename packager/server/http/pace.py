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
_PAUSE_SECONDS = 0.02  # without a request: what else was ready has had its turn
_WOKEN = 8  # at most in one turn of those that waited; each asks again


class Pace:
    """The requests of one event loop.

    A callback that tells when a turn is over would cost a turn of its own each time. So turns are only told apart when
    requests have followed each other for some milliseconds: then one waits a turn, and the count begins again.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # when the first of the requests that follow each other began
        self._last = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def has_time(self) -> bool:
        """Tell whether one more request may begin in this turn."""
        now = time.monotonic()
        paused = now - self._last > _PAUSE_SECONDS
        self._last = now
        if paused or self._since is None:
            self._since = now
        return now - self._since < _SECONDS

    async def wait(self) -> None:
        """Return in a turn that has time for one more request."""
        loop = asyncio.get_running_loop()
        while not self.has_time():
            turn = loop.create_future()
            self._waiting.append(turn)
            if len(self._waiting) == 1:
                loop.call_soon(self._next, loop)
            await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a turn, and wake some of those that waited, in the order in which they came."""
        self._since = None
        for _ in range(min(_WOKEN, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited is gone
                turn.set_result(None)
        if self._waiting:
            loop.call_soon(self._next, loop)
