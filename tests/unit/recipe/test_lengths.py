# SPDX-License-Identifier: Apache-2.0
"""Lengths of axes: what is taken, what comes next below, which take all that others take, and formulas of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.recipe.lengths import Axis, Lengths, Measured, evaluate

SPANS = st.builds(Lengths, st.integers(1, 40), st.none() | st.integers(80, 200), st.integers(1, 16))
LISTS = st.sets(st.integers(1, 99), min_size=1, max_size=6).map(Lengths.of)
LENGTHS = SPANS | LISTS


@given(LENGTHS, st.integers(0, 300))
def test_the_nearest_length_is_taken_and_no_longer_than_asked_where_that_is_possible(
    taken: Lengths, asked: int
) -> None:
    near = taken.near(asked)
    assert near in taken
    assert near <= asked or all(length not in taken for length in range(1, asked + 1))
    assert all(length not in taken for length in range(near + 1, asked + 1))


@given(LENGTHS, LENGTHS)
def test_within_says_what_membership_says(one: Lengths, other: Lengths) -> None:
    inside = all(length in other for length in range(1, 2000) if length in one)
    if one.within(other):
        assert inside and (one.high is not None or other.high is None)
    elif one.high is not None and not (one.step > 1 and one.near(0) + one.step > one.high):
        assert not inside


@given(LENGTHS, LENGTHS, st.none() | st.tuples(st.integers(1, 9), st.just("width")))
def test_what_is_written_is_read(one: Lengths, other: Lengths, tied: tuple[int, str] | None) -> None:
    assert Lengths.from_json(one.to_json()) == one
    if one.high is not None:
        found = Measured(one, other, tied)
        assert Measured.from_json(found.to_json()) == found
    assert Axis.from_json(Axis(one, (3, 9)).to_json()) == Axis(one, (3, 9))
    assert Axis.from_json(Axis(one).to_json()) == Axis(one)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"min": 0},
        {"min": 2, "max": 1},
        {"min": 1, "max": 31, "step": 32},
        {"min": 1, "size": 2},
        {"min": True},
        {"min": 1, "values": [2]},
        {"min": 1, "max": 2, "values": [2, 1]},
        {"min": 1, "step": 0},
    ],
)
def test_other_forms_are_refused(value: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Lengths.from_json(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4*width", 28),
        ("width//2", 3),
        ("ceil(width/2)", 4),
        ("2*width-1", 13),
        ("width+3", 10),
        ("batch*width", 21),
        ("width", 7),
        ("other", None),
        ("width//0", None),
        ("__import__('os')", None),
        ("width**2", None),
    ],
)
def test_formulas(text: str, value: int | None) -> None:
    assert evaluate(text, {"batch": 3, "width": 7}) == value


def test_a_line_says_what_was_measured_and_what_is_taken() -> None:
    assert str(Measured(Lengths(1, 64), Lengths())) == "measured 1 to 64; any other is taken"
    assert str(Measured(Lengths(1, 64), Lengths(1, 64))) == "1 to 64, measured; others are refused"
    assert str(Measured(Lengths(32, 640, 32), Lengths(32, None, 32))) == (
        "measured multiples of 32 from 32 to 640; taken: multiples of 32 from 32 on"
    )
    assert str(Measured(Lengths(4, 256, 4), Lengths(), (4, "width"))).startswith("= 4 * width; ")
