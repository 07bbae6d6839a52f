# SPDX-License-Identifier: Apache-2.0
"""Short runs in the event loop: requests that are ready in the same turn of it share one.

A run lets go of the interpreter's lock, and the HTTP server's threads want it: getting it back costs several times what
a small model takes. Requests share under the rules of `batching`, and only as many as make a run that is still short.
Nobody waits for company: a request that is ready alone runs in the next turn, one that is alone in the server at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from packager.server.execution import batching
from packager.server.execution.batching import Feeds, Policy, Run
from packager.server.protocol.protocol import Request
from packager.server.protocol.tensors import Array


class Member(NamedTuple):
    """A request that is ready. `limit` is how many bytes of requests may share its run."""

    feeds: Feeds
    rows: int
    size: int
    limit: int
    key: Hashable
    answer: asyncio.Future[Sequence[Array]]


class Turns:
    """The requests that wait for the next turn of one event loop; `told` hears how many shared a run."""

    def __init__(self, run: Run, policy: Policy, told: Callable[[int], None]) -> None:
        self._run, self._policy, self._told = run, policy, told
        self._members: deque[Member] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._members)

    async def run(self, request: Request, size: int, limit: int) -> Sequence[Array]:
        """Return what the runtime makes of a checked request of `size` bytes, or raise what it raises."""
        loop = self._loop
        if loop is None:  # asking for it costs a system call before Python 3.12
            loop = self._loop = asyncio.get_running_loop()
        key = (request.key or batching.key(request.feeds)) if request.rows < self._policy.most else None
        member = Member(request.feeds, request.rows, size, limit, key, loop.create_future())
        self._members.append(member)
        if len(self._members) == 1:
            loop.call_soon(self._turn, loop)
        return await member.answer

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one run; what is left has the next turn, after everything else that is ready by then."""
        members = self._take()
        if self._members:
            loop.call_soon(self._turn, loop)
        if len(members) > 1:
            self._told(len(members))
        for member, result in zip(members, batching.outcomes(self._run, members), strict=True):
            if member.answer.done():  # whoever asked is gone
                continue
            if isinstance(result, BaseException):
                member.answer.set_exception(result)
            else:
                member.answer.set_result(result)

    def _take(self) -> list[Member]:
        """Take the first request, and those behind it that may share its run."""
        first = self._members.popleft()
        members, rows, size = [first], first.rows, first.size
        if first.key is None:
            return members
        left: deque[Member] = deque()
        for member in self._members:
            if (
                member.key == first.key
                and rows + member.rows <= self._policy.most
                and size + member.size <= first.limit
            ):
                members.append(member)
                rows, size = rows + member.rows, size + member.size
            else:
                left.append(member)
        self._members = left
        return members
