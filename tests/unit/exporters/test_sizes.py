# SPDX-License-Identifier: Apache-2.0
"""Which lengths a model takes is found by running it: every axis by itself, together, small and large."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from packager.exporters._interface import free_lengths, sizes
from packager.exporters._interface.sizes import Axis, Span, explore

X0, X1, X2, X3 = (Axis("x", place) for place in range(4))
Y0, Y1 = Axis("y", 0), Axis("y", 1)


def spans(axes: list[Axis], accepts: Callable[..., bool]) -> dict[tuple[Axis, ...], Span]:
    def runs(lengths: Mapping[Axis, int]) -> bool:
        return accepts(*(lengths[axis] for axis in axes))

    found = explore(axes, runs)
    assert found is not None
    return {span.axes: span for span in found}


def test_any_length() -> None:
    (span,) = spans([X0], lambda rows: rows > 0).values()
    assert (span.kind, span.low, span.limited) == (sizes.ANY, 1, False)
    assert span.high >= 4096


@pytest.mark.parametrize(("low", "high"), [(1, 64), (3, 511), (7, 77), (192, 703), (181, 4999)])
def test_a_range(low: int, high: int) -> None:
    found = spans([X0, X1], lambda rows, length: low <= length <= high)
    assert (found[(X1,)].low, found[(X1,)].high, found[(X1,)].limited) == (low, high, True)


def test_ends_are_found_to_the_length_also_when_the_time_is_over() -> None:
    count = [0.0]

    def runs(lengths: Mapping[Axis, int]) -> bool:
        count[0] += 0.01  # seconds
        return 181 <= lengths[X1] <= 703

    (span,) = explore([X1], runs, seconds=0.6, clock=lambda: count[0]) or ()
    assert (span.low, span.high, span.limited) == (181, 703, True)


def test_an_end_is_found_where_only_a_small_batch_fits() -> None:
    def fits(lengths: Mapping[Axis, int]) -> bool:
        return lengths[X0] * lengths[X1] <= 1300 or lengths[X1] == 768

    found = explore([X0, X1], lambda lengths: 192 <= lengths[X1] <= 703, fits=fits) or ()
    assert (found[1].low, found[1].high, found[1].limited) == (192, 703, True)


def test_axes_that_broadcast_and_share_a_length_with_others_go_together() -> None:
    """A mask whose axes have names of their own, as an int8 sentence encoder of the package index has."""
    axes = [
        Axis(port, at, f"{'other ' if port == 'mask' else ''}{at}")
        for port in ("ids", "mask", "types")
        for at in (0, 1)
    ]

    def runs(lengths: Mapping[Axis, int]) -> bool:
        ids, mask, types = ([lengths[axis] for axis in axes if axis.port == port] for port in ("ids", "mask", "types"))
        return ids == types and all(m in (i, 1) or i == 1 for i, m in zip(ids, mask, strict=True))

    found = explore(axes, runs) or ()
    assert sorted(tuple(axis.position for axis in span.axes) for span in found) == [(0, 0, 0), (1, 1, 1)]
    assert all((span.kind, span.low, span.limited) == (sizes.ANY, 1, False) for span in found)


def test_a_mask_that_is_cut_to_the_length_of_its_texts_grows_with_them() -> None:
    axes = [Axis("ids", 1, "sequence"), Axis("types", 1, "sequence"), Axis("mask", 1, "other")]

    def runs(lengths: Mapping[Axis, int]) -> bool:
        ids, types, mask = (lengths[axis] for axis in axes)
        return ids == types and ids <= mask

    (span,) = explore(axes, runs) or ()
    assert (span.axes, span.kind, span.low, span.limited) == (tuple(axes), sizes.ANY, 1, False)


@pytest.mark.parametrize("step", [2, 8, 14, 32])
def test_multiples(step: int) -> None:
    found = spans([X0, X2, X3], lambda rows, height, width: height % step == width % step == 0)
    assert {span.kind for span in found.values()} == {sizes.ANY, sizes.STEPS}
    assert found[(X2,)].step == found[(X3,)].step == step


@pytest.mark.parametrize(
    ("step", "also"),
    [(32, {1}), (32, {1, 2, 3, 4}), (32, {1, 20, 21}), (8, {1, 3, 100, 101}), (4, {*range(1, 12)} - {4, 8}), (2, {1})],
)
def test_multiples_and_single_lengths_besides(step: int, also: set[int]) -> None:
    """Lengths between two that are tried are found, too, where any other beside the step runs."""
    found = spans([X0, X2], lambda rows, height: height % step == 0 or height in also)
    span = found[(X2,)]
    assert (span.kind, span.low, span.step, span.limited) == (sizes.STEPS, step, step, False)
    assert set(span.also) == also and span.remainders == ()


@pytest.mark.parametrize(
    ("takes", "remainders", "also"),
    [
        (lambda n: -(-n // 4) % 8 == 0, (29, 30, 31), (29, 30, 31)),
        (lambda n: -(-n // 4) % 8 == 0 or n < 5, (29, 30, 31), (1, 2, 3, 4, 29, 30, 31)),
        (lambda n: n // 4 % 8 == 0 and n > 31, (1, 2, 3), ()),
        (lambda n: n % 16 in (0, 5), (5,), (5,)),
    ],
)
def test_lengths_that_are_rounded_to_a_multiple(
    takes: Callable[[int], bool], remainders: tuple[int, ...], also: tuple[int, ...]
) -> None:
    """A stride of 4 before one of 8 rounds: no length of the kind is refused, however long."""
    span = spans([X0, X2], lambda rows, height: takes(height))[(X2,)]
    assert (span.kind, span.remainders, span.also) == (sizes.STEPS, remainders, also)


def test_the_search_beside_a_step_ends() -> None:
    runs = 0

    def accepts(rows: int, height: int) -> bool:
        nonlocal runs
        runs += 1
        return height % 8 == 0 or height > 1000

    span = spans([X0, X2], accepts)[(X2,)]
    assert (span.kind, span.step, span.remainders) == (sizes.STEPS, 8, ()) and 1025 in span.also
    assert runs < 1000


def test_limit_of_steps_is_the_longest_multiple() -> None:
    span = spans([X0, X2], lambda rows, height: height % 32 == 0 and height <= 2080)[(X2,)]
    assert (span.high, span.limited) == (2080, True)
    budgeted = explore([X2], lambda lengths: lengths[X2] % 32 == 0, fits=lambda lengths: lengths[X2] < 1100)
    assert budgeted is not None
    assert (budgeted[0].high, budgeted[0].limited) == (1024, False)


def test_one_length_alone_and_a_set() -> None:
    found = spans([X0, X1, X2], lambda rows, one, two: one == 48 and two in (16, 48, 100))
    assert (found[(X1,)].kind, found[(X1,)].low) == (sizes.FIXED, 48)
    assert found[(X2,)].kind == sizes.SOME and found[(X2,)].ran == (16, 48, 100)


def test_two_names_for_one_batch() -> None:
    found = spans([X0, X1, Y0, Y1], lambda a, b, c, d: a == c)
    assert set(found) == {(X0, Y0), (X1,), (Y1,)}


def test_a_batch_that_broadcasts_is_still_one() -> None:
    """With one row on one side the other may have any number: that is no freedom that anyone means."""
    found = spans([X0, Y0], lambda a, b: a == b or 1 in (a, b))
    assert set(found) == {(X0, Y0)}


def test_one_name_for_two_axes_that_are_free_of_each_other() -> None:
    height, width = Axis("x", 2, "?"), Axis("x", 3, "?")
    assert set(spans([height, width], lambda h, w: h > 3 and w > 3)) == {(height,), (width,)}


def test_one_name_for_two_axes_that_are_one() -> None:
    height, width = Axis("x", 2, "side"), Axis("x", 3, "side")
    assert set(spans([height, width], lambda h, w: h == w)) == {(height, width)}


def test_one_name_for_two_axes_each_of_which_broadcasts_with_another_input() -> None:
    """Neither can change alone; by their name the two were taken for one, which none of them is."""
    axes = [Axis("x", 0, "-1"), Axis("x", 1, "-1"), Axis("y", 0, "rows"), Axis("y", 1, "width")]

    def accepts(*lengths: int) -> bool:
        return all(one == other or 1 in (one, other) for one, other in zip(lengths[:2], lengths[2:], strict=True))

    assert set(spans(axes, accepts)) == {(axes[0], axes[2]), (axes[1], axes[3])}


def test_one_name_for_two_axes_that_are_tied_to_another_input_one_by_one() -> None:
    axes = [Axis("x", at, name) for at, name in enumerate(("rows", "L", "L"))]
    axes += [Axis("y", at, f"y{at}") for at in range(3)]
    found = spans(axes, lambda *lengths: lengths[:3] == lengths[3:])
    assert set(found) == {(one, other) for one, other in zip(axes[:3], axes[3:], strict=True)}


def test_nothing_runs() -> None:
    assert explore([X0], lambda lengths: False) is None


def test_one_row_only() -> None:
    found = spans([X0, X1], lambda rows, length: rows == 1 and length >= 5)
    assert found[(X0,)].kind == sizes.FIXED and found[(X1,)].low == 5


TAKEN = {
    "any": lambda n: True,
    "from 3 on": lambda n: n >= 3,
    "up to 77": lambda n: n <= 77,
    "even": lambda n: n % 2 == 0,
    "multiples of 8 and one": lambda n: n % 8 == 0 or n == 1,
    "6, 10, 14": lambda n: n % 4 == 2 and n > 2,
    "rounded up to 16": lambda n: n % 16 in (0, 13, 14, 15),
    "80 alone": lambda n: n == 80,
}


@pytest.mark.parametrize("accepts", TAKEN.values(), ids=TAKEN)
def test_a_time_that_is_over_sets_no_limit(accepts: Callable[[int], bool]) -> None:
    """Whatever the time allows, no length that is measured fails, and none that runs is refused."""
    for runs_in_time in (*range(1, 80), 100, 150, 300, 5000):
        count = [0]

        def runs(lengths: Mapping[Axis, int], count: list[int] = count) -> bool:
            count[0] += 1
            return accepts(lengths[X1])

        found = explore([X1], runs, seconds=runs_in_time, clock=lambda count=count: float(count[0]))
        if found is None:
            continue
        (low, high), limit = free_lengths._found(found[0], 1024)
        assert [n for n in range(1, 400) if accepts(n) and n not in limit] == [], (runs_in_time, found[0])
        ends = {low, high, limit.near((low + high) // 2)} - ({low, high} if found[0].kind == sizes.SOME else set())
        assert [n for n in ends if not accepts(n)] == [], (runs_in_time, found[0])


def test_axes_that_change_alone_are_not_tied_when_the_time_is_over() -> None:
    count = [0.0]

    def runs(lengths: Mapping[Axis, int]) -> bool:
        count[0] += 1.0
        return True

    found = explore([X1, X2, X3], runs, seconds=2, clock=lambda: count[0]) or ()
    assert [span.axes for span in found] == [(X1,), (X2,), (X3,)]
