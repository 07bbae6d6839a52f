# SPDX-License-Identifier: Apache-2.0
"""Let several answers share the runs of one decoder: the next tokens of all of them are found in one run.

A run costs reading the weights, whether for one row or for eight. Each answer has a thread of its own, which calls
`step`; one of those that wait runs for all. Answers come and go at every step. Rows are padded on the left to the
longest, and masked there; caches stay together for as long as the same answers go on. Answers of different adapters do
not share a run.

Rounding differs by the number of rows, so that another token is possible where two are equally likely to within some
1e-6. `independent` tests whether a decoder keeps its rows apart at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.server.generation.decoder import Cache, Steps, Weights

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
_SPREAD = 2  # rows of one run differ in length by this factor at most, so that padding at most doubles the memory
_PATIENCE = 0.25  # of the last run's time, how long a run waits for answers that are choosing their token
_LEAST = 0.002  # seconds of that, at least
_TOLERANCE = 1e-3


def _ignore(rows: int, seconds: float) -> None:
    pass


@dataclass(slots=True, eq=False)
class Row:
    """The cache of one answer: by itself, or at `place` in that of a group."""

    cache: Cache
    group: _Group | None = None
    place: int = 0
    started: bool = False  # whether it makes tokens, and not its prompt any more

    @property
    def length(self) -> int:
        return self.cache.length if self.group is None else int(self.group.cache.mask[self.place].sum())

    @property
    def adapter(self) -> Weights | None:
        return self.cache.adapter if self.group is None else self.group.cache.adapter


@dataclass(slots=True, eq=False)
class _Group:
    """Rows whose caches are together."""

    rows: list[Row]
    cache: Cache


@dataclass(slots=True, eq=False)
class _Ticket:
    """A step that waits for its run."""

    row: Row
    token: int
    done: bool = False
    found: Logits | None = None
    error: BaseException | None = field(default=None)


class SharedSteps:
    """A decoder whose runs several threads share; each row belongs to one thread."""

    batches = False  # each caller has one row; putting rows together is done here

    def __init__(
        self, decoder: Steps, most: int, prompts: int = 1, on_run: Callable[[int, float], None] = _ignore
    ) -> None:
        """Share the runs of a decoder among at most `most` rows; `on_run` is called with rows and seconds of each.

        Of prompts, `prompts` run at once, each by itself: more would keep the answers waiting.
        """
        self._decoder, self._most, self._on_run = decoder, most, on_run
        self._prompts = threading.Semaphore(prompts)
        self._change = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._active = 0
        self._running = False
        self._last = 0.0

    def empty(self, batch: int = 1, adapter: Weights | None = None) -> Row:
        """Return the cache of no tokens. Raises ValueError for more than one row."""
        if batch != 1:
            raise ValueError("a caller has one row here")
        return Row(self._decoder.empty(1, adapter))

    def leave(self, cache: Row) -> None:
        """Forget a cache: its answer is over."""
        with self._change:
            self._active -= cache.started
            cache.started = False
            self._change.notify_all()

    def step(self, ids: Ids, cache: Row, mask: Ids | None = None) -> Logits:
        """Append tokens [1, sequence] to a cache; return their logits. One token goes together with those of others."""
        if ids.shape != (1, 1) or mask is not None:
            with self._prompts:
                _separate(cache)
                return self._decoder.step(ids, cache.cache, mask)
        ticket = _Ticket(cache, int(ids[0, 0]))
        with self._change:
            self._active += not cache.started
            cache.started = True
            self._waiting.append(ticket)
            self._change.notify_all()
        while self._leads(ticket):
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        if ticket.found is None:
            raise RuntimeError("a step has no result")
        return ticket.found

    def _leads(self, ticket: _Ticket) -> bool:
        """Wait for the result of a step; return True if it is this thread's turn to run what waits."""
        with self._change:
            while not ticket.done and self._running:
                self._change.wait()
            self._running = self._running or not ticket.done
            return not ticket.done

    def _lead(self) -> None:
        """Run steps that wait, which need not include one's own; then another thread leads."""
        tickets: list[_Ticket] = []
        try:
            tickets = self._gathered()
            started = time.perf_counter()
            self._run(tickets)
            self._last = time.perf_counter() - started
            self._on_run(len(tickets), self._last)
        except BaseException as error:
            for ticket in tickets:
                ticket.error = error
        finally:
            with self._change:
                for ticket in tickets:
                    ticket.done = True
                self._running = False
                self._change.notify_all()

    def _gathered(self) -> list[_Ticket]:
        """Return the steps of the next run: the one that waits longest, and those like it.

        They have a similar length and the same adapter.
        """
        until = time.perf_counter() + max(_LEAST, self._last * _PATIENCE)
        with self._change:
            while len(self._waiting) < min(self._active, self._most):
                left = until - time.perf_counter()
                if left <= 0:
                    break
                self._change.wait(left)
            chosen: list[_Ticket] = []
            low = high = self._waiting[0].row.length
            adapter = self._waiting[0].row.adapter
            for ticket in self._waiting:
                length = ticket.row.length
                if ticket.row.adapter is not adapter:
                    continue
                if len(chosen) < self._most and max(high, length) <= _SPREAD * min(low, length):
                    low, high = min(low, length), max(high, length)
                    chosen.append(ticket)
            self._waiting = [ticket for ticket in self._waiting if ticket not in chosen]
            return chosen

    def _run(self, tickets: Sequence[_Ticket]) -> None:
        rows = [ticket.row for ticket in tickets]
        ids = np.array([[ticket.token] for ticket in tickets], np.int64)
        if len(rows) == 1:
            _separate(rows[0])
            tickets[0].found = self._decoder.step(ids, rows[0].cache)
            return
        group = rows[0].group
        if group is None or len(group.rows) != len(rows) or any(row.group is not group for row in rows):
            group = _together(rows)
        order = [row.place for row in rows]
        placed = np.empty_like(ids)
        placed[order] = ids
        logits = self._decoder.step(placed, group.cache)
        for ticket, place in zip(tickets, order, strict=True):
            ticket.found = logits[place : place + 1]


