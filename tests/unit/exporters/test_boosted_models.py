# SPDX-License-Identifier: Apache-2.0
"""Every kind of tree and booster answers as its own library does, on 2,400 fresh rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix.boosted_models import MODELS, REFUSED, judge
from tests.support.breadth import first_of_each


@pytest.mark.parametrize("name", first_of_each(MODELS, lambda name: tuple(name.split()[:2])))
def test_answers_are_the_librarys_own(name: str, tmp_path: Path) -> None:
    row = judge(name, tmp_path)
    assert row.verdict == "right", row


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_form_is_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    assert judge(name, tmp_path).verdict == "refused-clear"
