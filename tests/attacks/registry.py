# SPDX-License-Identifier: Apache-2.0
"""The list of attacks: each function that makes one is registered with the error that must come of it.

Its docstring says why it must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packager.errors import (
    PackagerError,
)
from tests.attacks.stage import Attempt, Stage


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    error: type[PackagerError]
    make: Callable[[Stage, Path], Attempt]

    @property
    def why(self) -> str:
        return (self.make.__doc__ or "").strip()


ATTACKS: dict[str, Attack] = {}


def fails_with(
    error: type[PackagerError],
) -> Callable[[Callable[[Stage, Path], Attempt]], Callable[[Stage, Path], Attempt]]:
    def register(make: Callable[[Stage, Path], Attempt]) -> Callable[[Stage, Path], Attempt]:
        ATTACKS[make.__name__] = Attack(make.__name__, error, make)
        return make

    return register


def variants(error: type[PackagerError], why: str, **changes: Callable[[Stage, Path], Attempt]) -> None:
    """Register several attacks that differ in one value only."""
    for name, make in changes.items():
        make.__name__, make.__doc__ = name, why
        fails_with(error)(make)
