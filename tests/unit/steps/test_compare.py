# SPDX-License-Identifier: Apache-2.0
"""The law of the frontier: for every tolerance it decides what comparing every element decides."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from packager import canonical
from packager.steps import _compare
from packager.steps._compare import compare
from tests.support.breadth import examples

DTYPES = st.sampled_from(["float16", "float32", "float64"])
TOLERANCE = st.one_of(st.just(0.0), st.floats(0, 1e3), st.floats(0, 1e-4), st.floats(0, 1e-12))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two arrays of one shape and dtype; often close to each other, as an export is."""
    dtype = np.dtype(draw(DTYPES))
    shape = draw(arrays.array_shapes(max_dims=3, max_side=12))
    values = st.floats(width=dtype.itemsize * 8)  # type: ignore[arg-type]
    expected = draw(arrays.arrays(dtype, shape, elements=values))
    if draw(st.booleans()):
        return expected, draw(arrays.arrays(dtype, shape, elements=values))
    noise = np.random.default_rng(draw(st.integers(0, 99))).normal(
        scale=draw(st.sampled_from([1e-3, 1e-7])), size=shape
    )
    with np.errstate(all="ignore"):
        return expected, (expected * (1 + noise)).astype(dtype)


def brute_force(expected: Any, got: Any, atol: float, rtol: float) -> bool:
    """Every finite element, in binary64; everything else exactly."""
    left, right = expected.astype("float64"), got.astype("float64")
    finite = np.isfinite(left) & np.isfinite(right)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(all="ignore"):
        difference = np.minimum(abs(right - left), 1.7976931348623157e308)
        within = difference <= atol + rtol * abs(left)
    return bool(np.where(finite, within, same).all())


def judged(record: Any, atol: float, rtol: float) -> bool:
    """What a policy computes from the record."""
    points = record["frontier"]
    return record["not_finite"] == 0 and all(p["difference"] <= atol + rtol * p["magnitude"] for p in points)


@settings(max_examples=examples(300), deadline=None)
@given(pairs(), TOLERANCE, TOLERANCE)
def test_the_frontier_decides_for_every_tolerance(pair: tuple[Any, Any], atol: float, rtol: float) -> None:
    record = compare(*pair)
    assert len(record["frontier"]) <= _compare.POINTS
    assert record["reduced"] == "none"
    assert judged(record, atol, rtol) == brute_force(*pair, atol, rtol)


@settings(max_examples=examples(200), deadline=None)
@given(pairs())
def test_a_record_is_json_and_points_at_what_it_says(pair: tuple[Any, Any]) -> None:
    expected, got = pair
    record = compare(expected, got)
    canonical.dump(record)
    for point in record["frontier"]:
        index = tuple(point["index"])
        assert (point["expected"], point["got"]) == (expected[index].item(), got[index].item())
        difference = abs(float(got[index]) - float(expected[index]))
        assert (point["difference"], point["magnitude"]) == (
            min(difference, 1.7976931348623157e308),
            abs(point["expected"]),
        )


def proportional(count: int) -> tuple[Any, Any]:
    """Differences that grow with the square root of the magnitude: no point dominates, every one is a corner."""
    expected = np.arange(1, count + 1, dtype="float64") ** 2
    return expected, expected + np.arange(1, count + 1) * 1e-3


@pytest.mark.parametrize(("count", "reduced"), [(64, "none"), (65, "merged"), (5000, "merged")])
def test_too_many_points_are_merged_to_the_safe_side(count: int, reduced: str) -> None:
    expected, got = proportional(count)
    record = compare(expected, got)
    assert (record["reduced"], len(record["frontier"]) <= _compare.POINTS) == (reduced, True)
    for atol in (0, 1e-4, 1e-3, 1e-2, 0.1, 1):
        for rtol in (0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
            assert brute_force(expected, got, atol, rtol) or not judged(record, atol, rtol)


def test_points_below_the_hull_go_first() -> None:
    magnitude = np.arange(1, 1001, dtype="float64")
    difference = magnitude * 1e-3
    difference[1::2] *= 0.9995
    record = compare(magnitude, magnitude + difference)
    assert record["reduced"] == "hull"
    for rtol in (1.1e-3, 1.0e-3 - 1e-9, 1.2e-3, 9e-4):
        assert judged(record, 0, rtol) == brute_force(magnitude, magnitude + difference, 0, rtol)


@pytest.mark.parametrize(
    ("expected", "got", "mismatches"),
    [
        ([math.nan, math.inf, -math.inf], [math.nan, math.inf, -math.inf], 0),
        ([math.nan, 1.0], [1.0, math.nan], 2),
        ([math.inf], [-math.inf], 1),
        ([math.inf, 65504.0], [math.inf, math.inf], 1),
    ],
)
def test_what_is_not_finite_must_agree_exactly(expected: list[float], got: list[float], mismatches: int) -> None:
    record = compare(np.array(expected), np.array(got))
    assert record["not_finite"] == mismatches
    assert ("first_not_finite" in record) == bool(mismatches)


def test_texts_stand_for_what_json_has_no_number_for() -> None:
    record = compare(np.array([1.0, math.nan]), np.array([1.0, -math.inf]))
    assert record["first_not_finite"] == {"index": [1], "expected": "nan", "got": "-inf"}
    assert compare(np.array([0.0]), np.array([1.0]))["max_rel"] == "inf"
    big = compare(np.array([2**60]), np.array([2**60 + 1]))
    assert big["first_unequal"] == {"index": [0], "expected": str(2**60), "got": str(2**60 + 1)}


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_are_compared_exactly(dtype: str) -> None:
    expected = np.array([[0, 1], [1, 0]], dtype)
    got = np.array([[0, 1], [0, 0]], dtype)
    assert compare(expected, expected)["unequal"] == 0
    record = compare(expected, got)
    assert record["unequal"] == 1 and record["first_unequal"]["index"] == [1, 0]


def test_another_shape_or_dtype_is_said_and_nothing_else() -> None:
    record = compare(np.zeros((2, 3), "float32"), np.zeros((2, 4), "float32"))
    assert record == {"dtype": "float32", "shape": [2, 3], "got": {"dtype": "float32", "shape": [2, 4]}}
    assert compare(np.zeros(2, "float32"), np.zeros(2, "float16"))["got"]["dtype"] == "float16"


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_arrays(shape: tuple[int, ...]) -> None:
    record = compare(np.zeros(shape, "float32"), np.zeros(shape, "float32"))
    assert (record["max_abs"], record["max_rel"], record["frontier"]) == (0.0, 0.0, [])


def test_bfloat16_counts_as_a_float() -> None:
    expected = np.array([1.0, 2.0]).astype(ml_dtypes.bfloat16)
    record = compare(expected, expected + np.array(0.0625).astype(ml_dtypes.bfloat16))
    assert record["dtype"] == "bfloat16" and record["max_abs"] == 0.0625
