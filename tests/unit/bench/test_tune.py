# SPDX-License-Identifier: Apache-2.0
"""Objectives as people write them, what is tried, and how trials are scored and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.bench.load import Load
from packager.bench.tune import Objective, _Trials, list_candidates
from packager.errors import UsageError
from packager.server.knobs import BATCH_KNOBS, SERVING_KNOBS

KNOBS = {knob.name: knob for knob in (*BATCH_KNOBS, *SERVING_KNOBS)}
FAST, SLOW = Load((1.0, 2.0, 3.0), 1.0), Load((4.0, 8.0, 9.0, 20.0), 1.0)


@pytest.mark.parametrize(
    ("text", "goal", "bound", "limit"),
    [
        ("most throughput", "throughput", None, float("inf")),
        ("p99 <= 5 ms", "throughput", "p99", 5.0),
        ("p99<=2.5ms,  most throughput", "throughput", "p99", 2.5),
        ("p95 <= 9 ms, least p50", "p50", "p95", 9.0),
        ("least p99", "p99", None, float("inf")),
    ],
)
def test_objectives(text: str, goal: str, bound: str | None, limit: float) -> None:
    found = Objective.parse(text)
    assert (found.goal, found.bound, found.limit) == (goal, bound, limit)


@pytest.mark.parametrize("text", ["", "fast", "p99 < 5 ms", "p99 <= 5", "p42 <= 5 ms", "most throughput, p99 <= 5 ms"])
def test_what_is_no_objective_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        Objective.parse(text)


def test_scores() -> None:
    most = Objective.parse("most throughput")
    assert most.score(SLOW) > most.score(FAST), "four answers a second are more than three"
    bound = Objective.parse("p99 <= 5 ms")
    assert bound.score(FAST) > 0 > bound.score(SLOW), "beyond the limit is worse, however many answers"
    least = Objective.parse("least p50")
    assert least.score(FAST) > least.score(SLOW)


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_candidates_are_within_the_bounds(cores: int) -> None:
    for name in ("runtime.threads", "server.processes", "server.workers", "batch.rows", "batch.window"):
        found = list_candidates(KNOBS[name], cores)
        assert found and all(map(KNOBS[name].allows, found))
    assert list_candidates(KNOBS["runtime.threads"], 6) == [1, 2, 4, 6]


def test_trials_survive_a_kill_and_belong_to_one_search(tmp_path: Path) -> None:
    path, identity = tmp_path / "trials", {"bundle": "sha256:1", "clients": 8}
    trials = _Trials(path, identity)
    trials.add({"runtime.threads": 2}, FAST)
    trials.add({}, SLOW)
    with path.open("ab") as file:
        file.write(b'{"values": "{}", "millise')
    again = _Trials(path, identity)
    assert len(again) == 2 and again.get({"runtime.threads": 2}) == FAST and again.get({}) == SLOW
    assert len(_Trials(path, {**identity, "clients": 9})) == 0, "loads of another search say nothing"
