# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: results on stdout, progress and messages on stderr, all legible without colour."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packager import escape
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

    def result(self, value: Mapping[str, Any], text: str | Sequence[str]) -> None:
        """Print the result of the command: the document with --json, else the text, or one line for each row."""
        self._clear()
        if self.json:
            print(escape.json_text(value, indent=2))
        else:
            print(escape.block(text) if isinstance(text, str) else "\n".join(map(escape.line, text)))

    def rows(self, rows: Sequence[str]) -> None:
        """Print lines that come before an error."""
        self._clear()
        print("\n".join(map(escape.line, rows)))

    def fail(self, error: PackagerError, rows: Sequence[str] = ()) -> None:
        """Print an error: what a step wrote before it died, one sentence, its subject, the remedy and its `rows`."""
        self._clear()
        if isinstance(error, StepError) and error.log and (not self.quiet or error.died):
            for row in error.log.splitlines()[-12:]:
                self.message(f"  | {row}")
        self._say("error:", "31", error.message)
        if error.hint:
            self._say("hint:", "36", error.hint)
        for row in rows:
            self.message(row)
        if self.json:
            subject = error.subject if isinstance(error, IntegrityError) else None
            told = {"code": error.code, "message": error.message, "hint": error.hint, "subject": subject}
            told |= {"edits": [edit.to_json() for edit in error.edits]} if error.edits else {}
            print(escape.json_text({"ok": False, "error": told}, indent=2))

    def message(self, text: str) -> None:
        """Print one line for a person."""
        self._print(escape.line(text))

    def _say(self, word: str, colour: str, text: str) -> None:
        """Print one line behind a word of ours."""
        painted = f"\x1b[{colour}m{word}\x1b[0m" if self.colour else word
        self._print(f"{painted} {escape.line(text)}")

    def _print(self, text: str) -> None:
        with self._lock:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    # progress

    def __call__(self, event: Event) -> None:
        """Show an event of the library."""
        if self.quiet:
            return
        with self._lock:
            match event:
                case Started(label):
                    self._running[label] = time.monotonic()
                    self._draw(force=True) if self.live else self._print(f"{escape.line(label)} …")
                case Finished(label, seconds):
                    self._running.pop(label, None)
                    self._print(f"{escape.line(label)}: {seconds:.1f} s")
                case Cached(label):
                    self._print(f"{escape.line(label)}: cached")
                case Progress():
                    self._move(event)
                case Note(message):
                    self._print(escape.line(message))
                case Warned(message):
                    self._say("warning:", "33", message)

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
            self._print(f"{escape.line(event.label)} … {size(event.total)}")

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REDRAW:
            return
        self._drawn = now
        parts = [f"{escape.line(label)} {now - started:.0f} s" for label, started in self._running.items()]
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
