# SPDX-License-Identifier: Apache-2.0
"""Find knobs that serve an objective on this machine, within a time, and prove it against what is set now.

    most throughput                    with so many clients
    p99 <= 5 ms, most throughput       the same, among values whose tail is within the limit
    least p50                          the lowest latency

Values of one knob are tried while the others stay, and the best is kept; then the next knob, until nothing improves or
the time is over. Trials are appended to a file, so that a search that was interrupted goes on. At last, what was found
and what is set now are measured in turn: only a difference whose 95 % interval excludes 1 is a finding.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager import canonical
from packager.bench.curves import PERCENTILES
from packager.bench.load import Load
from packager.bench.measure import Plan, Round, Subject, measure_round, open_subject
from packager.bench.statistics import Interval, estimate_interval, estimate_ratio
from packager.bundle.knobs import knob_schema
from packager.canonical import JSON
from packager.errors import PackagerError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.files import storage_errors, write_atomically
from packager.server.declaration import Knob

_OBJECTIVE = re.compile(
    r"(?:(?P<bound>p50|p95|p99) *<= *(?P<limit>[0-9]+(?:\.[0-9]+)?) *ms *, *)?"
    r"(?P<goal>most throughput|least (?P<least>p50|p95|p99))"
)
_BOUND = re.compile(r"(p50|p95|p99) *<= *([0-9]+(?:\.[0-9]+)?) *ms")
_KNOBS = ("runtime.threads", "server.processes", "server.workers", "runtime.processes", "batch.rows", "batch.window")
"""The knobs that are searched, in this order, where the schema of the bundle has them."""
_MIN_GAIN = 1.02  # of a trial over the best one so far: less is noise


@dataclass(frozen=True, slots=True)
class Objective:
    """What is wanted: a percentile to keep below `limit` milliseconds, and `throughput` or a percentile to improve."""

    text: str
    goal: str = "throughput"
    bound: str | None = None
    limit: float = math.inf

    @staticmethod
    def parse(text: str) -> Objective:
        """Read an objective. Raises UsageError."""
        words = " ".join(text.split())
        if found := _BOUND.fullmatch(words):
            return Objective(words, "throughput", found[1], float(found[2]))
        found = _OBJECTIVE.fullmatch(words)
        if found is None:
            raise UsageError(
                f"objective `{text:.80}` is not understood",
                hint="write `most throughput`, `p99 <= 5 ms, most throughput` or `least p50`",
            )
        return Objective(
            words,
            found["least"] or "throughput",
            found["bound"],
            float(found["limit"] or "inf") if found["limit"] else math.inf,
        )

    def holds(self, load: Load) -> bool:
        """Whether a load is within the limit."""
        return self.bound is None or load.percentile(PERCENTILES[self.bound]) <= self.limit

    def score(self, load: Load) -> float:
        """Return how good a load is; more is better, whatever the goal. Beyond the limit: less than all within it."""
        value = load.rate if self.goal == "throughput" else 1000 / load.percentile(PERCENTILES[self.goal])
        if self.holds(load) or self.bound is None:
            return value
        return -load.percentile(PERCENTILES[self.bound]) / self.limit


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
    """What a search found: knobs, or none; how they compare with what is set; how many values were tried."""

    search: Search
    subject: Subject
    values: Mapping[str, JSON]
    better: bool
    gain: Interval | None
    before: tuple[Load, ...]
    after: tuple[Load, ...]
    trials: int
    complete: bool

    def to_json(self) -> JSON:
        return {
            "objective": self.search.objective.text,
            "bundle": self.subject.bundle.digest,
            "target": self.subject.target,
            "clients": self.search.clients,
            "better": self.better,
            "values": dict(self.values),
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


class _Trials:
    """Loads by the values of knobs, appended to a file as they are measured."""

    def __init__(self, path: Path, identity: JSON) -> None:
        self._path, self._known = path, dict[str, Load]()
        head = canonical.dump(identity)
        with storage_errors(path.parent):
            lines = path.read_bytes().split(b"\n") if path.is_file() else []
            if not lines or lines[0] != head:
                write_atomically(path, head + b"\n")
                lines = []
        for line in lines[1:]:
            try:
                row = json.loads(line)
                self._known[row["values"]] = Load(tuple(row["milliseconds"]), row["seconds"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a search that was killed

    def __len__(self) -> int:
        return len(self._known)

    def get(self, values: Mapping[str, JSON]) -> Load | None:
        return self._known.get(_key(values))

    def add(self, values: Mapping[str, JSON], load: Load) -> None:
        row = {"values": _key(values), "milliseconds": [round(one, 4) for one in load.milliseconds]}
        self._known[_key(values)] = load
        with storage_errors(self._path.parent), self._path.open("ab") as file:
            file.write(json.dumps({**row, "seconds": load.seconds}).encode() + b"\n")


def _key(values: Mapping[str, JSON]) -> str:
    return json.dumps(dict(values), sort_keys=True)


def list_candidates(knob: Knob, cores: int) -> list[JSON]:
    """Return the values of a knob that are tried on a machine with so many cores, within the bounds of its schema."""
    powers = [1 << power for power in range(11)]
    own: Mapping[str, Sequence[float]] = {
        "batch.rows": [*powers[:8]],
        "batch.window": [0, 0.5, 1, 2, 5],
        "runtime.processes": [0, *(count for count in powers if count <= cores)],
    }
    wished = own.get(knob.name, [*(count for count in powers if count < cores), cores])
    return [value for value in dict.fromkeys(wished) if knob.allows(value)]


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
    known = _Trials(trials, identity)
    deadline = time.monotonic() + 60 * search.minutes
    found = _Walk(directory, search, known, deadline, on_event)
    best = found.walk(subject, cores)
    before, after, gain = found.prove(subject, best)
    better = bool(gain) and _is_better(search.objective, before, after, gain)
    return Tuned(search, subject, best if better else {}, better, gain, before, after, len(known), not found.late)


def _is_better(objective: Objective, before: Sequence[Load], after: Sequence[Load], gain: Interval | None) -> bool:
    if not all(map(objective.holds, after)):
        return False
    if not any(map(objective.holds, before)):
        return True  # now the limit holds in every round, before it held in none
    return gain is not None and gain.low > 1


@dataclass
class _Walk:
    """One search: coordinates in turn, until a whole round over all knobs improves nothing."""

    directory: Path
    search: Search
    known: _Trials
    deadline: float
    on_event: OnEvent
    late: bool = False

    def walk(self, subject: Subject, cores: int) -> dict[str, JSON]:
        schema, objective = knob_schema(subject.bundle), self.search.objective
        knobs = [schema[name] for name in _KNOBS if name in schema]
        best: dict[str, JSON] = {}
        load = self._load(best)
        score = objective.score(load) if load else -math.inf
        improved = True
        while improved and not self.late:
            improved = False
            for values in self._neighbours(knobs, best, subject, cores):
                found = self._load(values)
                if found is None:
                    continue
                reached = objective.score(found)
                if reached > score * (_MIN_GAIN if score > 0 else 1 / _MIN_GAIN):
                    best, score, improved = values, reached, True
                    self.on_event(Note(f"better: {_shown(values)}"))
        return best

    def _neighbours(
        self, knobs: Sequence[Knob], best: dict[str, JSON], subject: Subject, cores: int
    ) -> Iterator[dict[str, JSON]]:
        """Yield every value of one knob beside the best values of the others, knob after knob."""
        for knob in knobs:
            for value in list_candidates(knob, cores):
                values = {**best, knob.name: value}
                if subject.knobs.values.get(knob.name) == value:
                    del values[knob.name]
                if values != best:
                    yield values

    def _load(self, values: Mapping[str, JSON]) -> Load | None:
        """Return what was measured with some values, now or before; None without an answer, or without time."""
        known = self.known.get(values)
        if known is None:
            if time.monotonic() > self.deadline:
                self.late = True
                return None
            try:
                known = self._measure(values).loads[self.search.clients]
            except UsageError:
                return None  # the knobs exclude each other
            except PackagerError as error:
                self.on_event(Note(f"{_shown(values)}: {error.message}"))
                known = Load((), self.search.seconds)
            self.known.add(values, known)
        return known if known.milliseconds else None

    def _measure(self, values: Mapping[str, JSON]) -> Round:
        texts = {name: str(value) for name, value in values.items()}
        return measure_round(open_subject("trial", self.directory, texts, self.search.rows), self.search.plan)

    def prove(
        self, subject: Subject, best: Mapping[str, JSON]
    ) -> tuple[tuple[Load, ...], tuple[Load, ...], Interval | None]:
        """Measure what is set now and what was found in turn; return both, and the gain. It has time of its own."""
        if not best:
            return (), (), None
        texts = {name: str(value) for name, value in best.items()}
        tuned = open_subject("found", self.directory, texts, self.search.rows)
        pairs: list[tuple[Load, Load]] = []
        for number in range(self.search.rounds):
            order = (subject, tuned) if number % 2 == 0 else (tuned, subject)
            loads = {id(one): measure_round(one, self.search.plan).loads[self.search.clients] for one in order}
            pairs.append((loads[id(subject)], loads[id(tuned)]))
            self.on_event(Note(f"round {number + 1} of {self.search.rounds} of the proof"))
        before, after = (tuple(side) for side in zip(*pairs, strict=True))
        return (
            before,
            after,
            estimate_ratio([self._value(load) for load in before], [self._value(load) for load in after]),
        )

    def _value(self, load: Load) -> float:
        goal = self.search.objective.goal
        return load.rate if goal == "throughput" else 1000 / load.percentile(PERCENTILES[goal])


def _shown(values: Mapping[str, JSON]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "what is set now"


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
