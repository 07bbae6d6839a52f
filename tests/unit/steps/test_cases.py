# SPDX-License-Identifier: Apache-2.0
"""The inputs of a measurement: the promised ranges at their ends, seeded, and small enough to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager import error_causes
from packager.errors import StepError
from packager.exporters._interface.masks import Stretch
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
    lengths = [dict(case.lengths) for case in _cases.build_cases(TEXT) if case.fill == "random"]
    assert [x["batch"] for x in lengths if x["sequence"] == 7] == [1, 2, 37, 64]
    assert [x["sequence"] for x in lengths if x["batch"] == 3] == [1, 2, 257, 512]
    assert {"batch": 1, "sequence": 1} in lengths
    assert _cases.shortened_dimensions(_cases.build_cases(TEXT), TEXT) == {}


def test_a_case_too_large_to_run_is_shortened_and_said() -> None:
    found = image(224, 64)
    done = _cases.build_cases(found)
    assert _cases.shortened_dimensions(done, found) == {"batch": 27}
    assert len({case.name for case in done}) == len(done)


def test_where_the_work_is_known_it_decides() -> None:
    found = image(224, 64)
    cheap = _cases.build_cases(found, work=lambda lengths: 1e9 * lengths["batch"])
    assert _cases.shortened_dimensions(cheap, found) == {}
    dear = _cases.build_cases(found, work=lambda lengths: 1e11 * lengths["batch"])
    assert _cases.shortened_dimensions(dear, found) == {"batch": 10}
    assert _cases.shortened_dimensions(_cases.build_cases(found, work=lambda lengths: None), found) == {"batch": 27}


def test_half_a_million_numbers_per_row_are_run_in_full() -> None:
    port = {"name": "spectrogram", "dtype": "float32", "shape": ["batch", 512, 128]}
    found = {"inputs": [port], "dimensions": {"batch": {"min": 1, "max": 32}}}
    assert _cases.shortened_dimensions(_cases.build_cases(found), found) == {}


def drawn(dtype: str, fill: Any = "random", rows: int = 16) -> Any:
    found = {
        "inputs": [{"name": "x", "dtype": dtype, "shape": ["rows", 5]}],
        "dimensions": {"rows": {"min": 1, "max": 64}},
    }
    return _cases.draw_feeds(found, {}, _cases.Case("x", {"rows": rows}, fill), seed=3)["x"]


def test_integers_without_range_are_measured_over_their_type() -> None:
    values = drawn("int64")
    assert (values < 0).any() and (abs(values) <= 9).any()
    assert ((abs(values) > 2**31 - 1000) & (abs(values) < 2**31 + 1000)).any()
    assert ((abs(values) > 2**53 - 1000) & (abs(values) < 2**53 + 1000)).any()
    assert ((values >= 10**12) & (values <= 2 * 10**12)).all(1).any()  # milliseconds of our time
    assert drawn("int32").min() < -(2**30) and drawn("int32").max() > 2**30
    assert drawn("uint8", rows=64).min() < 9 and drawn("uint8", rows=64).max() > 246


def test_an_edge_lies_on_one_number_of_every_row() -> None:
    for fill, edge in (("low", -(1 << 60)), ("high", 1 << 60)):
        values = drawn("int64", fill)
        assert ((values == edge).sum(1) == 1).all() and (abs(values[values != edge]) <= 9).all()
    assert not drawn("int64", "zeros").any()


def test_doubles_are_drawn_where_float32_rounds() -> None:
    values = drawn("float64")
    assert ((values != values.astype("float32")).mean(1) > 0.5).all()
    near_one = abs(values - 1).max(1) < 1e-6
    assert near_one.any() and (values.max(1) > 9e12).any()


def test_inputs_differ_where_an_output_is_a_position() -> None:
    found = image(4, 4)
    case = _cases.Case("x", {"batch": 3}, "high")
    assert set(_cases.draw_feeds(found, {"image": [0, 9]}, case, 1)["image"].reshape(-1)) == {9}
    found["outputs"] = [{"name": "class", "dtype": "int64", "shape": ["batch"]}]
    values = _cases.draw_feeds(found, {"image": [0, 9]}, case, 1)["image"].reshape(3, -1)
    assert ((values == 9).sum(1) == 1).all() and len(np.unique(values)) > 40


def test_a_mask_draws_itself() -> None:
    port = {"name": "pad", "dtype": "bool", "shape": ["batch", "time"]}
    found = {"inputs": [port], "dimensions": {name: {"min": 1, "max": 8} for name in ("batch", "time")}}
    for shown in (True, False):
        pad = _cases.draw_feeds(found, {}, _cases.Case("x", {"batch": 4, "time": 7}), 1, {"pad": Stretch(shown)})["pad"]
        assert (pad[:, 0] == shown).all() and (pad[0] == shown).all() and not (pad == shown).all()
    names = [case.name for case in _cases.build_cases(found, {"pad": Stretch(True)})]
    assert not [name for name in names if name.startswith("listed")] and "low at batch=3, time=7" in names


def test_fixed_shapes_have_cases_too() -> None:
    found = {"inputs": [{"name": "x", "dtype": "float32", "shape": [2, 3]}], "dimensions": {}}
    assert [case.name for case in _cases.build_cases(found)] == [
        "fixed shapes",
        "zeros at fixed shapes",
        "low at fixed shapes",
        "high at fixed shapes",
    ]


def test_masks_are_prefixes_full_and_nearly_empty() -> None:
    case = _cases.Case("x", {"batch": 5, "sequence": 9})
    feeds = _cases.draw_feeds(TEXT, RANGES, case, seed=1)
    mask = feeds["attention_mask"]
    assert mask.dtype == np.int64 and mask[0].sum() == 9 and mask[-1].tolist() == [1] + [0] * 8
    assert (np.diff(mask, axis=1) <= 0).all() and (mask.sum(1) >= 1).all()
    assert set(np.unique(feeds["token_type_ids"])) == {0, 1}


def test_values_follow_the_seed() -> None:
    case = _cases.build_cases(TEXT)[2]
    one, two, other = (_cases.draw_feeds(TEXT, RANGES, case, seed) for seed in (1, 1, 2))
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["input_ids"] != other["input_ids"]).any()


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 3))
def test_lengths_stay_in_range(low: int, width: int, seed: int) -> None:
    found = image(2, 1)
    found["dimensions"]["batch"] = {"min": low, "max": low + width}
    done = _cases.build_cases(found)
    assert {low, low + 1, low + width} <= {case.lengths["batch"] for case in done}
    assert all(low <= case.lengths["batch"] <= low + width for case in done)


@given(st.floats(-100, 100), st.floats(0, 100), st.sampled_from(["random", "zeros", "low", "high"]))
def test_values_stay_in_range(low: float, width: float, fill: Any) -> None:
    case = _cases.Case("x", {"batch": 2}, fill)
    values = _cases.draw_feeds(image(2, 4), {"image": [low, low + width]}, case, seed=0)["image"]
    assert values.dtype == np.float32
    assert (values >= np.float32(low)).all() and (values <= np.float32(low + width)).all()


# -- what a failure says

ONE: dict[str, Any] = {
    "inputs": [{"name": "x", "dtype": "int64", "shape": ["batch"]}],
    "dimensions": {"batch": {"min": 1, "max": 64}},
}


def failing(who: str, run: Any, interface: Any = ONE) -> StepError:
    given = {"x": np.array([5, 7, 9])}
    with pytest.raises(StepError) as caught:
        _cases.run_or_explain(who, _cases.Case("batch=3", {"batch": 3}), run, given, interface)
    return caught.value


def refuses(when: Any) -> Any:
    def run(feeds: Any) -> list[Any]:
        if when(feeds["x"]):
            raise ValueError(
                "Graph execution error:\n\nDetected at node 'Gather'\n\nindex 7 is not in [0, 4)\n\t [[{{node x}}]]"
            )
        return [feeds["x"]]

    return run


def test_failure_on_some_values_names_ranges() -> None:
    error = failing("source", refuses(lambda x: x.max() > 4))
    assert "fails on inputs within the promised ranges (batch=3): ValueError: index 7 is not in [0, 4)" in error.message
    assert "`inputs`" in (error.hint or "")


def test_failure_at_some_lengths_names_dimensions() -> None:
    error = failing("source", refuses(lambda x: len(x) > 1))
    assert "does not accept these lengths (batch=3)" in error.message and "`dynamic`" in (error.hint or "")


def test_a_source_that_never_runs_is_the_files_fault() -> None:
    error = failing("source", refuses(lambda x: True))
    assert error.message.startswith("the source does not run, whatever its inputs are: ValueError: index 7 is not in")
    assert "narrow" not in (error.hint or "")


def test_a_graph_that_never_runs_is_the_conversions_fault() -> None:
    error = failing("artefact", refuses(lambda x: True))
    assert error.message.startswith("the converted graph does not run, although the source does: ValueError: index 7")
    assert "conversion" in (error.hint or "") and "narrow" not in (error.hint or "")
    some = failing("artefact", refuses(lambda x: x.max() > 4))
    assert "fails on inputs that the source answers (batch=3)" in some.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        (
            "Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\n  File \"x.py\", line 3, in f\nInvalid shape\n\t [[{{node a}}]] [Op:f]",
            "Invalid shape",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. Name:'g' Status Message: idx=9 must be within [-4,3]",
            "Gather: idx=9 must be within [-4,3]",
        ),
        ("Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nKeyError: 'a'", "KeyError: 'a'"),
        ("", "no message"),
    ],
)
def test_the_line_that_holds_the_cause_is_shown(text: str, line: str) -> None:
    assert error_causes.find_cause(RuntimeError(text)) == f"RuntimeError: {line}"


@pytest.mark.parametrize("fill", ["random", "zeros", "low", "high"])
def test_a_number_without_axes_is_an_array(fill: Any) -> None:
    """ONNX Runtime takes no numpy scalars."""
    port = {"name": "rate", "dtype": "float32", "shape": []}
    interface = {"inputs": [port], "outputs": [], "dimensions": {}}
    case = _cases.Case("fixed shapes", {}, fill)
    made = _cases.draw_feeds(interface, {"rate": [46.875, 100]}, case, 0)["rate"]
    assert isinstance(made, np.ndarray) and made.shape == () and made.dtype == "float32"
    assert 46 < made <= 100
