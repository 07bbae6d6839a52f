# SPDX-License-Identifier: Apache-2.0
"""Rows of tables: columns by name, missing numbers, texts of CSV, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from packager.server.errors import RequestError
from packager.server.pipeline.rows import Table, answers, read_csv
from packager.server.protocol.interface import Interface

INTERFACE = Interface.from_json(
    {
        "inputs": [
            {"name": "age", "dtype": "float32", "shape": ["batch", 1]},
            {"name": "count", "dtype": "int64", "shape": ["batch"]},
            {"name": "town", "dtype": "string", "shape": ["batch", 1]},
            {"name": "member", "dtype": "bool", "shape": ["batch"]},
        ],
        "outputs": [{"name": "label", "dtype": "string", "shape": ["batch"]}],
        "dimensions": {"batch": {"min": 1, "max": 4}},
    }
)
MISSING = Interface(INTERFACE.inputs, INTERFACE.outputs, INTERFACE.dimensions, missing=frozenset({"age"}))
ROW: dict[str, Any] = {"age": 1.5, "count": 2, "town": "Zürich", "member": True}


def test_rows_become_inputs() -> None:
    made = Table(INTERFACE).prepare([ROW, {**ROW, "count": 3.0, "age": 4}])
    assert made.count == 2 and made.feeds["age"].tolist() == [[1.5], [4.0]] and made.feeds["count"].dtype == np.int64
    assert made.feeds["town"].tolist() == [["Zürich"], ["Zürich"]] and made.feeds["member"].tolist() == [True, True]


def test_cells_of_csv() -> None:
    rows = read_csv('age,count,town,member\n1e1,2,"a, b",true\n,3,,0\n')
    made = Table(MISSING).prepare(rows)
    assert made.feeds["age"][0, 0] == 10 and np.isnan(made.feeds["age"][1, 0])
    assert made.feeds["town"].tolist() == [["a, b"], [""]] and made.feeds["member"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": None}, "`age`: expected float32"),
        ({"age": "old"}, "`age`: expected float32, got `old`"),
        ({"age": True}, "`age`: expected float32"),
        ({"age": [1, 2]}, "does not fit"),
        ({"count": 1.5}, "`count`: expected int64"),
        ({"count": 2**70}, "`count`: expected int64"),
        ({"count": "1.0"}, "`count`: expected int64"),
        ({"town": 3}, "`town`: expected string"),
        ({"member": 1}, "`member`: expected bool"),
        ({"member": "maybe"}, "`member`: expected bool"),
        ({"more": 1}, "unknown column `more`"),
        ({"age": {"a": 1}}, "`age`: expected float32"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Table(INTERFACE).prepare([{**ROW, **change}])


@pytest.mark.parametrize("rows", [[], ["text"], [[1]], [{"age": 1}], [ROW] * 5])
def test_rows_that_are_none(rows: list[Any]) -> None:
    with pytest.raises(RequestError):
        Table(INTERFACE).prepare(rows)


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", 'a\n"x'])
def test_tables_that_are_none(text: str) -> None:
    with pytest.raises(RequestError):
        read_csv(text)


def test_what_is_not_finite_is_none() -> None:
    found = answers({"score": np.array([[1.0, np.nan]], np.float32), "label": np.array(["a"], object)}, 1)
    assert found == [{"score": [1.0, None], "label": "a"}]
