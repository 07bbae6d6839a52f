# SPDX-License-Identifier: Apache-2.0
"""The simulated month against queueing theory: Erlang's waiting times, and what failures must not lose."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from tests.benchmarks.simulate_month import Cluster, simulate, working_hours


def erlang_wait(load: float, servers: int, service: float) -> float:
    """Return the mean wait of an M/M/c queue (Erlang C)."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last) * service / (servers - load)


@pytest.mark.parametrize(("nodes", "cores", "load"), [(1, 1, 0.6), (1, 4, 3.0), (2, 2, 3.0)])
def test_waits_are_erlangs(nodes: int, cores: int, load: float) -> None:
    rng, service = random.Random(4), 10.0
    time, arrivals = 0.0, []
    for _ in range(40_000):
        time += rng.expovariate(load / service)
        arrivals.append(time)
    found = simulate(arrivals, lambda: [rng.expovariate(1 / service)], Cluster(nodes, cores), rng)
    assert statistics.mean(found.waits) == pytest.approx(erlang_wait(load, nodes * cores, service), rel=0.1)
    assert found.share(Cluster(nodes, cores)) == pytest.approx(load / (nodes * cores), rel=0.03)


def test_failures_lose_nothing_and_repeat_one_task_each() -> None:
    rng = random.Random(5)
    arrivals = working_hours(300, 5, rng)
    cluster = Cluster(2, 2, between_failures=3600.0, repair=300.0)
    found = simulate(arrivals, lambda: [30.0, 60.0, 5.0], cluster, rng)
    assert len(found.turnarounds) == len(found.waits) == 300
    assert found.busy == pytest.approx(300 * 95 + found.repeated)
    assert 0 < found.repeated < 300 * 95 and min(found.turnarounds) >= 95 - 1e-6
