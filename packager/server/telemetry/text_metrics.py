# SPDX-License-Identifier: Apache-2.0
"""Measure answers that are generated: seconds to the first token, seconds of each further one, tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from packager.server.telemetry.counters import Counts, Histogram


@dataclass(slots=True)
class TextMetrics:
    """The metrics of one model that generates text; `tokens` counts by the kinds `prompt` and `answer`."""

    first: Histogram
    each: Histogram
    tokens: Counts

    def begin(self, prompt: int) -> Timing:
        """Return the times of one answer to a prompt of so many tokens; it begins now."""
        return Timing(self, prompt)


@dataclass(slots=True)
class Timing:
    """The times of one answer: one thread counts, and ends it."""

    metrics: TextMetrics
    prompt: int
    began: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0

    def count(self) -> None:
        """Count a token."""
        self.last = time.perf_counter()
        self.tokens += 1
        if self.tokens == 1:
            self.first = self.last
            self.metrics.first.observe(self.first - self.began)

    def end(self) -> None:
        """Count the answer, whole or not."""
        if not self.tokens:
            return
        self.metrics.tokens.add(("prompt", 0), self.prompt)
        self.metrics.tokens.add(("answer", 0), self.tokens)
        if self.tokens > 1:
            self.metrics.each.observe((self.last - self.first) / (self.tokens - 1))
