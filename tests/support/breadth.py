# SPDX-License-Identifier: Apache-2.0
"""How much a run tries: `make test` a sample of what `make test-all` does, which sets PACKAGER_TEST_STARTS."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pytest

Row = TypeVar("Row")
ALL = "PACKAGER_TEST_STARTS" in os.environ
_SHARE = 5


def examples(number: int) -> int:
    """Return how many examples of a law are drawn: `number` in a full run, else a fifth, at least 20 where it has as many.

    Examples are drawn anew in each run, so that many short runs see what a long one does.
    """
    return number if ALL else min(number, max(20, number // _SHARE))


def sample_of(rows: Sequence[Row]) -> Sequence[Row]:
    """Return all rows in a full run, else a fifth of them, drawn anew in each run."""
    return rows if ALL else random.SystemRandom().sample(rows, max(1, len(rows) // _SHARE))


def first_of_each(rows: Iterable[Row], kind: Callable[[Row], object]) -> list[Any]:
    """Return `rows` as parameters of a test of which only the first of each kind runs by default."""
    seen: set[object] = set()
    found = []
    for row in rows:
        found.append(pytest.param(row, marks=[pytest.mark.slow] if kind(row) in seen else []))
        seen.add(kind(row))
    return found


def some_of(rows: Iterable[str], *chosen: str) -> list[Any]:
    """Return names as parameters of a test of which only the chosen ones run by default."""
    found = [pytest.param(row, marks=[] if row in chosen else [pytest.mark.slow]) for row in rows]
    assert sum(not row.marks for row in found) == len(chosen), "a chosen name is not among the rows"
    return found
