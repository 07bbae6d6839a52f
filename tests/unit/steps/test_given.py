# SPDX-License-Identifier: Apache-2.0
"""Given rows: the recipe's samples in every format, batches of them, and the row that shows a difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from packager.errors import StepError
from packager.steps import _given_rows, _samples

INTERFACE = {
    "inputs": [
        {"name": "visits", "dtype": "int64", "shape": ["batch", 1]},
        {"name": "price", "dtype": "float64", "shape": ["batch", 1]},
        {"name": "city", "dtype": "string", "shape": ["batch", 1]},
    ],
    "outputs": [],
    "dimensions": {"batch": {"min": 1, "max": 64}},
}
TABLE = pd.DataFrame({"visits": [1, -2, 3], "price": [0.1, np.nan, 2.5], "city": ["par", None, "Ösl"], "other": 0})


def parquet(path: Path) -> None:
    TABLE.to_parquet(path)


def csv(path: Path) -> None:
    TABLE.to_csv(path, index=False)


def npz(path: Path) -> None:
    np.savez(path, visits=TABLE.visits, price=TABLE.price, city=np.array(["par", "", "Ösl"]))


def jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in TABLE.replace({np.nan: None}).to_dict("records")))


@pytest.mark.parametrize("write", [parquet, csv, npz, jsonl], ids=lambda write: write.__name__)
def test_samples_are_read_in_the_types_of_the_inputs(write: Any, tmp_path: Path) -> None:
    write(tmp_path / f"rows.{write.__name__}")
    found = _samples.read(tmp_path, INTERFACE)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(("visits", "price", "city"), (3, 1))
    assert found["visits"].dtype == "int64" and found["visits"].ravel().tolist() == [1, -2, 3]
    np.testing.assert_array_equal(found["price"].ravel(), [0.1, np.nan, 2.5])
    assert found["city"].ravel().tolist() == ["par", "", "Ösl"]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (TABLE.drop(columns="city"), "no column `city`"),
        (TABLE.assign(visits=[1.0, np.nan, 2.0]), "`visits` misses a value"),
        (TABLE.assign(visits=["a", "b", "c"]), "cannot be read"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_the_reason(frame: pd.DataFrame, words: str, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(StepError, match=words):
        _samples.read(tmp_path, INTERFACE)


def test_a_pickle_among_the_samples_is_not_opened(tmp_path: Path) -> None:
    class Mark:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    array = np.empty(1, dtype=object)
    array[0] = Mark()
    folder = tmp_path / "samples"
    folder.mkdir()
    np.savez(folder / "rows.npz", visits=array, price=array, city=array)
    with pytest.raises(StepError, match="cannot be read"):
        _samples.read(folder, INTERFACE)
    assert not (tmp_path / "opened").exists()


def rows(count: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "visits": random.integers(0, 9, (count, 1)),
        "price": random.random((count, 1)),
        "city": np.full((count, 1), "par", dtype=object),
    }


def test_every_given_row_runs_once() -> None:
    given = rows(130)
    done = list(_given_rows.batch_rows(INTERFACE, {"samples": given}))
    assert [len(feeds["price"]) for _, feeds in done] == [64, 64, 2]
    np.testing.assert_array_equal(np.concatenate([feeds["price"] for _, feeds in done]), given["price"])
    assert [case.name for case, _ in done][-1] == "samples, rows 128 to 129 of 130"


def test_a_fixed_batch_takes_whole_batches_only() -> None:
    fixed = {**INTERFACE, "inputs": [{**port, "shape": [4, 1]} for port in INTERFACE["inputs"]], "dimensions": {}}
    assert [len(feeds["price"]) for _, feeds in _given_rows.batch_rows(fixed, {"samples": rows(10)})] == [4, 4]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"visits": np.zeros((2, 1))}, "they lack `city`"),
        ({**rows(2), "more": np.zeros((2, 1))}, "`more`, which is no input"),
        ({**rows(2), "price": np.zeros((3, 1))}, "same number of rows"),
        ({**rows(2), "price": np.zeros((2, 3))}, "expected the shape"),
    ],
)
def test_rows_that_are_no_rows_of_the_interface(given: Any, words: str) -> None:
    with pytest.raises(StepError, match=words):
        list(_given_rows.batch_rows(INTERFACE, {"samples": given}))


def test_one_row_of_inputs_that_share_an_axis() -> None:
    given = rows(5)
    found = _given_rows.row_of(INTERFACE, given, 3)
    assert {name: values.tolist() for name, values in found.items()} == {n: v[3:4].tolist() for n, v in given.items()}
    apart = {**INTERFACE, "inputs": [{**INTERFACE["inputs"][0], "shape": ["rows", 1]}, *INTERFACE["inputs"][1:]]}
    assert len(_given_rows.row_of(apart, given, 3)["price"]) == 5
