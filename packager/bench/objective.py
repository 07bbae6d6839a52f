# SPDX-License-Identifier: Apache-2.0
"""What a search is for: a percentile to keep below a limit, and throughput or a percentile to improve.

most throughput                    with so many clients
p99 <= 5 ms, most throughput       the same, among values whose tail is within the limit
least p50                          the lowest latency
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from packager.bench.curves import PERCENTILES
from packager.bench.load import Load
from packager.errors import UsageError

_OBJECTIVE = re.compile(
    r"(?:(?P<bound>p50|p95|p99) *<= *(?P<limit>[0-9]+(?:\.[0-9]+)?) *ms *, *)?"
    r"(?P<goal>most throughput|least (?P<least>p50|p95|p99))"
)
_BOUND = re.compile(r"(p50|p95|p99) *<= *([0-9]+(?:\.[0-9]+)?) *ms")


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

    def value(self, load: Load) -> float:
        """Return what is to grow: answers a second, or the inverse of the percentile that is to shrink."""
        return load.rate if self.goal == "throughput" else 1000 / load.percentile(PERCENTILES[self.goal])

    def compare(self, pairs: Sequence[tuple[Load, Load]], errors: float = 0.0) -> float:
        """Return how many times better the second of two is, over loads in turn, less so many standard errors.

        Where only one is within the limit in most of its loads that is all that counts (infinity or 0); where neither
        is, it is how much nearer to the limit the second is.
        """
        first, second = (2 * sum(map(self.holds, side)) > len(pairs) for side in zip(*pairs, strict=True))
        if first != second:
            return math.inf if second else 0.0
        of = self.value if first else self._nearness
        logs = [math.log(of(b) / of(a)) for a, b in pairs]
        deviation = statistics.stdev(logs) if len(logs) > 1 else 0.0
        return math.exp(statistics.fmean(logs) - errors * deviation / math.sqrt(len(logs)))

    def _nearness(self, load: Load) -> float:
        return self.limit / load.percentile(PERCENTILES[self.bound or "p99"])
