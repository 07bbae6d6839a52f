# SPDX-License-Identifier: Apache-2.0
"""Events that long work reports. The library never prints: it passes these records to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from packager.records import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """A step begins to run."""

    label: str


@dataclass(frozen=True, slots=True)
class Cached:
    """A step did not run because its result is known."""

    label: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The step that `Started` called `label` ran to its end in `seconds`; `outcome` is a word about how, or empty."""

    label: str
    seconds: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` bytes of `label` are processed; `total` 0 means unknown."""

    label: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence of information, such as what a check proved."""

    message: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something works but deserves attention."""

    message: str


Event: TypeAlias = Started | Cached | Finished | Progress | Note | Warned
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event: the default callback."""


@contextmanager
def report_duration(label: str, on_event: OnEvent) -> Iterator[None]:
    """Report that work begins, and its duration once it ends; work that raises reports no end."""
    on_event(Started(label))
    started = time.monotonic()
    yield
    on_event(Finished(label, time.monotonic() - started))
