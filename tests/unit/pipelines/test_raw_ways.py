# SPDX-License-Identifier: Apache-2.0
"""The table of ways itself: what it calls equal is equal, what differs is shown, and nothing is run twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.matrix import raw_ways
from tests.matrix.raw_calls import WAYS, Refused
from tests.matrix.raw_sources import PIPELINES, Raw


@pytest.mark.parametrize(
    ("expected", "got", "gap"),
    [
        ({"a": 0.5}, {"a": 0.5}, 0.0),
        ({"a": 0.5}, {"a": 0.25}, 0.25),
        ([["x", 1, 0.5]], [["x", 3, 0.5]], 2),
        ([1.0], [float("nan")], float("inf")),
        ({"m": np.zeros((2, 2))}, {"m": np.eye(2)}, 1.0),
    ],
)
def test_the_largest_difference(expected: Any, got: Any, gap: float) -> None:
    assert raw_ways.largest_difference(expected, got) == gap


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ({"a": 0.5}, {"b": 0.5}),
        ([["x", 1]], [["y", 1]]),
        ([1.0], [1.0, 2.0]),
        ({"m": np.zeros((2, 2))}, {"m": np.zeros((2, 3))}),
        ({"a": 1.0}, None),
    ],
)
def test_another_answer_is_no_number(expected: Any, got: Any) -> None:
    with pytest.raises(raw_ways.OtherAnswer):
        raw_ways.largest_difference(expected, got)


def test_cells_are_kept_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def near(raw: Raw, folder: Path) -> list[Any]:
        asked.append("near")
        return [0.75]

    def refusing(raw: Raw, folder: Path) -> list[Any]:
        raise Refused("no rows\nhere")

    raw = Raw(None, {"task": "sentence-embedding"}, [{"text": "a"}], [0.5])  # type: ignore[arg-type]
    monkeypatch.setitem(PIPELINES, "own", lambda folder: raw)  # type: ignore[arg-type]
    monkeypatch.setitem(WAYS, "near", near)  # type: ignore[arg-type]
    monkeypatch.setitem(WAYS, "refusing", refusing)  # type: ignore[arg-type]
    for _ in range(2):
        raw_ways.fill(tmp_path, ["own"], ["near", "refusing"])
    cells = raw_ways.known(tmp_path / raw_ways.RECORD)
    assert cells == {("own", "near"): "2.5e-01", ("own", "refusing"): "refused: no rows here"} and asked == ["near"]
    assert any(line.startswith("| own |") and "2.5e-01" in line for line in raw_ways.table(cells).splitlines())
