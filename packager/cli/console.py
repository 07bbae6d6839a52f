# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: results on stdout, progress and messages on stderr, all legible without colour."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from packager.errors import IntegrityError, PackagerError, StepError
from packager.events import Cached, Event, Finished, Note, Progress, Started, Warned

if TYPE_CHECKING:
    from types import TracebackType

_REDRAW = 0.1  # seconds between two drawings of the live line
_SLOW = 1.0  # seconds after which a step is worth a line even where nothing can be redrawn


class Console:
    """One command's terminal. With `json`, stdout carries one document and nothing else."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json, self.quiet = json, quiet
        self.live = sys.stderr.isatty() and not quiet
        self.colour = self.live and "NO_COLOR" not in os.environ
        self._lock = threading.RLock()
        self._running: dict[str, float] = {}
        self._progress: Progress | None = None
        self._announced: set[str] = set()
        self._drawn = 0.0

    # results

    def result(self, value: Mapping[str, Any], text: str) -> None:
        """Print the result of the command: the document with --json, else the text."""
        self._clear()
        print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) if self.json else text)

    def fail(self, error: PackagerError) -> None:
        """Print an error: one sentence, its subject, the remedy."""
        self._clear()
        if isinstance(error, StepError) and error.log and not self.quiet:
            self.message("\n".join(f"  | {row}" for row in error.log.splitlines()[-12:]))
        self.message(f"{self._paint('error:', '31')} {error.message}")
        if error.hint:
            self.message(f"{self._paint('hint:', '36')} {error.hint}")
        if self.json:
            subject = error.subject if isinstance(error, IntegrityError) else None
            print(json.dumps({"ok": False, "error": {"code": error.code, "message": error.message,
                                                     "hint": error.hint, "subject": subject}}, indent=2))  # fmt: skip

    def message(self, text: str) -> None:
        """Print a line for a person."""
        with self._lock:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    # progress

    def __call__(self, event: Event) -> None:
        """Show an event of the library."""
        if self.quiet:
            return
        with self._lock:
            match event:
                case Started(label):
                    self._running[label] = time.monotonic()
                    self._draw(force=True) if self.live else self.message(f"{label} …")
                case Finished(label, seconds):
                    self._running.pop(label, None)
                    self.message(f"{label}: {seconds:.1f} s")
                case Cached(label):
                    self.message(f"{label}: cached")
                case Progress():
                    self._move(event)
                case Note(message):
                    self.message(message)
                case Warned(message):
                    self.message(f"{self._paint('warning:', '33')} {message}")

    def _move(self, event: Progress) -> None:
        self._progress = event
        started = self._running.setdefault(event.label, time.monotonic())
        if event.done >= event.total:
            self._running.pop(event.label, None)
            self._progress = None
            self._clear()
        elif self.live:
            self._draw()
        elif event.label not in self._announced and time.monotonic() - started > _SLOW:
            self._announced.add(event.label)
            self.message(f"{event.label} … {size(event.total)}")

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REDRAW:
            return
        self._drawn = now
        parts = [f"{label} {now - started:.0f} s" for label, started in self._running.items()]
        if self._progress and self._progress.total:
            parts.append(f"{100 * self._progress.done // self._progress.total} % of {size(self._progress.total)}")
        sys.stderr.write("\r\x1b[K" + " · ".join(parts)[: _width()])
        sys.stderr.flush()

    def _clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    # a clock for steps that report nothing themselves

    def __enter__(self) -> Console:
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        if self.live:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self.live:
            self._ticker.join()
            self._clear()

    def _tick(self) -> None:
        while not self._stop.wait(1):
            with self._lock:
                if self._running:
                    self._draw()


def size(count: int) -> str:
    """Write a number of bytes as a person reads it."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _width() -> int:
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except OSError:
        return 79
