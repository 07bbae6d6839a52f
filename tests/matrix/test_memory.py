# SPDX-License-Identifier: Apache-2.0
"""The memory that a contract states, beside what processes took: within 20 %, and no host that could run it refused."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import bench_memory

ROWS = json.loads(bench_memory.RECORD.read_text())


@pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])
def test_what_was_measured_lies_within_the_bounds(row: dict[str, float]) -> None:
    least, peak, most = bench_memory.bounds_of(row)
    assert row["running"] >= least, "a host that is refused could run it"
    assert row["unknown"] == 0, "a value whose size is not stated"
    assert 0.8 * peak <= row["running"] <= 1.2 * peak
    assert max(row["loading"], row["running"]) <= most + (512 << 20), "a deployment would be killed"
    assert row["running"] <= most


def test_models_are_many_and_differ() -> None:
    assert len(ROWS) >= 20 and [row["model"] for row in ROWS] == list(bench_memory.MODELS)


def test_the_page_is_that_of_the_record() -> None:
    assert bench_memory.table(ROWS) in bench_memory.PAGE.read_text()
