# SPDX-License-Identifier: Apache-2.0
"""Rows of tables: columns by name, missing numbers, texts of CSV, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.server.errors import RequestError
from packager.server.pipeline.rows import Table, _plain_cells, _read, _shown, answers, read_csv
from packager.server.protocol.interface import Interface, Tensor
from tests.support.breadth import examples

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


CELLS = {
    "float32": [1.5, -0.0, 3, True, None, "", "1e1", " 2 ", "nan", "inf", "old", [1.0], 2**70, "1_0"],
    "int64": [1, 1.0, 1.5, True, None, "", "7", "7.0", " 8 ", 2**70, "1_0", [1]],
    "uint8": [1, 255, "3", -1, 300],
    "bool": [True, False, 1, "true", "0", "maybe", None],
    "string": ["a", "", None, 3, ["a"]],
}


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_columns_are_read_as_their_cells(data: st.DataObject) -> None:
    """A column of one plain form takes a shorter way, with the values that each cell has by itself."""
    dtype = data.draw(st.sampled_from(sorted(CELLS)))
    plain = data.draw(st.lists(st.sampled_from(CELLS[dtype]), min_size=1, max_size=4))
    cells = plain if data.draw(st.booleans()) else [plain[0]] * len(plain)
    port = Tensor("x", dtype, ("batch",))
    short = _plain_cells([{"x": cell} for cell in cells], port)
    if short is None:
        return
    long = [_read(cell, port, missing=False) for cell in cells]
    assert repr(short) == repr(long) and list(map(type, short)) == list(map(type, long))


def test_answers_are_as_their_values() -> None:
    draw = np.random.default_rng(0)
    results = {
        "f": draw.normal(0, 1, (5, 2)).astype(np.float32),
        "gap": np.array([1, np.nan, np.inf, -np.inf, 2], np.float64),
        "i": np.arange(5, dtype=np.int16),
        "b": np.array([True, False, True, True, False]),
        "s": np.array(["a", "b", "c", "d", "e"], object),
    }
    wanted = [{name: _shown(values[index]) for name, values in results.items()} for index in range(4)]
    assert answers(results, 4) == wanted and wanted[1]["gap"] is None
    assert [type(value) for value in answers(results, 4)[0].values()] == [type(value) for value in wanted[0].values()]


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
