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

if TYPE_CHECKING:
    from types import TracebackType

    from packager.cli._progress import Tracker
    from packager.events import Event

_REDRAW = 0.1  # seconds between two drawings of the live display
_SLOW = 1.0  # seconds after which a transfer is worth a line
_AGAIN = 30.0  # seconds between two lines about a transfer where nothing can be redrawn


class Console:
    """One command's terminal. With `json`, stdout carries one document and nothing else.

    Where it is `live`, what runs is redrawn in place, below what was printed; elsewhere (a file, CI, a terminal that
    cannot move its cursor, NO_COLOR) progress is plain lines.
    """

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json, self.quiet = json, quiet
        self.colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")  # no-color.org: set and not empty
        self.live = self.colour and not quiet and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
        self._lock = threading.RLock()
        self._tracker: Tracker | None = None
        self._announced: dict[str, float] = {}  # transfers that have a plain line, and when they last got one
        self._lines = 0  # of the live display
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
            problem = {"code": error.code, "message": error.message, "hint": error.hint, "subject": subject}
            problem |= {"edits": [edit.to_json() for edit in error.edits]} if error.edits else {}
            print(escape.json_text({"ok": False, "error": problem}, indent=2))

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
        from packager.events import Cached, Finished, Note, Progress, Started, Warned  # not before there is one

        with self._lock:
            ended = self._following().follow(event)
            match event:
                case Started(label):
                    self._draw(force=True) if self.live else self._print(f"{escape.line(label)} …")
                case Finished(label, seconds, outcome):
                    how = f": {escape.line(outcome)}" if outcome else ""
                    self._print(f"{escape.line(label)}{how}: {seconds:.1f} s")
                case Cached(label):
                    self._print(f"{escape.line(label)}: cached")
                case Progress(label, _, _):
                    self._move(label, ended)
                case Note(message):
                    self._print(escape.line(message))
                case Warned(message):
                    self._say("warning:", "33", message)
            if self.live and not self._lines and self._following().is_busy:
                self._draw(force=True)  # below what was printed

    def _following(self) -> Tracker:
        if self._tracker is None:
            from packager.cli._progress import Tracker

            self._tracker = Tracker(time.monotonic)
        return self._tracker

    def _move(self, label: str, ended: str | None) -> None:
        """Show how far a transfer is; of one that ends at once, nothing."""
        if ended is not None:
            worth = self._announced.pop(label, None) is not None
            self._print(ended) if worth else self._clear()
            return
        tracker, now = self._following(), time.monotonic()
        if tracker.elapsed(label) > _SLOW and now - self._announced.get(label, -_AGAIN) >= _AGAIN:
            self._announced[label] = now
            if not self.live:
                self._print(tracker.line(label))
        if self.live:
            self._draw()

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REDRAW:
            return
        self._drawn = now
        rows = self._following().rows(_width())
        sys.stderr.write(self._erasure() + "\n".join(rows))
        sys.stderr.flush()
        self._lines = len(rows)

    def _clear(self) -> None:
        if self.live and self._lines:
            sys.stderr.write(self._erasure())
            sys.stderr.flush()
            self._lines = 0

    def _erasure(self) -> str:
        """Return what moves the cursor to where the live display begins, and erases from there on."""
        return ("\r" + "\x1b[A" * (self._lines - 1) + "\x1b[J") if self._lines else ""

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
                if self._tracker and self._tracker.is_busy:
                    self._draw()


def _width() -> int:
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except OSError:
        return 79
