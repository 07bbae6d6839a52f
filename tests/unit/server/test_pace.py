# SPDX-License-Identifier: Apache-2.0
"""Requests that are ready at once do not keep a probe that comes later waiting for all of them."""

from __future__ import annotations

import asyncio
import time

import pytest

from packager.server.http.pace import Pace
from packager.server.process import event_loop


@pytest.mark.parametrize("make", [asyncio.new_event_loop, event_loop.new_event_loop])
def test_probe_overtakes_waiting_requests(make) -> None:
    done: list[object] = []

    async def request(pace: Pace, index: int) -> None:
        await pace.wait()
        time.sleep(0.002)
        done.append(index)

    async def probe() -> None:
        done.append("probe")

    async def run() -> None:
        pace = Pace()
        requests = [asyncio.ensure_future(request(pace, index)) for index in range(60)]
        await asyncio.sleep(0)
        await asyncio.gather(*requests, asyncio.ensure_future(probe()))

    loop = make()
    loop.run_until_complete(run())
    loop.close()
    assert done.index("probe") <= 8
    assert sorted(item for item in done if item != "probe") == list(range(60))


def test_cancelled_waiter_blocks_no_other() -> None:
    async def run() -> int:
        pace, done = Pace(), 0

        async def request() -> None:
            nonlocal done
            await pace.wait()
            time.sleep(0.003)
            done += 1

        requests = [asyncio.ensure_future(request()) for _ in range(30)]
        await asyncio.sleep(0)
        for gone in requests[10:20]:
            gone.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        return done

    assert asyncio.run(run()) >= 20
