# SPDX-License-Identifier: Apache-2.0
"""Simulate a month of releases on a cluster: when does it end, what waits, where does it break first?

Discrete events: models arrive over working hours, each is a row of tasks that take a core (or the registry's link) for
the seconds that were measured; nodes fail and come back, and a task that ran there runs again. Durations are drawn from
measured ones: those of `--report release.json` (what `packager release --report` writes), else that of ADR 261.

    python tests/benchmarks/simulate_month.py --models 2000 --nodes 2 --cores 4
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DAY = 86_400.0
MEASURED = [[1.9, 4.9]]
"""Processor seconds without a report: ADR 261's estimator in a skops file, 4.9 for the build of 6.8 in all."""


@dataclass(frozen=True)
class Cluster:
    """Nodes with cores; `between_failures` seconds of one node (None: never), `repair` until it is back."""

    nodes: int
    cores: int
    between_failures: float | None = None
    repair: float = 600.0


@dataclass
class Outcome:
    """What came of a month: seconds from arrival to end of each model, busy core seconds, and what ran twice."""

    waits: list[float] = field(default_factory=list)
    turnarounds: list[float] = field(default_factory=list)
    busy: float = 0.0
    repeated: float = 0.0
    end: float = 0.0
    longest_queue: int = 0

    def share(self, cluster: Cluster) -> float:
        """Return the part of all core seconds that was used."""
        return self.busy / (self.end * cluster.nodes * cluster.cores)

    def percentile(self, share: float) -> float:
        return sorted(self.turnarounds)[max(0, math.ceil(share * len(self.turnarounds)) - 1)]


def simulate(  # noqa: C901 - one loop over events, each kind a few lines
    arrivals: Sequence[float], draw: Callable[[], Sequence[float]], cluster: Cluster, rng: random.Random
) -> Outcome:
    """Run models that arrive at these times through a cluster; `draw` gives the seconds of the tasks of one.

    A model takes one core for all of its tasks, as a process of `packager release` does. Where its node fails, the task
    in progress runs again elsewhere; tasks that ended are in the journal.
    """
    found, order, number = Outcome(), itertools.count(), itertools.count()
    events: list[tuple[float, int, str, tuple[int, int]]] = []
    left = {model: deque(draw()) for model in range(len(arrivals))}
    first: dict[int, float] = {}
    up, free = [True] * cluster.nodes, [cluster.cores] * cluster.nodes
    running: dict[int, tuple[int, int, float]] = {}  # run -> model, node, since
    ready: deque[int] = deque()

    def at(time: float, kind: str, about: tuple[int, int]) -> None:
        heapq.heappush(events, (time, next(order), kind, about))

    def begin(now: float) -> None:
        while ready:
            node = max((n for n in range(cluster.nodes) if up[n]), key=lambda n: free[n], default=None)
            if node is None or not free[node]:
                break
            model = ready.popleft()
            free[node] -= 1
            if model not in first:
                first[model] = now
                found.waits.append(now - arrivals[model])
            start(model, node, now)
        found.longest_queue = max(found.longest_queue, len(ready))

    def start(model: int, node: int, now: float) -> None:
        run = next(number)
        running[run] = (model, node, now)
        at(now + left[model][0], "ended", (run, node))

    for model, time in enumerate(arrivals):
        at(time, "arrived", (model, 0))
    if cluster.between_failures:
        for node in range(cluster.nodes):
            at(rng.expovariate(1 / cluster.between_failures), "failed", (node, 0))
    unfinished = len(arrivals)
    while unfinished:
        now, _, kind, (one, node) = heapq.heappop(events)
        if kind == "arrived":
            ready.append(one)
        elif kind == "ended" and one in running:
            model, node, since = running.pop(one)
            found.busy += now - since
            left[model].popleft()
            if left[model]:
                start(model, node, now)
                continue
            free[node] += 1
            unfinished -= 1
            found.turnarounds.append(now - arrivals[model])
            found.end = now
        elif kind == "failed":
            up[one], free[one] = False, cluster.cores
            for run in [run for run, (_, place, _) in running.items() if place == one]:
                model, _, since = running.pop(run)
                found.busy += now - since
                found.repeated += now - since
                ready.appendleft(model)
            at(now + cluster.repair, "repaired", (one, 0))
        elif kind == "repaired":
            up[one] = True
            at(now + rng.expovariate(1 / (cluster.between_failures or math.inf)), "failed", (one, 0))
        begin(now)
    return found


def working_hours(count: int, days: int, rng: random.Random) -> list[float]:
    """Return times at which models arrive: over `days`, five of seven, nine hours each, an eighth of them in bursts."""
    open_days = [day for day in range(days) if day % 7 < 5]
    times = []
    while len(times) < count:
        at = rng.choice(open_days) * DAY + 9 * 3600 + rng.random() * 9 * 3600
        times += [at] * (rng.randint(20, 60) if rng.random() < 0.003 else 1)  # a retraining that registers many at once
    return sorted(times[:count])


def durations(report: Path | None) -> list[list[float]]:
    """Return the seconds of the tasks of measured models that did something."""
    if report is None:
        return MEASURED
    models = json.loads(report.read_bytes())["models"]
    found = [[task["seconds"] for task in model["tasks"] if task["state"] == "done"] for model in models]
    return [row for row in found if sum(row) > 0]


def rows(models: int, days: int, measured: list[list[float]], clusters: Sequence[Cluster]) -> Iterator[str]:
    yield f"{models} models in {days} days, tasks of {len(measured)} measured models"
    yield f"{'nodes':>5} {'cores':>5} {'fails':>6} {'median s':>9} {'p99 s':>9} {'longest s':>9} {'queue':>6} {'used':>7}"
    for cluster in clusters:
        rng = random.Random(19)
        arrivals = working_hours(models, days, rng)
        weights = [1 / (1 + sum(row)) for row in measured]  # small models are released more often than large ones

        def draw(rng: random.Random = rng, weights: list[float] = weights) -> list[float]:
            (row,) = rng.choices(measured, weights)
            return [seconds * rng.lognormvariate(0, 0.25) for seconds in row]

        done = simulate(arrivals, draw, cluster, rng)
        fails = "never" if cluster.between_failures is None else f"{cluster.between_failures / DAY:g} d"
        yield (
            f"{cluster.nodes:5} {cluster.cores:5} {fails:>6} {statistics.median(done.turnarounds):9.1f} "
            f"{done.percentile(0.99):9.1f} {max(done.turnarounds):9.1f} {done.longest_queue:6} "
            f"{done.share(cluster):7.2%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--report", type=Path, help="release.json of `packager release --report`")
    args = parser.parse_args()
    chosen = [Cluster(args.nodes, args.cores, DAY)] if args.nodes else []
    usual = [Cluster(1, 2), Cluster(1, 2, DAY), Cluster(2, 2, DAY), Cluster(2, 4, DAY), Cluster(4, 8, DAY)]
    for line in rows(args.models, args.days, durations(args.report), chosen or usual):
        print(line)


if __name__ == "__main__":
    main()
