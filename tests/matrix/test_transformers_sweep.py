# SPDX-License-Identifier: Apache-2.0
"""The recorded sweep over transformers (`results/transformers.jsonl`) holds, and what was right in it stays right.

Rows are made by `python -m tests.matrix.transformers_sweep FILE`, which goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import transformers_models, transformers_sweep

RESULTS = Path(__file__).with_name("results") / "transformers.jsonl"
ROWS = transformers_sweep.read(RESULTS)


def test_the_record_has_no_wrong_answer_and_no_crash() -> None:
    counts = Counter(row["verdict"] for row in ROWS)
    assert counts["wrong"] == counts["crash"] == counts["refused-poor"] == 0, counts
    assert counts["right"] >= 0.85 * expressible(), counts


def expressible() -> int:
    """Return how many rows one graph could hold at all: not those of encoders with decoders, which loop."""
    return sum(row["verdict"] != "unbuilt" and "encoder-decoder" not in row["reason"] for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['task']}")
def test_no_row_gets_worse(row: dict[str, Any]) -> None:
    if (row["model"], row["task"]) not in transformers_models.rows():
        pytest.skip("not an architecture of this release")
    found = transformers_sweep.judge(row["model"], row["task"])
    if row["verdict"] == "right":
        assert found["verdict"] == "right", found
    assert found["verdict"] in ("right", "refused-clear", "unbuilt"), found


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    done = {"family": "transformers", "model": "bart", "task": "base", "verdict": "refused-clear", "reason": "said"}
    out.write_text(json.dumps(done) + "\n")
    rows = [("bart", "base"), ("bart", "question-answering")]
    (added,) = transformers_sweep.sweep(out, rows)
    assert (added["task"], added["verdict"]) == ("question-answering", "refused-clear")
    assert [row["task"] for row in transformers_sweep.read(out)] == ["base", "question-answering"]
    assert not list(transformers_sweep.sweep(out, rows))
