# SPDX-License-Identifier: Apache-2.0
"""One timer for everybody who may wait equally long.

`asyncio.timeout` makes and cancels a timer for each wait, which costs more than reading a short body does. Waits of
one length end in the order in which they began, so the timer of the first is enough for all.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Patience:
    """Waits of at most `seconds`; to be used from one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[Wait, None] = {}  # in the order of their ends
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self) -> Wait:
        """Return a block for the task that runs; it raises TimeoutError when it takes longer than `seconds`."""
        loop = self._loop
        if loop is None:  # asking for it costs a system call before Python 3.12
            loop = self._loop = asyncio.get_running_loop()
        wait = Wait(self, asyncio.current_task(loop), loop.time() + self._seconds)
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.end, self._look, loop)
        return wait

    def end(self, wait: Wait) -> None:
        """Forget a wait."""
        self._waits.pop(wait, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._waits and (first := next(iter(self._waits))).end <= now:
            del self._waits[first]
            first.expire()
        self._timer = loop.call_at(next(iter(self._waits)).end, self._look, loop) if self._waits else None


class Wait:
    """One block that may not take too long. It counts from its making."""

    __slots__ = ("_late", "_patience", "_task", "end")

    def __init__(self, patience: Patience, task: asyncio.Task[object] | None, end: float) -> None:
        self._patience, self._task, self._late, self.end = patience, task, False, end

    def __enter__(self) -> None:
        pass

    def expire(self) -> None:
        """End the block."""
        if self._task is not None:
            self._late = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patience.end(self)
        # Somebody else may have cancelled the task as well; then it stays cancelled, as with `asyncio.timeout`.
        if self._late and self._task is not None and not self._task.uncancel() and kind is asyncio.CancelledError:
            raise TimeoutError from error
