# SPDX-License-Identifier: Apache-2.0
"""A few of the random tables and models of the fuzzer, by fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix.fuzz_tables import judged

SEEDS = (1, 2, 5, 8, 9, 10, 11, 14, 17, 18, 25, 27, 29, 31, 32)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", SEEDS)
def test_random_table_models_are_right_on_fresh_rows(seed: int, tmp_path: Path) -> None:
    found = judged(seed, tmp_path)
    assert found.verdict == "right", found.line()
