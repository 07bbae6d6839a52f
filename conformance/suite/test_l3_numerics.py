# SPDX-License-Identifier: Apache-2.0
"""L3: the numbers are right: against the reference, beside any rows, twice, and next to values that are not numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from suite import cases, judge
from suite.adapter import RefusedError
from suite.cell import Cell
from suite.contract import Contract
from suite.subject import Channel, Subject
from suite.vectors import Vectors, rows_case


def test_reference_vectors(
    channel: Channel,
    channel_name: str,
    cell: Cell,
    contract: Contract,
    vectors: Vectors,
    measures: dict[str, Any],
    case_name: str,
) -> None:
    feeds, expected = vectors.case(case_name)
    got = channel.infer(feeds)
    problem = judge.interface_problem(contract, feeds, got)
    assert problem is None, problem
    drifts, problem = judge.differences(contract, cell.target, expected, got)
    _note(measures, channel_name, drifts)
    assert problem is None, problem


def _note(measures: dict[str, Any], channel_name: str, drifts: Mapping[str, judge.Drift]) -> None:
    """Keep the largest drift of every output over all cases; a difference without a number has none."""
    table = measures.setdefault("drift", {}).setdefault(channel_name, {})
    for name, drift in drifts.items():
        before = table.get(name, {"max_abs": 0.0, "bitwise": True})
        largest = max(drift.max_abs, before["max_abs"]) if math.isfinite(drift.max_abs) else before["max_abs"]
        table[name] = {"max_abs": largest, "bitwise": drift.bitwise and before["bitwise"]}


def _rows(contract: Contract, vectors: Vectors) -> dict[str, Any]:
    if not vectors.index["rowwise"]:
        pytest.skip(
            "rows of this model are not independent: the reference itself answers differently beside other rows"
        )
    return cases.feeds(contract, rows_case(contract))


def _held(contract: Contract, cell: Cell, expected: Mapping[str, Any], got: Mapping[str, Any], which: str) -> None:
    problem = judge.differences(contract, cell.target, expected, got)[1]
    assert problem is None, f"{which}: {problem}"


def test_a_row_alone_is_answered_as_in_a_batch(
    subject: Subject, cell: Cell, contract: Contract, vectors: Vectors
) -> None:
    feeds = _rows(contract, vectors)
    whole = subject.primary.infer(feeds)
    for row in range(len(next(iter(feeds.values())))):
        alone = subject.primary.infer({name: array[row : row + 1] for name, array in feeds.items()})
        expected = {name: array[row : row + 1] for name, array in whole.items()}
        _held(contract, cell, expected, alone, f"row {row} alone")


def test_answers_follow_the_order_of_rows(subject: Subject, cell: Cell, contract: Contract, vectors: Vectors) -> None:
    feeds = _rows(contract, vectors)
    order = np.roll(np.arange(len(next(iter(feeds.values())))), 2)
    whole = subject.primary.infer(feeds)
    mixed = subject.primary.infer({name: array[order] for name, array in feeds.items()})
    _held(contract, cell, {name: array[order] for name, array in whole.items()}, mixed, f"rows in order {list(order)}")


def test_the_same_question_gets_the_same_bits(channel: Channel, vectors: Vectors) -> None:
    feeds, _ = vectors.case(vectors.names[0])  # a random one: what is 0 in every element cannot differ
    first = channel.infer(feeds)
    for _ in range(3):
        problem = judge.same_bits(first, channel.infer(feeds))
        assert problem is None, problem


@pytest.mark.parametrize("fill", sorted(cases.OUTSIDE))
def test_values_outside_the_promise_hurt_nobody_else(
    subject: Subject, cell: Cell, contract: Contract, vectors: Vectors, fill: str
) -> None:
    """Such a row may be answered with anything or refused; rows beside it and requests after it must not notice."""
    if not any(port.dtype in ("float32", "float64") for port in contract.inputs):
        pytest.skip("no input can hold such a value")
    feeds = _rows(contract, vectors)
    before = subject.primary.infer(feeds)
    odd = cases.feeds(contract, cases.Case(fill, rows_case(contract).lengths, fill))
    mixed = {name: np.concatenate([odd[name][:1], array[1:]]) for name, array in feeds.items()}
    try:
        answer = subject.primary.infer(mixed)
    except RefusedError:
        answer = None
    if answer is not None:
        expected = {name: array[1:] for name, array in before.items()}
        _held(contract, cell, expected, {name: array[1:] for name, array in answer.items()}, f"beside a row of {fill}")
    problem = judge.same_bits(before, subject.primary.infer(feeds))
    assert problem is None, f"after a row of {fill}: {problem}"
