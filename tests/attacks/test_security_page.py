# SPDX-License-Identifier: Apache-2.0
"""What `docs/explanation/security.md` counts is counted; that what it names exists is a matter of `tests/test_pages.py`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.hostile import gadgets

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "security.md").read_text("utf-8")


def test_the_gadgets_are_counted() -> None:
    (count,) = re.findall(r"(\d+) gadgets in `tests/hostile/gadgets.py`", PAGE)
    assert int(count) == len(gadgets.GADGETS)
