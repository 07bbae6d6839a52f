# SPDX-License-Identifier: Apache-2.0
"""Find knobs that serve an objective on this machine, within a time, and prove it against what is set now.

Values of one knob race against the best so far while the others stay, then those of the next knob (`race`), until
nothing improves or the time is over. Laps are appended to a file, so that a search that was interrupted goes on. At
last, what was found and what is set now are measured in turn: only a difference whose 95 % interval excludes 1 is a
finding.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.bench.curves import PERCENTILES
from packager.bench.load import Load
from packager.bench.measure import Plan, Subject, measure_round, open_subject
from packager.bench.objective import Objective
from packager.bench.race import KNOBS, OutOfTimeError, Race, Trials, Values, show_values
from packager.bench.statistics import Interval, estimate_interval, estimate_ratio
from packager.bundle.knobs import knob_schema
from packager.canonical import JSON
from packager.errors import PackagerError, UsageError
from packager.events import Note, OnEvent, ignore


@dataclass(frozen=True, slots=True)
class Search:
    """How a search runs: the objective, clients, seconds of a trial, minutes in all, rounds of the proof."""

    objective: Objective
    clients: int = 8
    seconds: float = 3.0
    minutes: float = 10.0
    rounds: int = 5
    rows: int | None = None

    @property
    def plan(self) -> Plan:
        return Plan((self.clients,), self.seconds, 1)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found: knobs, or none; how they compare with what is set; how many values were tried.

    `candidate` is what was compared, also where no gain was shown.
    """

    search: Search
    subject: Subject
    values: Mapping[str, JSON]
    better: bool
    gain: Interval | None
    before: tuple[Load, ...]
    after: tuple[Load, ...]
    trials: int
    complete: bool
    candidate: Mapping[str, JSON]

    def to_json(self) -> JSON:
        return {
            "objective": self.search.objective.text,
            "bundle": self.subject.bundle.digest,
            "target": self.subject.target,
            "clients": self.search.clients,
            "better": self.better,
            "values": dict(self.values),
            "candidate": dict(self.candidate),
            "gain": self.gain and self.gain.to_json(),
            "before": _summary(self.before),
            "after": _summary(self.after),
            "trials": self.trials,
            "complete": self.complete,
        }


def _summary(loads: Sequence[Load]) -> JSON:
    if not loads:
        return None
    rows = {"requests_per_second": estimate_interval([load.rate for load in loads]).to_json()}
    return rows | {
        n: estimate_interval([load.percentile(s) for load in loads]).to_json() for n, s in PERCENTILES.items()
    }


def tune(directory: Path, search: Search, trials: Path, cores: int, on_event: OnEvent = ignore) -> Tuned:
    """Search the knobs of an installation; `trials` is the file that a search goes on from. Raises UsageError.

    A value with which the server does not start, or does not answer, is one that is worse than all others.
    """
    subject = open_subject("now", directory, {}, search.rows)
    identity = {
        "bundle": subject.bundle.digest,
        "knobs": subject.knobs.changed,
        "clients": search.clients,
        "seconds": search.seconds,
        "rows": subject.rows,
        "cores": cores,
    }
    trial = _Trial(directory, search, time.monotonic() + 60 * search.minutes, on_event)
    race = Race(search.objective, Trials(trials, identity), trial.measure, lambda text: on_event(Note(text)))
    schema = knob_schema(subject.bundle)
    best = race.search([schema[name] for name in KNOBS if name in schema], subject.knobs.values, cores)
    before, after, gain = _prove(directory, search, subject, best, on_event)
    better = bool(gain) and _is_better(search.objective, before, after, gain)
    return Tuned(
        search, subject, best if better else {}, better, gain, before, after, len(race.trials), not race.late, best
    )


def _is_better(objective: Objective, before: Sequence[Load], after: Sequence[Load], gain: Interval | None) -> bool:
    if not all(map(objective.holds, after)):
        return False
    if not any(map(objective.holds, before)):
        return True  # now the limit holds in every round, before it held in none
    return gain is not None and gain.low > 1


@dataclass(frozen=True, slots=True)
class _Trial:
    """Measures values of knobs until the time is over."""

    directory: Path
    search: Search
    deadline: float
    on_event: OnEvent

    def measure(self, values: Values) -> Load:
        """Return a load; without an answer where the knobs exclude each other, or the server fails with them.

        What is set now has to work: then it raises what a measurement raises.
        """
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        try:
            subject = _open(self.directory, self.search, "trial", values)
            return measure_round(subject, self.search.plan).loads[self.search.clients]
        except PackagerError as error:
            if not values:
                raise
            if not isinstance(error, UsageError):
                self.on_event(Note(f"{show_values(values)}: {error.message}"))
            return Load((), self.search.seconds)


def _open(directory: Path, search: Search, label: str, values: Values) -> Subject:
    return open_subject(label, directory, {name: str(value) for name, value in values.items()}, search.rows)


def _prove(
    directory: Path, search: Search, subject: Subject, best: Values, on_event: OnEvent
) -> tuple[tuple[Load, ...], tuple[Load, ...], Interval | None]:
    """Measure what is set now and what was found in turn; return both, and the gain. It has time of its own."""
    if not best:
        return (), (), None
    tuned = _open(directory, search, "found", best)
    pairs: list[tuple[Load, Load]] = []
    for number in range(search.rounds):
        order = (subject, tuned) if number % 2 == 0 else (tuned, subject)
        loads = {id(one): measure_round(one, search.plan).loads[search.clients] for one in order}
        pairs.append((loads[id(subject)], loads[id(tuned)]))
        on_event(Note(f"round {number + 1} of {search.rounds} of the proof"))
    before, after = (tuple(side) for side in zip(*pairs, strict=True))
    value = search.objective.value
    return before, after, estimate_ratio([value(load) for load in before], [value(load) for load in after])


def values_file(tuned: Tuned, day: str) -> str:
    """Return a values file of the knobs that were found, with the evidence as comments."""
    document, search = tuned.to_json(), tuned.search
    before, after, gain = document["before"], document["after"], document["gain"]
    lines = [
        f"# Found by `packager tune` on {day}: {search.objective.text}",
        f"# {tuned.subject.bundle.name}:{tuned.subject.bundle.version} {tuned.subject.bundle.digest}",
        f"# {tuned.subject.target}, {search.clients} clients, {tuned.subject.rows} row(s) a request",
        f"# {os.cpu_count()} processors, {tuned.trials} values of knobs tried",
        f"# over {search.rounds} rounds in turn: {_evidence(before)} before, {_evidence(after)} with these values",
        f"# gain {gain['mean']:.3g} (95 %: {gain['low']:.3g} to {gain['high']:.3g})",
    ]
    groups: dict[str, list[str]] = {}
    for name, value in sorted(tuned.values.items()):
        group, _, member = name.partition(".")
        groups.setdefault(group, []).append(f"  {member}: {json.dumps(value)}")
    return "\n".join([*lines, *(row for group, rows in groups.items() for row in (f"{group}:", *rows)), ""])


def _evidence(summary: JSON) -> str:
    return f"{summary['requests_per_second']['mean']:.4g} requests/s, p99 {summary['p99']['mean']:.4g} ms"
