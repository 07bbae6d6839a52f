# SPDX-License-Identifier: Apache-2.0
"""Runs that wait their turn: what queued while the last run was busy becomes one run, as far as that is allowed.

Requests share a run where the interface says that the first dimension of every input and output is one and the same
free one, where they agree in every other size, and where warm-up saw that a row's answer does not depend on the rows
beside it. The sum of their rows stays in the range of that dimension. A shared run that fails is repeated one request
at a time, so that nobody gets an error for a neighbour's values. Without a window nobody waits for company: an idle
server runs a request at once.

What was cancelled, or is past its deadline, while it waited is never run.

`turns` shares short runs in the event loop by the same rules.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from packager.server.errors import RequestError
from packager.server.protocol.interface import Interface
from packager.server.protocol.tensors import Array

Feeds = Mapping[str, Array]
Run = Callable[[dict[str, Array]], Sequence[Array]]


class Watcher(Protocol):
    """Who is told of every run: how long its requests waited, in seconds, and how many they were."""

    def ran(self, waited: Sequence[float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How to batch: `most` rows of one run, 1 for never; `window` seconds to wait for company."""

    most: int = 1
    window: float = 0.0


def most_rows(interface: Interface) -> int:
    """Return how many rows one run may have: 1 unless one free dimension leads every input and every output."""
    firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in (*interface.inputs, *interface.outputs)}
    name = firsts.pop() if len(firsts) == 1 else 0
    if not isinstance(name, str):
        return 1
    ports = (*interface.inputs, *interface.outputs)
    if any(name in tensor.shape[1:] for tensor in ports):  # a matrix of rows by rows is no batch
        return 1
    return interface.run(name).maximum or 1


@dataclass(slots=True)
class Job:
    """A request that waits. `deadline` is on the monotonic clock; `key` None never shares a run."""

    feeds: Feeds
    rows: int
    key: Hashable
    deadline: float | None
    answer: Future[Sequence[Array]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def claim(self) -> bool:
        """Take the job for a run; False if nobody waits for it any more."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            if self.answer.set_running_or_notify_cancel():
                self.answer.set_exception(late())
            return False
        return self.answer.set_running_or_notify_cancel()


def late() -> RequestError:
    """Return the refusal of a request whose deadline has passed."""
    return RequestError("the deadline of this request has passed", status=504)


class Batcher:
    """A queue and the threads that empty it. `run` is called from `threads` threads."""

    def __init__(self, run: Run, threads: int, policy: Policy, watcher: Watcher) -> None:
        self._run, self._policy, self._watcher = run, policy, watcher
        self._queue: deque[Job] = deque()
        self._idle = 0
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def stop_batching(self) -> None:
        """Run every request by itself from now on."""
        self._policy = Policy()

    def submit(self, feeds: Feeds, rows: int, deadline: float | None = None) -> Future[Sequence[Array]]:
        """Queue a checked request; the future gives the results in the runtime's order, or what the runtime raised."""
        shared = rows < self._policy.most
        job = Job(feeds, rows, key(feeds) if shared else None, deadline)
        with self._changed:
            self._queue.append(job)
            self._changed.notify_all() if self._policy.window else self._changed.notify()
        return job.answer

    def _work(self) -> None:
        while True:
            jobs = [job for job in self._take() if job.claim()]
            if jobs:
                now = time.monotonic()
                self._watcher.ran([now - job.arrived for job in jobs])
                self._perform(jobs)

    def _take(self) -> list[Job]:
        """Wait for the next request and those that share its run."""
        with self._changed:
            self._idle += 1
            while not self._queue:
                self._changed.wait()
            self._idle -= 1
            jobs = [self._queue.popleft()]
            end = jobs[0].arrived + self._policy.window
            while jobs[0].key is not None:
                self._gather(jobs)
                left = end - time.monotonic()
                if left <= 0 or sum(job.rows for job in jobs) >= self._policy.most:
                    break
                self._changed.wait(left)
        return jobs

    def _gather(self, jobs: list[Job]) -> None:
        """Move to `jobs` what may share its run, in order; threads that are idle get their part of the queue."""
        share = -(-(len(self._queue) + 1) // (self._idle + 1))
        rows = sum(job.rows for job in jobs)
        left: deque[Job] = deque()
        while self._queue:
            job = self._queue.popleft()
            if len(jobs) < share and job.key == jobs[0].key and rows + job.rows <= self._policy.most:
                jobs.append(job)
                rows += job.rows
            else:
                left.append(job)
        self._queue = left

    def _perform(self, jobs: list[Job]) -> None:
        for job, result in zip(jobs, outcomes(self._run, jobs), strict=True):
            if isinstance(result, BaseException):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)


class Asked(Protocol):
    """A request that may share a run."""

    @property
    def feeds(self) -> Feeds: ...
    @property
    def rows(self) -> int: ...


def outcomes(run: Run, asked: Sequence[Asked]) -> Iterator[Sequence[Array] | BaseException]:
    """Run requests together, or one by one where that fails: yield what each gets, results or the runtime's error."""
    if len(asked) > 1:
        try:
            parts = _split(run(_joined(asked)), [one.rows for one in asked])
        except Exception:  # whose fault it was shows when each runs by itself
            parts = None
        if parts is not None:
            yield from parts
            return
    for one in asked:
        try:
            result: Sequence[Array] | BaseException = run(dict(one.feeds))
        except BaseException as error:  # carried to whoever waits for the answer
            result = error
        yield result


def key(feeds: Feeds) -> Hashable:
    """Return what requests that share a run have in common."""
    return tuple(sorted((name, array.dtype.char, array.shape[1:]) for name, array in feeds.items()))


def _joined(jobs: Sequence[Asked]) -> dict[str, Array]:
    return {name: np.concatenate([job.feeds[name] for job in jobs]) for name in jobs[0].feeds}


def _split(results: Sequence[Array], rows: Sequence[int]) -> list[list[Array]] | None:
    """Return the results of each request, None if their rows are not those of the requests."""
    if any(not array.ndim or len(array) != sum(rows) for array in results):
        return None
    ends = np.cumsum(rows).tolist()
    return [[array[end - size : end] for array in results] for end, size in zip(ends, rows, strict=True)]


def independent(run: Run, one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Tell whether two requests of one row get together what each gets alone, but for rounding.

    Law this guards: an answer depends on nobody else's request. Raises what the runtime raises.
    """
    together = run({name: np.concatenate([one[name], other[name]]) for name in one})
    parts = _split(together, [1, 1])
    if parts is None:
        return False
    alone = (run(one), run(other))
    return all(
        _alike(got, want)
        for part, wanted in zip(parts, alone, strict=True)
        for got, want in zip(part, wanted, strict=True)
    )


def _alike(got: Array, want: Array) -> bool:
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if got.dtype.kind != "f":
        return bool(np.array_equal(got, want))
    loose: Any = 1e-2 if got.dtype == np.float16 else 1e-4
    return bool(np.allclose(got, want, rtol=loose, atol=loose, equal_nan=True))
