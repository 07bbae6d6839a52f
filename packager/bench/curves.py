# SPDX-License-Identifier: Apache-2.0
"""Latency and throughput over the number of clients, of one installation or of two in turn, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from packager.bench.measure import Plan, Round, Subject, measure_round
from packager.bench.statistics import Interval, Verdict, estimate_interval, estimate_ratio, judge
from packager.canonical import JSON
from packager.events import Note, OnEvent, ignore

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MEASURES: Mapping[str, tuple[Callable[[Round], float], bool]] = {
    "latency": (lambda found: _mean(load.percentile(0.5) for load in found.loads.values()), False),
    "tail latency": (lambda found: _mean(load.percentile(0.99) for load in found.loads.values()), False),
    "throughput": (lambda found: _mean(load.rate for load in found.loads.values()), True),
    "cold start": (lambda found: found.cold_start, False),
    "memory": (lambda found: float(found.memory), False),
}
"""What two are compared by: the value of one round (over all loads: the geometric mean), and whether more is better."""


@dataclass(frozen=True, slots=True)
class Curves:
    """The rounds of each subject, in the order of the subjects."""

    plan: Plan
    subjects: tuple[Subject, ...]
    rounds: tuple[tuple[Round, ...], ...]

    def to_json(self) -> JSON:
        """Return everything as one document; latencies in milliseconds, cold start in seconds, memory in bytes."""
        return {
            "plan": {"clients": list(self.plan.clients), "seconds": self.plan.seconds, "rounds": self.plan.rounds},
            "subjects": [
                _describe(subject, rounds) for subject, rounds in zip(self.subjects, self.rounds, strict=True)
            ],
            "comparison": [
                {"measure": name, "ratio": found.to_json(), "verdict": verdict}
                for name, found, verdict in self.comparison
            ],
        }

    @property
    def comparison(self) -> list[tuple[str, Interval, Verdict]]:
        """How the second of two compares with the first: the measure, second over first, and what that shows."""
        if len(self.subjects) != 2:
            return []
        rows = []
        for name, (value, more_is_better) in _MEASURES.items():
            found = estimate_ratio([value(item) for item in self.rounds[0]], [value(item) for item in self.rounds[1]])
            rows.append((name, found, judge(found, more_is_better=more_is_better)))
        return rows


def measure_curves(subjects: Sequence[Subject], plan: Plan, on_event: OnEvent = ignore) -> Curves:
    """Measure subjects in turn, round by round; the order changes with every round. Raises StepError."""
    rounds: list[list[Round]] = [[] for _ in subjects]
    for number in range(plan.rounds):
        order = list(range(len(subjects)))
        for index in order if number % 2 == 0 else reversed(order):
            rounds[index].append(measure_round(subjects[index], plan))
            on_event(Note(f"round {number + 1} of {plan.rounds}: {subjects[index].label}"))
    return Curves(plan, tuple(subjects), tuple(map(tuple, rounds)))


def _describe(subject: Subject, rounds: Sequence[Round]) -> JSON:
    points = []
    for clients in rounds[0].loads:
        loads = [found.loads[clients] for found in rounds]
        points.append(
            {
                "clients": clients,
                "requests": sum(len(load.milliseconds) for load in loads),
                "requests_per_second": estimate_interval([load.rate for load in loads]).to_json(),
                "rows_per_second": estimate_interval([load.rate * subject.rows for load in loads]).to_json(),
                **{
                    name: estimate_interval([load.percentile(share) for load in loads]).to_json()
                    for name, share in PERCENTILES.items()
                },
            }
        )
    return {
        **subject.about,
        "cold_start": estimate_interval([found.cold_start for found in rounds]).to_json(),
        "memory": estimate_interval([float(found.memory) for found in rounds]).to_json(),
        "points": points,
    }


def format_curves(document: JSON) -> list[str]:
    """Return the lines of a table for people."""
    lines = []
    for subject in document["subjects"]:
        cold, memory = subject["cold_start"], subject["memory"]
        lines += [
            _title(subject),
            f"  cold start {_range(cold)} s, memory {memory['mean'] / (1 << 20):.0f} MiB",
            f"  {'clients':>7} {'requests/s':>24} {'p50 ms':>24} {'p95 ms':>24} {'p99 ms':>24}",
        ]
        for point in subject["points"]:
            cells = [_range(point[name]) for name in ("requests_per_second", "p50", "p95", "p99")]
            lines.append(f"  {point['clients']:>7} " + " ".join(f"{cell:>24}" for cell in cells))
    if document["comparison"]:
        lines.append("second over first, with 95 % confidence intervals:")
    for row in document["comparison"]:
        word = row["verdict"]
        if row["measure"] == "memory":
            word = {"faster": "less", "slower": "more"}.get(word, word)
        elif row["measure"] == "throughput":
            word = {"faster": "more", "slower": "less"}.get(word, word)
        lines.append(f"  {row['measure']:13} {_range(row['ratio'])}  {word}")
    return lines


def _title(subject: JSON) -> str:
    called = f"{subject['label']}: {subject['name']}:{subject['version']} for {subject['target']}"
    return f"{called}, {subject['rows']} row(s) a request"


def _range(value: JSON) -> str:
    return f"{value['mean']:.4g} ({value['low']:.4g}–{value['high']:.4g})"


def _mean(values: object) -> float:
    found = [math.log(value) for value in values]  # type: ignore[attr-defined]
    return math.exp(math.fsum(found) / len(found))
