# SPDX-License-Identifier: Apache-2.0
"""Batch queued requests: those that queued during the last run share the next one, as far as that is allowed.

Requests share a run if the first dimension of every input and output is the same free one in the interface, if they
agree in every other size, and if warm-up found that the answer to a row does not depend on the rows beside it. The sum
of their rows stays in the range of that dimension. A shared run that fails is repeated one request at a time, so that
no request fails because of another one's values. Without a window no request waits to be batched: an idle server runs
it at once.

Requests that were cancelled, or passed their deadline, while they waited are never run.

`inline_batching` shares short runs in the event loop by the same rules.
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


class RunObserver(Protocol):
    """Gets every run: the seconds that each of its requests waited."""

    def count_run(self, waited: Sequence[float]) -> None: ...


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How to batch: `max_rows` of one run, 1 for never; `window`: seconds a request waits to be batched."""

    max_rows: int = 1
    window: float = 0.0


def max_batch_rows(interface: Interface) -> int:
    """Return how many rows one run may have: 1 unless one free dimension leads every input and every output."""
    firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in (*interface.inputs, *interface.outputs)}
    name = firsts.pop() if len(firsts) == 1 else 0
    if not isinstance(name, str):
        return 1
    ports = (*interface.inputs, *interface.outputs)
    if any(name in tensor.shape[1:] for tensor in ports):  # a matrix of rows by rows is no batch
        return 1
    return interface.measured_range(name).maximum or 1


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
        """Take the job for a run; False if its client no longer waits."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            if self.answer.set_running_or_notify_cancel():
                self.answer.set_exception(deadline_error())
            return False
        return self.answer.set_running_or_notify_cancel()


def deadline_error() -> RequestError:
    """Return the refusal of a request whose deadline has passed."""
    return RequestError("the deadline of this request has passed", status=504)


class Batcher:
    """A queue and the threads that empty it. `run` is called from `threads` threads."""

    def __init__(self, run: Run, threads: int, policy: BatchPolicy, observer: RunObserver) -> None:
        self._run, self._policy, self._observer = run, policy, observer
        self._queue: deque[Job] = deque()
        self._idle = 0
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._queue)

    def submit(self, feeds: Feeds, rows: int, deadline: float | None = None) -> Future[Sequence[Array]]:
        """Queue a checked request; the future has the results in the runtime's order, or the runtime's exception."""
        shared = rows < self._policy.max_rows
        job = Job(feeds, rows, batch_key(feeds) if shared else None, deadline)
        with self._changed:
            self._queue.append(job)
            self._changed.notify_all() if self._policy.window else self._changed.notify()
        return job.answer

    def _work(self) -> None:
        while True:
            jobs = [job for job in self._take_batch() if job.claim()]
            if jobs:
                now = time.monotonic()
                self._observer.count_run([now - job.arrived for job in jobs])
                self._run_batch(jobs)

    def _take_batch(self) -> list[Job]:
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
                if left <= 0 or sum(job.rows for job in jobs) >= self._policy.max_rows:
                    break
                self._changed.wait(left)
        return jobs

    def _gather(self, jobs: list[Job]) -> None:
        """Move the jobs that may share the run to `jobs`, in order; idle threads get their part of the queue."""
        share = -(-(len(self._queue) + 1) // (self._idle + 1))
        rows = sum(job.rows for job in jobs)
        left: deque[Job] = deque()
        while self._queue:
            job = self._queue.popleft()
            if len(jobs) < share and job.key == jobs[0].key and rows + job.rows <= self._policy.max_rows:
                jobs.append(job)
                rows += job.rows
            else:
                left.append(job)
        self._queue = left

    def _run_batch(self, jobs: list[Job]) -> None:
        for job, result in zip(jobs, run_together(self._run, jobs), strict=True):
            if isinstance(result, BaseException):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)


class Batchable(Protocol):
    """A request that may share a run."""

    @property
    def feeds(self) -> Feeds: ...
    @property
    def rows(self) -> int: ...


def run_together(run: Run, requests: Sequence[Batchable]) -> Iterator[Sequence[Array] | BaseException]:
    """Run requests together, or one by one if that fails; yield the results or the runtime's error of each."""
    if len(requests) > 1:
        try:
            parts = _split(run(_concatenate(requests)), [one.rows for one in requests])
        except Exception:  # running each by itself shows which one failed
            parts = None
        if parts is not None:
            yield from parts
            return
    for one in requests:
        try:
            result: Sequence[Array] | BaseException = run(dict(one.feeds))
        except BaseException as error:  # raised where the answer is awaited
            result = error
        yield result


def batch_key(feeds: Feeds) -> Hashable:
    """Return the names, types and sizes in which requests that share a run agree."""
    return tuple(sorted((name, array.dtype.char, array.shape[1:]) for name, array in feeds.items()))


def _concatenate(jobs: Sequence[Batchable]) -> dict[str, Array]:
    return {name: np.concatenate([job.feeds[name] for job in jobs]) for name in jobs[0].feeds}


def _split(results: Sequence[Array], rows: Sequence[int]) -> list[list[Array]] | None:
    """Return the results of each request, None if their rows are not those of the requests."""
    if any(not array.ndim or len(array) != sum(rows) for array in results):
        return None
    ends = np.cumsum(rows).tolist()
    return [[array[end - size : end] for array in results] for end, size in zip(ends, rows, strict=True)]


def rows_are_independent(run: Run, one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Return whether two requests of one row have the same results together as alone, but for rounding.

    Law: an answer does not depend on other requests. Raises what the runtime raises.
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
