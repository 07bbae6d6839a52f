# SPDX-License-Identifier: Apache-2.0
"""Progress: what is counted, how it is worded, and what remains of it on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from packager.cli._progress import Tracker
from packager.cli._units import format_duration
from packager.events import Cached, Finished, Progress, Started

MB = 10**6


class Clock:
    """Seconds that pass when a test lets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def moved(tracker: Tracker, clock: Clock, at: float, done: int, total: int = 400 * MB) -> str | None:
    clock.now = at
    return tracker.follow(Progress("pulling", done, total))


def test_bytes_have_a_rate_and_an_end(clock: Clock) -> None:
    tracker = Tracker(clock)
    assert moved(tracker, clock, 0, 0) is None
    moved(tracker, clock, 1, 100 * MB)
    assert tracker.rows(100) == [
        "pulling  [======                  ]   25 %  100.0 MB of 400.0 MB  100.0 MB/s  3 s left"
    ]
    assert tracker.rows(60) == ["pulling   25 %  100.0 MB of 400.0 MB  100.0 MB/s  3 s left"], "no room for a bar"
    assert tracker.rows(20) == ["pulling   25 %  100."]
    assert moved(tracker, clock, 2, 400 * MB) == "pulling: 400.0 MB in 2.0 s, 200.0 MB/s"
    assert tracker.rows(100) == [] and not tracker.is_busy


def test_the_rate_is_that_of_the_last_seconds(clock: Clock) -> None:
    """A transfer that stalls says so, however fast it began."""
    tracker = Tracker(clock)
    for second in range(5):
        moved(tracker, clock, second, 50 * MB * second)
    for second in range(5, 12):
        moved(tracker, clock, second, 200 * MB + second)
    assert "1 B/s" in tracker.rows(100)[0]


def test_bytes_without_a_total_have_neither_share_nor_end(clock: Clock) -> None:
    tracker = Tracker(clock)
    moved(tracker, clock, 1, 5 * MB, 0)
    moved(tracker, clock, 2, 7 * MB, 0)
    assert tracker.rows(100) == ["pulling  7.0 MB  2.0 MB/s"]


def test_steps_are_counted(clock: Clock) -> None:
    tracker = Tracker(clock)
    tracker.follow(Started("export"))
    clock.now = 3
    assert tracker.rows(100) == ["export  3 s"], "one step needs no count"
    tracker.follow(Finished("export", 3))
    tracker.follow(Cached("scan"))
    tracker.follow(Started("measure"))
    clock.now = 65
    assert tracker.rows(100) == ["measure  1 min 02 s", "2 steps done (1 cached), 1 running  1 min 05 s in all"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")]
)
def test_durations_are_read_at_once(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


WORK = """
import time
from packager.cli.console import Console
from packager.events import Finished, Note, Progress, Started
console = Console(json=False, quiet=False)
with console:
    console(Started("export"))
    console(Started("a step whose name is longer than the whole line of this terminal, twice at least, or so"))
    console(Note("something was found"))
    for done in range(0, 13):
        console(Progress("pulling", done * 10**6, 12 * 10**6))
        time.sleep(0.12)
    console(Progress("at once", 5, 5))
    console(Finished("export", 1.5))
console.result({}, "the result")
"""


def on_a_terminal(columns: int, **variables: str) -> bytes:
    """Return what WORK writes to a pseudo-terminal of this width."""
    import fcntl
    import struct
    import termios

    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {n: v for n, v in os.environ.items() if n not in ("CI", "NO_COLOR")} | {"TERM": "xterm"} | variables
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=there, stderr=there, env=environment):
        os.close(there)
        written = b""
        try:
            while data := os.read(here, 65536):
                written += data
        except OSError:  # Linux: the other end is closed
            pass
    os.close(here)
    return written


def shown(written: bytes) -> list[str]:
    """Return the rows that a terminal has in the end: text, new lines, carriage returns, up, and erase below."""
    rows, row, column = [""], 0, 0
    for found in re.finditer(r"\x1b\[(A|J)|(\r)|(\n)|([^\x1b\r\n]+)", written.decode()):
        if found[1] == "A":
            row -= 1
            assert row >= 0, "the cursor never leaves what was drawn"
        elif found[1] == "J":
            rows[row:] = [rows[row][:column]]
        elif found[2]:
            column = 0
        elif found[3]:
            row += 1
            rows += [""] * (row + 1 - len(rows))
        else:
            rows[row] = rows[row][:column].ljust(column) + found[4] + rows[row][column + len(found[4]) :]
            column += len(found[4])
    return rows


def test_a_terminal_keeps_the_lines_and_not_the_display() -> None:
    written = on_a_terminal(70)
    assert re.search(r"pulling  +\d+ %  \d\.\d MB of 12.0 MB", written.decode()), "there was a display"
    rows = [row for row in shown(written) if row]
    assert rows[0] == "something was found"
    assert re.fullmatch(r"pulling: 12.0 MB in 1\.\d s, \d+\.\d MB/s", rows[1])
    assert rows[2:] == ["export: 1.5 s", "the result"]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}], ids=str)
def test_plain_lines_where_nothing_is_to_be_redrawn(variables: dict[str, str]) -> None:
    written = on_a_terminal(70, **variables).decode()
    assert "\x1b[A" not in written and "\x1b[J" not in written
    rows = written.split("\r\n")
    assert rows[:3] == ["export …", rows[1], "something was found"] and rows[-3:] == ["export: 1.5 s", "the result", ""]
    assert [row.split()[0] for row in rows[3:-3]] == ["pulling", "pulling:"], "one line once it is slow, one at its end"
