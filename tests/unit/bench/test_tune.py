# SPDX-License-Identifier: Apache-2.0
"""Objectives as people write them, what is tried, and how trials are scored and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from packager.bench.load import Load
from packager.bench.objective import Objective
from packager.bench.race import OutOfTimeError, Race, Trials, Values, list_candidates
from packager.canonical import JSON
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


def test_loads_are_compared_by_the_objective() -> None:
    most = Objective.parse("most throughput")
    assert most.compare([(FAST, SLOW)]) == pytest.approx(4 / 3), "four answers a second are more than three"
    bound = Objective.parse("p99 <= 5 ms")
    assert bound.compare([(FAST, SLOW)]) == 0, "beyond the limit is worse, however many answers"
    assert bound.compare([(SLOW, FAST)]) == math.inf
    assert bound.compare([(FAST, SLOW), (FAST, FAST), (FAST, FAST)]) == pytest.approx((4 / 3) ** (1 / 3)), (
        "once is noise"
    )
    nearer = Objective.parse("p99 <= 1 ms")
    assert nearer.compare([(SLOW, FAST)]) == pytest.approx(20 / 3), "of two beyond the limit, the nearer one"
    least = Objective.parse("least p50")
    assert least.compare([(SLOW, FAST)]) == pytest.approx(4)


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_candidates_are_within_the_bounds(cores: int) -> None:
    for name in ("runtime.threads", "server.processes", "server.workers", "batch.rows", "batch.window"):
        found = list_candidates(KNOBS[name], cores)
        assert found and all(map(KNOBS[name].allows, found))
    assert list_candidates(KNOBS["runtime.threads"], 6) == [1, 2, 4, 6]


def test_trials_survive_a_kill_and_belong_to_one_search(tmp_path: Path) -> None:
    path, identity = tmp_path / "trials", {"bundle": "sha256:1", "clients": 8}
    trials = Trials(path, identity)
    trials.add("a", 0, {"runtime.threads": 2}, FAST)
    trials.add("a", 0, {}, SLOW)
    trials.add("a", 1, {}, FAST)
    with path.open("ab") as file:
        file.write(b'{"race": "a", "lap": 1, "values": "{}", "millise')
    again = Trials(path, identity)
    assert len(again) == 2, "values, not laps"
    assert again.get("a", 0, {"runtime.threads": 2}) == FAST and again.get("a", 0, {}) == SLOW
    assert again.get("a", 1, {}) == FAST and again.get("b", 0, {}) is None
    assert len(Trials(path, {**identity, "clients": 9})) == 0, "loads of another search say nothing"


class Machine:
    """Answers of a server whose rate depends on knobs, on a machine that is busy now and then, and ever slower."""

    def __init__(self, seed: int, factors: Mapping[str, Mapping[JSON, float]], noise: float, drift: float) -> None:
        self.random, self.factors, self.noise, self.drift, self.measured = Random(seed), factors, noise, drift, 0

    def measure(self, values: Values) -> Load:
        factors = [self.factors[name].get(values.get(name, DEFAULTS[name]), 1.0) for name in self.factors]
        self.measured += 1
        rate = 300 * math.prod(factors) * math.exp(self.random.gauss(0, self.noise) - self.drift * self.measured)
        return Load(tuple([1000 / rate] * 30), 30 / rate) if rate else Load((), 1.0)


DEFAULTS = {"runtime.threads": 1, "server.processes": 1, "batch.rows": 64, "batch.window": 0}


def search(machine: Machine, path: Path, text: str = "most throughput") -> tuple[dict[str, JSON], Race]:
    race = Race(Objective.parse(text), Trials(path, {}), machine.measure, lambda _: None)
    return race.search([KNOBS[name] for name in DEFAULTS], DEFAULTS, 4), race


def test_a_gain_is_found_where_noise_and_drift_are_as_large(tmp_path: Path) -> None:
    """Four processes give 1.6 times as much; a lap varies by 15 %, and the machine loses half of its speed."""
    factors = {"server.processes": {2: 1.3, 4: 1.6}, "batch.rows": {1: 0.7, 2: 0.9}}
    found = [search(Machine(seed, factors, 0.15, 0.01), tmp_path / str(seed))[0] for seed in range(40)]
    assert sum(values.get("server.processes") == 4 for values in found) >= 35
    assert sum(values.get("batch.rows") in (1, 2) for values in found) <= 2


def test_where_nothing_is_better_little_is_changed(tmp_path: Path) -> None:
    """What noise proposes yet is for the proof to refuse; without noise nothing is proposed."""
    assert search(Machine(0, {}, 0.0, 0.02), tmp_path / "quiet")[0] == {}
    found = [search(Machine(seed, {}, 0.1, 0.0), tmp_path / str(seed))[0] for seed in range(40)]
    assert sum(len(values) for values in found) / len(found) < 1.8, "of four knobs; with one lap it is 2.6"


def test_a_value_without_an_answer_loses(tmp_path: Path) -> None:
    factors = {"server.processes": {2: 0.0, 4: 1.6}, "runtime.threads": {2: 0.0, 4: 0.0}}
    assert search(Machine(0, factors, 0.0, 0.0), tmp_path / "t")[0] == {"server.processes": 4}


def test_a_search_that_is_repeated_measures_nothing_again(tmp_path: Path) -> None:
    machine = Machine(3, {"server.processes": {2: 1.3}}, 0.1, 0.0)
    first, race = search(machine, tmp_path / "t")
    measured = machine.measured
    assert search(machine, tmp_path / "t")[0] == first and machine.measured == measured
    assert len(race.trials) < measured, "values are measured several times"


def test_a_search_whose_time_is_over_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    class Hurried(Machine):
        def measure(self, values: Values) -> Load:
            if self.measured == 25:
                raise OutOfTimeError
            return super().measure(values)

    factors = {"server.processes": {2: 1.3}, "batch.rows": {128: 1.5}}
    found, race = search(Hurried(0, factors, 0.0, 0.0), tmp_path / "t")
    assert race.late and found == {"server.processes": 2}
    machine = Machine(0, factors, 0.0, 0.0)
    found, race = search(machine, tmp_path / "t")
    assert not race.late and found == {"server.processes": 2, "batch.rows": 128}
    machine_alone = Machine(0, factors, 0.0, 0.0)
    search(machine_alone, tmp_path / "alone")
    assert machine.measured == machine_alone.measured - 25
