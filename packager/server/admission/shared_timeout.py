# SPDX-License-Identifier: Apache-2.0
"""One timer for all blocks that have the same time limit.

`asyncio.timeout` makes and cancels a timer for each block, which costs more than reading a short body does. Blocks of
one limit expire in the order in which they began, so the timer of the first is enough for all.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class SharedTimeout:
    """Makes blocks that may take `seconds`; to be used from one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._blocks: dict[TimedBlock, None] = {}  # in the order of their ends
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> TimedBlock:
        """Return a block for the current task; it raises TimeoutError when it takes longer than `seconds`."""
        loop = self._loop
        if loop is None:  # getting it costs a system call before Python 3.12
            loop = self._loop = asyncio.get_running_loop()
        block = TimedBlock(self, asyncio.current_task(loop), loop.time() + self._seconds)
        self._blocks[block] = None
        if self._timer is None:
            self._timer = loop.call_at(block.end, self._expire_due, loop)
        return block

    def remove(self, block: TimedBlock) -> None:
        """Forget a block that has ended."""
        self._blocks.pop(block, None)

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._blocks and (first := next(iter(self._blocks))).end <= now:
            del self._blocks[first]
            first.expire()
        self._timer = loop.call_at(next(iter(self._blocks)).end, self._expire_due, loop) if self._blocks else None


class TimedBlock:
    """One block with a time limit, counted from its construction."""

    __slots__ = ("_expired", "_task", "_timeout", "end")

    def __init__(self, timeout: SharedTimeout, task: asyncio.Task[object] | None, end: float) -> None:
        self._timeout, self._task, self._expired, self.end = timeout, task, False, end

    def __enter__(self) -> None:
        pass

    def expire(self) -> None:
        """Cancel the task of the block."""
        if self._task is not None:
            self._expired = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timeout.remove(self)
        # The task may have been cancelled from elsewhere as well; then it stays cancelled, as with `asyncio.timeout`.
        if self._expired and self._task is not None and not self._task.uncancel() and kind is asyncio.CancelledError:
            raise TimeoutError from error
