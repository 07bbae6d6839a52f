# SPDX-License-Identifier: Apache-2.0
"""Intervals against scipy's own, how often equals are called different, percentiles against numpy's."""

from __future__ import annotations

import random

import numpy as np
import pytest

from packager.bench.load import Load
from packager.bench.statistics import estimate_interval, estimate_ratio, judge

scipy_stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("count", [2, 3, 5, 12, 31])
def test_the_interval_is_students(count: int) -> None:
    samples = np.random.default_rng(count).lognormal(3, 0.2, count)
    logs = np.log(samples)
    low, high = scipy_stats.t.interval(0.95, count - 1, logs.mean(), scipy_stats.sem(logs))
    found = estimate_interval(list(samples))
    assert found.mean == pytest.approx(scipy_stats.gmean(samples))
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)), rel=1e-3)


def test_equals_are_called_different_in_five_of_a_hundred() -> None:
    rng, wrong, times = random.Random(1), 0, 2000
    for _ in range(times):
        rounds = [rng.lognormvariate(0, 0.3) for _ in range(5)]  # what both share: the machine at that moment
        first, second = ([value * rng.lognormvariate(0, 0.05) for value in rounds] for _ in range(2))
        wrong += judge(estimate_ratio(first, second), more_is_better=True) != "no difference shown"
    assert 0.035 < wrong / times < 0.065


def test_a_difference_is_found_in_the_noise_of_the_machine() -> None:
    rng, found = random.Random(2), []
    for _ in range(200):
        rounds = [rng.lognormvariate(0, 0.3) for _ in range(5)]
        second = [value * 1.3 * rng.lognormvariate(0, 0.05) for value in rounds]
        found.append(judge(estimate_ratio(rounds, second), more_is_better=True))
    assert found.count("faster") > 190 and "slower" not in found
    assert judge(estimate_ratio([1.0, 1.0, 1.1], [2.0, 2.1, 2.0]), more_is_better=False) == "slower"
    assert judge(estimate_ratio([1.0], [9.0]), more_is_better=True) == "no difference shown", "one round shows nothing"


def test_percentiles_are_the_nearest_rank() -> None:
    values = sorted(np.random.default_rng(3).exponential(5, 997))
    load = Load(tuple(values), 2.0)
    for share in (0.5, 0.95, 0.99, 1.0):
        assert load.percentile(share) == np.percentile(values, share * 100, method="inverted_cdf")
    assert load.rate == 997 / 2
