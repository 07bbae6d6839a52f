# SPDX-License-Identifier: Apache-2.0
"""Many blocks share one timer; each expires when a separate timer would."""

from __future__ import annotations

import asyncio
import time

import pytest

from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.process import event_loop


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request):
    loop = event_loop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    assert type(loop).__module__.startswith(request.param)
    yield loop.run_until_complete
    loop.close()


async def waiting(timeout: SharedTimeout, seconds: float) -> float | None:
    """Return after how long a wait was ended, None if it was not."""
    began = time.monotonic()
    try:
        with timeout.start():
            await asyncio.sleep(seconds)
    except TimeoutError:
        return time.monotonic() - began
    return None


def test_block_expires_only_after_its_limit(run):
    async def scenario():
        timeout = SharedTimeout(0.2)
        later = [(asyncio.sleep(index * 0.03)) for index in range(10)]

        async def one(pause, seconds):
            await pause
            return await waiting(timeout, seconds)

        return await asyncio.gather(*(one(pause, 0.02 if index % 2 else 5) for index, pause in enumerate(later)))

    found = run(asyncio.wait_for(scenario(), 10))
    assert all(took is None for took in found[1::2])
    assert all(0.19 < took < 4.5 for took in found[0::2])


def test_many_blocks_share_one_timer_and_leave_none(run):
    async def scenario():
        timeout = SharedTimeout(0.1)
        tasks = [asyncio.create_task(waiting(timeout, 0.01 * index)) for index in range(5)]
        assert await asyncio.gather(*tasks) == [None] * 5
        assert not timeout._blocks
        await asyncio.sleep(0.2)
        assert timeout._timer is None
        assert await waiting(timeout, 5) is not None  # it can be used again

    run(asyncio.wait_for(scenario(), 10))


def test_task_cancelled_from_elsewhere_stays_cancelled(run):
    async def scenario():
        task = asyncio.create_task(waiting(SharedTimeout(10), 5))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(asyncio.wait_for(scenario(), 10))


def test_task_continues_after_its_block_expired(run):
    async def scenario():
        assert await waiting(SharedTimeout(0.05), 5) is not None
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        return task is not None and task.cancelling()

    assert run(asyncio.wait_for(scenario(), 10)) == 0


def test_error_inside_the_block_is_raised(run):
    async def scenario():
        with SharedTimeout(10).start():
            raise KeyError("mine")

    with pytest.raises(KeyError):
        run(scenario())
