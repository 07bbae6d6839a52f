# SPDX-License-Identifier: Apache-2.0
"""The inputs of a measurement: the promised ranges at their ends, seeded, and small enough to run."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packager.steps import _cases

TEXT: dict[str, Any] = {
    "inputs": [
        {"name": name, "dtype": "int64", "shape": ["batch", "sequence"]}
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ],
    "dimensions": {"batch": {"min": 1, "max": 64}, "sequence": {"min": 1, "max": 512}},
}
RANGES = {"input_ids": [0, 99], "attention_mask": [0, 1], "token_type_ids": [0, 1]}


def image(side: int, high: int) -> dict[str, Any]:
    port = {"name": "image", "dtype": "float32", "shape": ["batch", 3, side, side]}
    return {"inputs": [port], "dimensions": {"batch": {"min": 1, "max": high}}}


def test_every_dimension_is_swept_while_the_others_stay_small() -> None:
    lengths = [dict(case.lengths) for case in _cases.cases(TEXT) if case.fill == "random"]
    assert [x["batch"] for x in lengths if x["sequence"] == 7] == [1, 2, 37, 64]
    assert [x["sequence"] for x in lengths if x["batch"] == 3] == [1, 2, 257, 512]
    assert {"batch": 1, "sequence": 1} in lengths
    assert _cases.longest(_cases.cases(TEXT), TEXT) == {}


def test_a_case_too_large_to_run_is_shortened_and_said() -> None:
    found = image(224, 64)
    done = _cases.cases(found)
    assert _cases.longest(done, found) == {"batch": 6}
    assert len({case.name for case in done}) == len(done)


def test_fixed_shapes_have_cases_too() -> None:
    found = {"inputs": [{"name": "x", "dtype": "float32", "shape": [2, 3]}], "dimensions": {}}
    assert [case.name for case in _cases.cases(found)] == [
        "fixed shapes", "zeros at fixed shapes", "low at fixed shapes", "high at fixed shapes",
    ]  # fmt: skip


def test_masks_are_prefixes_with_one_full_and_one_nearly_empty_row() -> None:
    case = _cases.Case("x", {"batch": 5, "sequence": 9})
    feeds = _cases.feeds(TEXT, RANGES, case, seed=1)
    mask = feeds["attention_mask"]
    assert mask.dtype == np.int64 and mask[0].sum() == 9 and mask[-1].tolist() == [1] + [0] * 8
    assert (np.diff(mask, axis=1) <= 0).all() and (mask.sum(1) >= 1).all()
    assert set(np.unique(feeds["token_type_ids"])) == {0, 1}


def test_values_follow_the_seed() -> None:
    case = _cases.cases(TEXT)[2]
    one, two, other = (_cases.feeds(TEXT, RANGES, case, seed) for seed in (1, 1, 2))
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["input_ids"] != other["input_ids"]).any()


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 3))
def test_lengths_stay_in_range(low: int, width: int, seed: int) -> None:
    found = image(2, 1)
    found["dimensions"]["batch"] = {"min": low, "max": low + width}
    done = _cases.cases(found)
    assert {low, low + 1, low + width} <= {case.lengths["batch"] for case in done}
    assert all(low <= case.lengths["batch"] <= low + width for case in done)


@given(st.floats(-100, 100), st.floats(0, 100), st.sampled_from(["random", "zeros", "low", "high"]))
def test_values_stay_in_range(low: float, width: float, fill: Any) -> None:
    case = _cases.Case("x", {"batch": 2}, fill)
    values = _cases.feeds(image(2, 4), {"image": [low, low + width]}, case, seed=0)["image"]
    assert values.dtype == np.float32
    assert (values >= np.float32(low)).all() and (values <= np.float32(low + width)).all()