def _together(rows: Sequence[Row]) -> _Group:
    """Put the caches of rows together, padded on the left; each row leaves the group it was in."""
    apart, adapter = [_values(row) for row in rows], rows[0].adapter
    longest = max(mask.shape[1] for _, mask in apart)
    values = {}
    for name in apart[0][0]:
        batch, heads, _, size = apart[0][0][name].shape
        whole = np.zeros((batch * len(rows), heads, longest, size), apart[0][0][name].dtype)
        for place, (own, mask) in enumerate(apart):
            whole[place, :, longest - mask.shape[1] :] = own[name][0]
        values[name] = whole
    masks = np.zeros((len(rows), longest), np.int64)
    for place, (_, mask) in enumerate(apart):
        masks[place, longest - mask.shape[1] :] = mask[0]
    for row in rows:
        _release(row)
    group = _Group(list(rows), Cache(values, masks, adapter))
    for place, row in enumerate(rows):
        row.group, row.place, row.cache = group, place, Cache()
    return group


def _values(row: Row) -> tuple[dict[str, NDArray[Any]], Ids]:
    """Return the cache of a row without padding: values [1, heads, length, size] by name, and its mask."""
    if row.group is None:
        return row.cache.values, row.cache.mask
    cache, place = row.group.cache, slice(row.place, row.place + 1)
    start = cache.length - row.length
    return {name: value[place, :, start:] for name, value in cache.values.items()}, cache.mask[place, start:]


def _separate(row: Row) -> None:
    """Take a row out of its group, with a copy of its cache."""
    if row.group is not None:
        values, mask = _values(row)
        row.cache = Cache({name: value.copy() for name, value in values.items()}, mask.copy(), row.adapter)
        _release(row)


def _release(row: Row) -> None:
    """Take a row out of its group; the others go on in it as they are until the next run puts them together anew."""
    row.group, row.place = None, 0


def independent(decoder: Steps, tokens: Sequence[int]) -> bool:
    """Return whether rows of a batch have the logits that they have alone. Raises what the runtime raises."""
    half = len(tokens) // 3
    prompts = [np.array([part], np.int64) for part in (tokens[:half], tokens[half:])]
    alone, rows = [], []
    for ids in prompts:
        cache = decoder.empty()
        decoder.step(ids, cache)
        rows.append(Row(Cache(dict(cache.values), cache.mask)))
        alone.append(decoder.step(ids[:, -1:], cache)[0, -1])
    found = decoder.step(np.concatenate([ids[:, -1:] for ids in prompts]), _together(rows).cache)[:, -1]
    return bool(np.allclose(np.stack(alone), found, rtol=_TOLERANCE, atol=_TOLERANCE))
