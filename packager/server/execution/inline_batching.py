# SPDX-License-Identifier: Apache-2.0
"""Batch short runs in the event loop: requests that are ready in the same iteration of it share a run.

A run releases the interpreter's lock, and the HTTP server's threads want it: getting it back costs several times what
a small model takes. Requests share under the rules of `batching`, and only as many as make a run that is still short.
No request waits to be batched: one that is ready alone runs in the next iteration, one that is alone in the server at
once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from packager.server.execution import batching
from packager.server.execution.batching import BatchPolicy, Feeds, Run
from packager.server.protocol.protocol import Request
from packager.server.protocol.tensors import Array


class PendingRequest(NamedTuple):
    """A request that is ready. `limit` is how many bytes of requests may share its run."""

    feeds: Feeds
    rows: int
    size: int
    limit: int
    key: Hashable
    answer: asyncio.Future[Sequence[Array]]


class InlineBatcher:
    """The requests that wait for the next iteration of one event loop; `on_shared` gets how many shared a run."""

    def __init__(self, run: Run, policy: BatchPolicy, on_shared: Callable[[int], None]) -> None:
        self._run, self._policy, self._on_shared = run, policy, on_shared
        self._pending: deque[PendingRequest] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._pending)

    async def run(self, request: Request, size: int, limit: int) -> Sequence[Array]:
        """Return the runtime's results for a checked request of `size` bytes, or raise what it raises."""
        loop = self._loop
        if loop is None:  # getting it costs a system call before Python 3.12
            loop = self._loop = asyncio.get_running_loop()
        key = (request.key or batching.batch_key(request.feeds)) if request.rows < self._policy.max_rows else None
        pending = PendingRequest(request.feeds, request.rows, size, limit, key, loop.create_future())
        self._pending.append(pending)
        if len(self._pending) == 1:
            loop.call_soon(self._run_next, loop)
        return await pending.answer

    def _run_next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one run; the rest follows in the next iteration, after everything else that is ready by then."""
        batch = self._take_batch()
        if self._pending:
            loop.call_soon(self._run_next, loop)
        if len(batch) > 1:
            self._on_shared(len(batch))
        for pending, result in zip(batch, batching.run_together(self._run, batch), strict=True):
            if pending.answer.done():  # the client is gone
                continue
            if isinstance(result, BaseException):
                pending.answer.set_exception(result)
            else:
                pending.answer.set_result(result)

    def _take_batch(self) -> list[PendingRequest]:
        """Take the first request, and those behind it that may share its run."""
        first = self._pending.popleft()
        batch, rows, size = [first], first.rows, first.size
        if first.key is None:
            return batch
        left: deque[PendingRequest] = deque()
        for pending in self._pending:
            if (
                pending.key == first.key
                and rows + pending.rows <= self._policy.max_rows
                and size + pending.size <= first.limit
            ):
                batch.append(pending)
                rows, size = rows + pending.rows, size + pending.size
            else:
                left.append(pending)
        self._pending = left
        return batch
