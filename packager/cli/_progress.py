# SPDX-License-Identifier: Apache-2.0
"""What long work is doing now, as lines for a person: steps and their time, bytes with their rate and what is left.

`Tracker` only counts and words; the console decides where lines are drawn. The clock is passed in, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from packager import escape
from packager.cli._units import format_duration, format_size
from packager.events import Cached, Event, Finished, Progress, Started

_WINDOW = 5.0  # seconds over which a rate is taken
_BAR = 24  # columns


@dataclass(slots=True)
class _Transfer:
    """Bytes of one label: when they began, how many there are, and the counts of the last seconds."""

    started: float
    done: int
    total: int
    recent: deque[tuple[float, int]] = field(default_factory=deque)

    def move(self, now: float, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.recent.append((now, done))
        while now - self.recent[0][0] > _WINDOW:
            self.recent.popleft()

    def rate(self) -> float:
        """Return bytes per second over the last seconds; 0 while that is unknown."""
        (first, before), (last, after) = self.recent[0], self.recent[-1]
        return (after - before) / (last - first) if last > first else 0.0


class Tracker:
    """The steps that run, the bytes that move, and what is done already."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began = clock, clock()
        self._steps: dict[str, float] = {}
        self._transfers: dict[str, _Transfer] = {}
        self._done = self._cached = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything runs that is worth a line."""
        return bool(self._steps or self._transfers)

    def follow(self, event: Event) -> str | None:
        """Count an event; return the sentence that ends a transfer, with its bytes, time and rate."""
        match event:
            case Started(label):
                self._steps[label] = self._clock()
            case Finished(label, _):
                self._steps.pop(label, None)
                self._done += 1
            case Cached():
                self._done += 1
                self._cached += 1
            case Progress(label, done, total):
                return self._move(label, done, total)
        return None

    def elapsed(self, label: str) -> float:
        """Return how long the transfer `label` has been running, in seconds."""
        found = self._transfers.get(label)
        return self._clock() - found.started if found else 0.0

    def line(self, label: str, *, width: int = 0) -> str:
        """Return how far the transfer `label` is; with a bar if all of it fits into `width` columns."""
        found = self._transfers[label]
        rate, parts = found.rate(), [escape.line(label)]
        share = min(found.done / found.total, 1.0) if found.total else None
        parts += (
            [format_size(found.done)]
            if share is None
            else [f"{100 * share:3.0f} %", f"{format_size(found.done)} of {format_size(found.total)}"]
        )
        parts += [f"{format_size(round(rate))}/s"] if rate else []
        parts += (
            [f"{format_duration((found.total - found.done) / rate)} left"] if rate and found.total > found.done else []
        )
        filled = int((share or 0) * _BAR)
        bar = f"[{'=' * filled}{' ' * (_BAR - filled)}]"
        wide = "  ".join([parts[0], bar, *parts[1:]])
        return wide if share is not None and len(wide) <= width else "  ".join(parts)

    def rows(self, width: int) -> list[str]:
        """Return what runs now, a line of at most `width` columns each, and a line that counts the steps."""
        now = self._clock()
        found = [f"{escape.line(label)}  {format_duration(now - started)}" for label, started in self._steps.items()]
        found += [self.line(label, width=width) for label in self._transfers]
        if self._done + len(self._steps) > 1:
            cached = f" ({self._cached} cached)" if self._cached else ""
            counts = f"{self._done} steps done{cached}, {len(self._steps)} running"
            found.append(f"{counts}  {format_duration(now - self._began)} in all")
        return [row[:width] for row in found]

    def _move(self, label: str, done: int, total: int) -> str | None:
        now = self._clock()
        found = self._transfers.setdefault(label, _Transfer(now, done, total))
        found.move(now, done, total)
        if not total or done < total:
            return None
        del self._transfers[label]
        seconds = now - found.started
        rate = f", {format_size(round(done / seconds))}/s" if seconds else ""
        return f"{escape.line(label)}: {format_size(done)} in {seconds:.1f} s{rate}"
