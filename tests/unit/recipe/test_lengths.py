# SPDX-License-Identifier: Apache-2.0
"""Lengths of axes: what is taken, what comes next below, which take all that others take, and formulas of them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.suite import contract as suite
from packager.recipe.lengths import Axis, Lengths, Measured, evaluate
from packager.server.protocol.interface import Interface

STUB = importlib.util.spec_from_file_location("triton_stub", Path(__file__).parents[3] / "templates/triton/model.py")
assert STUB and STUB.loader
stub = importlib.util.module_from_spec(STUB)
STUB.loader.exec_module(stub)

SPANS = st.builds(Lengths, st.integers(1, 40), st.none() | st.integers(80, 200), st.integers(1, 16))
LISTS = st.sets(st.integers(1, 99), min_size=1, max_size=6).map(Lengths.of)
LENGTHS = SPANS | LISTS


@st.composite
def spans_with_more(draw: st.DrawFn) -> Lengths:
    span = draw(SPANS)
    rests = draw(st.sets(st.integers(1, 15), max_size=3))
    span = replace(span, remainders=tuple(sorted(rest for rest in rests if rest < span.step)))
    drawn = draw(st.sets(st.integers(1, 300), max_size=4))
    return replace(span, also=tuple(sorted(length for length in drawn if length not in span)))


WITH_MORE = LENGTHS | spans_with_more()


@given(LENGTHS, st.integers(0, 300))
def test_near_is_the_largest_length_not_above(taken: Lengths, asked: int) -> None:
    near = taken.near(asked)
    assert near in taken
    assert near <= asked or all(length not in taken for length in range(1, asked + 1))
    assert all(length not in taken for length in range(near + 1, asked + 1))


@given(WITH_MORE, WITH_MORE)
def test_within_says_what_membership_says(one: Lengths, other: Lengths) -> None:
    inside = all(length in other for length in range(1, 2000) if length in one)
    if one.within(other):
        assert inside and (one.high is not None or other.high is None)
    elif one.high is not None:
        assert not inside


@given(WITH_MORE, WITH_MORE, st.none() | st.tuples(st.integers(1, 9), st.just("width")))
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
        {"min": 32, "step": 32, "also": [64]},
        {"min": 32, "step": 32, "also": [2, 1]},
        {"min": 32, "step": 32, "also": [1, 1]},
        {"min": 32, "step": 32, "also": [0]},
        {"min": 32, "step": 32, "also": "1"},
        {"min": 32, "step": 32, "also": list(range(1, 300, 2))[:257] * 2},
        {"min": 4, "max": 8, "values": [4, 8], "also": [1]},
        {"min": 4, "max": 8, "values": [4, 8], "remainders": [1]},
        {"min": 32, "step": 32, "remainders": [32]},
        {"min": 32, "step": 32, "remainders": [0]},
        {"min": 32, "step": 32, "remainders": [31, 30]},
        {"min": 32, "step": 32, "remainders": [31], "also": [63]},
        {"min": 1, "remainders": [1]},
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
    assert str(Lengths(32, None, 32, also=(1, 3))) == "multiples of 32 from 32 on, and 1, 3"
    assert str(Measured(Lengths(4, 256, 4), Lengths(), (4, "width"))).startswith("= 4 * width; ")


def test_single_lengths_are_taken_and_not_measured() -> None:
    limit = Lengths(32, 640, 32, also=(1, 100))
    assert [length for length in range(1, 700) if length in limit] == [1, *range(32, 97, 32), 100, *range(128, 641, 32)]
    assert (limit.near(0), limit.near(31), limit.near(101)) == (32, 32, 96)
    assert Axis(limit).promised == (32, 640)
    assert limit.to_json() == {"min": 32, "max": 640, "step": 32, "also": [1, 100]}
    rounded = Lengths(32, None, 32, remainders=(30, 31), also=(31,))
    assert [length for length in range(1, 100) if length in rounded] == [31, 32, 62, 63, 64, 94, 95, 96]
    assert rounded.near(95) == 64, "multiples are measured"
    assert str(rounded) == "multiples of 32 (and remainders 30, 31) from 32 on, and 31"


@given(WITH_MORE, st.integers(1, 320))
def test_all_readers_of_a_limit_take_the_same_lengths(limit: Lengths, length: int) -> None:
    """The build, the server, the conformance suite and Triton's stub each read a contract by themselves."""
    dimensions = {"n": {"min": 1, "max": 1, "limit": limit.to_json()}}
    port = {"name": "x", "dtype": "float32", "shape": ["n"]}
    stated = {"inputs": [port], "outputs": [port], "dimensions": dimensions}
    feeds = {"x": np.zeros(length, "float32")}
    assert (length in Interface.from_json(stated).allowed_range("n")) == (length in limit)
    port_of_suite = suite.Port("x", "float32", ("n",))
    read = suite.Contract((port_of_suite,), (), {}, dimensions, {}, {"interface": stated})
    assert (suite.refusal(read, feeds) is None) == (length in limit)
    model = stub.TritonPythonModel()
    model._interface = stated
    assert (model._refusal(feeds) is None) == (length in limit)
