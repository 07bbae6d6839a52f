# SPDX-License-Identifier: Apache-2.0
"""`docs/reference/models.md` says what the recorded verdicts say, and they hold no wrong answer and no crash."""

from __future__ import annotations

from collections import Counter

from tests.matrix import models_page


def test_the_page_is_what_was_recorded() -> None:
    assert models_page.PAGE.read_text() == models_page.render(models_page.rows())


def test_nothing_recorded_is_wrong_crashes_or_is_refused_without_a_word() -> None:
    bad = [row for row in models_page.rows() if row["verdict"] in ("wrong", "crash", "refused-poor")]
    assert not bad, bad
    counts = Counter(row["family"] for row in models_page.rows())
    assert counts["sklearn"] >= 150 and counts["transformers"] >= 100 and counts["boosted"] >= 30
    assert counts["torch"] + counts["onnx"] >= 40
