# SPDX-License-Identifier: Apache-2.0
"""The journal of an installation: one line for every step that matters, on the disk before the next step begins.

    {"when": "2026-11-29T14:00:00Z", "action": "upgrade", "release": "1.4.0-…", "bundle": …, "step": "begun"}

Steps of an action are `begun`, what it has of its own (`staged`, `tried`), `switched`, then `done` or `refused`. What
served before what is read from it, so that a rollback goes back and never forward.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from packager.canonical import JSON
from packager.errors import PackagerError, StorageError
from packager.files import read_own, storage_errors

FILE = "journal.jsonl"
Clock: TypeAlias = Callable[[], str]  # the time now, as it is written


def no_clock() -> str:
    """Return no time."""
    return "unknown"


_MAX = 64 << 20  # bytes
_BACK = "rollback"


@dataclass(frozen=True, slots=True)
class Note:
    """Appends one line per step of an action."""

    path: Path
    clock: Clock
    common: Mapping[str, JSON]

    def __call__(self, step: str, reason: str | None = None) -> None:
        line = {"when": self.clock(), **self.common, "step": step, **({"reason": reason} if reason else {})}
        with storage_errors(self.path.parent), self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def record_action(directory: Path, clock: Clock, action: str, release: str, **more: JSON) -> Iterator[Note]:
    """Write an action into the journal of `directory`: that it begins, and how it ends.

    A first action that is refused leaves no journal: there is nothing that it would be about.
    """
    note = Note(directory / FILE, clock, {"action": action, "release": release, **more})
    is_first = not note.path.exists()
    try:
        note("begun")
        yield note
    except PackagerError as error:
        if is_first:
            note.path.unlink(missing_ok=True)
        else:
            with suppress(StorageError):  # the first error is the one to tell
                note("refused", error.message)
        raise
    note("done")


def read_entries(directory: Path) -> Iterator[Mapping[str, JSON]]:
    """Yield the lines of the journal; one that a power cut tore is skipped."""
    try:
        rows = read_own(directory / FILE, _MAX).splitlines()
    except FileNotFoundError:
        return
    for row in rows:
        try:
            entry = json.loads(row)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"action", "step"} <= set(entry):
            yield entry


def list_earlier(directory: Path, current: str) -> list[str]:
    """Return the releases that served before `current`, the latest first; none where the journal does not tell.

    A release that was left by a rollback is not behind anything. A switch that a kill kept from being noted is known
    by what is current.
    """
    past: list[str] = []
    *_, last = entries = {}, *read_entries(directory)
    for entry in entries:
        if entry.get("step") == "switched":
            _switch(past, str(entry.get("release")), str(entry["action"]))
    if last.get("release") == current and (not past or past[-1] != current):
        _switch(past, current, str(last["action"]))
    if current not in past:
        return []
    del past[len(past) - past[::-1].index(current) :]
    return [*dict.fromkeys(name for name in reversed(past) if name != current)]


def cut_off(directory: Path, action: str, release: str) -> bool:
    """Say whether the last action is this one, was killed before its end, and has switched to `release`, if it did."""
    *_, last = {}, *read_entries(directory)
    ended = last.get("step") in ("done", "refused")
    return not ended and (last.get("action"), last.get("release")) == (action, release)


def _switch(past: list[str], release: str, action: str) -> None:
    """Note what is current now: a rollback takes away what came after it, which is all where it is not known."""
    if action == _BACK:
        past[:] = past[: len(past) - past[::-1].index(release)] if release in past else [release]
    elif not past or past[-1] != release:
        past.append(release)
