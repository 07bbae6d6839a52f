# SPDX-License-Identifier: Apache-2.0
"""The kind of a difference is found by asking the source what would explain it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from packager.steps import _diagnose

COLORS = {"red": 1.0, "green": 2.0, "blue": 5.0}


def source(feeds: Mapping[str, Any]) -> list[Any]:
    """Add a price that steps at 10, a whole number, a missing value's 7 and a colour's number."""
    price = np.where(np.isnan(feeds["price"]), 7.0, feeds["price"])
    steps = price + np.where(price > 10.000000001, 100.0, 0.0)
    color = np.vectorize(lambda name: COLORS.get(name, -3.0))(feeds["color"])
    return [(steps + (feeds["count"] % 1000) + color).astype("float64")]


ROW = {
    "price": np.array([[3.7]]),
    "count": np.array([[41]], dtype="int64"),
    "color": np.array([["Red"]], dtype=object),
}
SAMPLES = {"color": np.array([["red"], ["green"], ["blue"]], dtype=object)}


def changed(name: str, change: Any) -> Any:
    return lambda feeds: source({**feeds, name: change(feeds[name])})


@pytest.mark.parametrize(
    ("row", "artefact", "words"),
    [
        ({}, changed("price", np.trunc), "drops the fractions"),
        (
            {"price": np.array([[10.0000000011]])},
            changed("price", lambda v: v.astype("float32").astype("float64")),
            "rounds numbers to float32",
        ),
        ({"price": np.array([[np.nan]])}, changed("price", np.nan_to_num), "missing numbers for zeros"),
        (
            {"count": np.array([[(1 << 40) + 3]])},
            changed("count", lambda v: v.astype("int32").astype("int64")),
            "32 bits of whole numbers",
        ),
        ({}, changed("color", lambda v: np.full_like(v, "red")), "lower case"),
        (
            {"color": np.array([["green"]], dtype=object)},
            changed("color", lambda v: np.full_like(v, "blue")),
            "takes `green` in `color` for `blue`",
        ),
    ],
)
def test_what_a_faulty_graph_did_is_said(row: Any, artefact: Any, words: str) -> None:
    assert words in str(_diagnose.explain(source, artefact, {**ROW, **row}, 0, SAMPLES))


def test_a_threshold_with_other_neighbours_is_named() -> None:
    row = {**ROW, "price": np.array([[10.0]])}
    above = {**row, "price": np.nextafter(np.float32(10), np.float32(11)).astype("float64").reshape(1, 1)}
    words = _diagnose.explain(source, lambda feeds: source(above), row, 0, SAMPLES)
    assert words and "another side" in words.replace("the other side", "another side") and "`price`" in words


def test_chance_training_and_order_are_named() -> None:
    random = np.random.default_rng(0)
    noisy = _diagnose.explain(lambda feeds: [random.random((1, 2))], source, ROW, 0, {})
    assert noisy and "model.eval()" in noisy
    order = _diagnose.explain(lambda f: [np.array([[0.1, 0.9]])], lambda f: [np.array([[0.9, 0.1]])], ROW, 0, {})
    assert order and "another order" in order


def test_nothing_is_made_up() -> None:
    assert _diagnose.explain(source, lambda feeds: [source(feeds)[0] * 1.37 + 0.11], ROW, 0, SAMPLES) is None
