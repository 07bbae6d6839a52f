# SPDX-License-Identifier: Apache-2.0
"""What long work reports. The library never prints: it hands these records to a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


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
    """A step ran to its end in `seconds`."""

    label: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` bytes of `label` are through; `total` 0 means unknown."""

    label: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence a person would want to read now, such as what a check proved."""

    message: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something works but deserves attention."""

    message: str


Event: TypeAlias = Started | Cached | Finished | Progress | Note | Warned
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default listener: silence."""
