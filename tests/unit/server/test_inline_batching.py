# SPDX-License-Identifier: Apache-2.0
"""Requests of one iteration of the event loop share a run, within limits, without an effect on their answers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.server.execution.batching import BatchPolicy
from packager.server.execution.inline_batching import InlineBatcher
from packager.server.protocol.protocol import Request

WANTED = 100  # bytes that may share a run


class Doubler:
    """A runtime that doubles, remembers how many rows it got, and refuses the number 13."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, feeds):
        self.sizes.append(len(feeds["x"]))
        if (feeds["x"] == 13).any():
            raise ValueError("thirteen")
        return [feeds["x"] * 2, feeds["x"].sum(axis=1)]


def request(*values: float, width: int = 2) -> Request:
    return Request(None, {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}, (), len(values))


async def run_one(batcher: InlineBatcher, one: Request, size: int = 10):
    return [array.tolist() for array in await batcher.run(one, size, WANTED)]


def run_all(batcher: InlineBatcher, *requests: Request, size: int = 10) -> list:
    async def scenario():
        return await asyncio.gather(*(run_one(batcher, one, size) for one in requests), return_exceptions=True)

    return asyncio.run(scenario())


def answer(one: Request) -> list:
    x = one.feeds["x"]
    return [(x * 2).tolist(), x.sum(axis=1).tolist()]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(1, 3)), max_size=12),
    st.integers(1, 8),
)
def test_each_request_gets_its_rows_and_runs_stay_bounded(values, most):
    run, shared = Doubler(), []
    requests = [request(*numbers, width=width) for numbers, width in values]
    assert run_all(InlineBatcher(run, BatchPolicy(most), shared.append), *requests) == [answer(one) for one in requests]
    assert sum(run.sizes) == sum(one.rows for one in requests)
    assert all(size <= max(most, 3) for size in run.sizes)
    assert all(count > 1 for count in shared)


def test_requests_ready_together_share_a_run_in_order():
    run, shared = Doubler(), []
    assert (
        len(run_all(InlineBatcher(run, BatchPolicy(64), shared.append), *(request(index) for index in range(8)))) == 8
    )
    assert (run.sizes, shared) == ([8], [8])


def test_run_is_bounded_by_bytes():
    run = Doubler()
    run_all(InlineBatcher(run, BatchPolicy(64), lambda count: None), *(request(index) for index in range(8)), size=30)
    assert run.sizes == [3, 3, 2]


def test_event_loop_runs_between_two_runs():
    run, order = Doubler(), []

    async def scenario():
        batcher = InlineBatcher(lambda feeds: order.append("run") or run(feeds), BatchPolicy(64), lambda count: None)
        tasks = [asyncio.create_task(run_one(batcher, request(index), 60)) for index in range(3)]
        await asyncio.sleep(0)

        async def other():
            for _ in range(8):
                order.append("other")
                await asyncio.sleep(0)

        await asyncio.gather(*tasks, other())

    asyncio.run(scenario())
    first, last = order.index("run"), len(order) - order[::-1].index("run")
    assert order[first:last].count("run") == 3
    assert "other" in order[first:last]


def test_failing_request_fails_alone():
    run = Doubler()
    found = run_all(InlineBatcher(run, BatchPolicy(64), lambda count: None), request(1), request(13), request(2))
    assert found[0] == answer(request(1)) and found[2] == answer(request(2))
    assert isinstance(found[1], ValueError)
    assert run.sizes == [3, 1, 1, 1]


def test_cancelled_request_cancels_no_other():
    async def scenario():
        batcher = InlineBatcher(Doubler(), BatchPolicy(64), lambda count: None)
        tasks = [asyncio.create_task(run_one(batcher, request(index))) for index in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(scenario())
    assert isinstance(found[1], asyncio.CancelledError)
    assert (found[0], found[2]) == (answer(request(0)), answer(request(2)))


def test_wrong_row_count_falls_back_to_single_runs():
    sizes = []

    def run(feeds):
        sizes.append(len(feeds["x"]))
        return [feeds["x"].sum(keepdims=True)]

    found = run_all(InlineBatcher(run, BatchPolicy(64), lambda count: None), request(1), request(2))
    assert found == [[[[2.0]]], [[[4.0]]]]
    assert sizes == [2, 1, 1]


def test_error_reaches_only_its_request():
    with pytest.raises(ValueError, match="thirteen"):
        asyncio.run(run_one(InlineBatcher(Doubler(), BatchPolicy(64), lambda count: None), request(13)))
