# SPDX-License-Identifier: Apache-2.0
"""No file that a person or a stranger may write is a bug of ours; `input_fuzz` makes them, and runs for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.attacks.input_fuzz import BOMBS, KINDS, attempt, cases

SEED = random.SystemRandom().randrange(1 << 32)
CASES = 25


@pytest.mark.parametrize("name", KINDS)
def test_every_input_ends_in_a_result_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    for number, data in enumerate(cases(kind, random.Random(SEED), CASES)):
        why = attempt(kind, data, tmp_path)
        assert why is None, f"seed {SEED}, case {number} of {name}: {data[:300]!r}\n{why}"


@pytest.mark.parametrize("name", KINDS)
def test_the_seeds_mean_something(name: str, tmp_path: Path) -> None:
    """A fuzzer around files that are refused at once would try little."""
    assert len(BOMBS) > 40
    for seed in KINDS[name].seeds:
        assert attempt(KINDS[name], seed.encode(), tmp_path) is None
