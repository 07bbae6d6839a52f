# SPDX-License-Identifier: Apache-2.0
"""Batches of a data platform get the answers that `packager run` gives their rows, in the form that they come in."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest

from packager.api.deploy import BatchAnswers
from packager.deploy import table_files
from packager.errors import StepError, UsageError
from tests.unit.pipelines.conftest import Made
from tests.unit.pipelines.test_run import installation, run
from tests.unit.pipelines.test_run_tables import site as site  # a fixture

ROWS: dict[str, list[Any]] = {"id": [7, 8, 9], "age": [1.5, 2.0, math.inf], "count": [1, 3, 2], "town": ["a", "b", "c"]}
ANSWERS: list[dict[str, Any]] = [
    {"sum": [2.5], "many": False, "place": "a"},
    {"sum": [5.0], "many": True, "place": "b"},
]


@pytest.fixture
def answers(site: Path) -> BatchAnswers:
    return BatchAnswers(site)


def as_run_does(site: Path, folder: Path) -> list[str]:
    """Return what `packager run` writes of the rows."""
    pyarrow.parquet.write_table(pyarrow.table(ROWS), folder / "in.parquet")
    run(site, folder / "in.parquet", "-o", folder / "out.parquet")
    found = pyarrow.parquet.read_table(folder / "out.parquet")["answer"].to_pylist()
    return [json.dumps(answer).replace("Infinity", "null") for answer in found]


@pytest.mark.parametrize(
    "form",
    [
        pandas.DataFrame,
        pyarrow.table,
        lambda rows: pyarrow.RecordBatch.from_pydict(rows),
        lambda rows: {name: np.array(values) for name, values in rows.items()},
    ],
)
def test_a_batch_comes_back_in_its_form(site: Path, tmp_path: Path, answers: BatchAnswers, form: Any) -> None:
    batch = form(ROWS)
    found = answers(batch)
    assert type(found) is type(batch)
    columns = {name: [*found[name]] for name in ("id", "answer", "error")}
    if isinstance(batch, pyarrow.Table | pyarrow.RecordBatch):
        columns = {name: found[name].to_pylist() for name in columns}
    assert columns["id"] == ROWS["id"] and columns["answer"] == as_run_does(site, tmp_path)
    assert columns["error"] == [None] * 3


def test_a_refused_row_stops_nothing(answers: BatchAnswers) -> None:
    found = answers(pandas.DataFrame({**ROWS, "age": ["1.5", "old", "2"]}))
    assert [json.loads(answer) if answer else None for answer in found["answer"]][:2] == [ANSWERS[0], None]
    assert "column `age`: expected float32" in found["error"][1] and found["error"][0] is found["error"][2] is None


def test_columns_have_other_names_at_the_site(answers: BatchAnswers, site: Path) -> None:
    frame = pandas.DataFrame(ROWS).rename(columns={"town": "city"})
    with pytest.raises(UsageError, match="no column `town`, only id, age, count, city") as caught:
        answers(frame)
    assert "columns={'town': ...}" in str(caught.value.hint)
    with pytest.raises(UsageError, match="the bundle has no column `towns`"):
        BatchAnswers(site, columns={"towns": "city"})(frame)
    found = BatchAnswers(site, columns={"town": "city"})(frame)
    assert json.loads(found["answer"][1]) == ANSWERS[1]
    with pytest.raises(UsageError, match="has a column `answer` already"):
        answers(found)


def test_it_travels_as_a_path_and_starts_once(answers: BatchAnswers, site: Path) -> None:
    there = pickle.loads(pickle.dumps(answers))
    frames = [pandas.DataFrame(ROWS).iloc[:2], pandas.DataFrame(ROWS).iloc[:0], pandas.DataFrame(ROWS).iloc[1:2]]
    found = [*there.map_batches(iter(frames))]
    assert [len(frame) for frame in found] == [2, 0, 1] and found[2].index.tolist() == [1]
    assert [*found[1].columns] == [*ROWS, "answer", "error"]
    assert [json.loads(answer) for answer in (*found[0]["answer"], *found[2]["answer"])] == [*ANSWERS, ANSWERS[1]]
    assert there._worker and not answers._worker, "nothing was started here"


def test_threads_take_turns(answers: BatchAnswers) -> None:
    batch, found = pyarrow.table(ROWS), []
    threads = [threading.Thread(target=lambda: found.append(answers(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(table.equals(found[0]) for table in found)


def test_a_process_that_is_gone_fails_one_batch(answers: BatchAnswers) -> None:
    batch = pyarrow.table(ROWS)
    first = answers(batch)
    assert answers._worker
    process = answers._worker[1].process
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(StepError, match="ended before it answered") as caught:
        answers(batch)
    assert "the next batch starts another" in str(caught.value.hint)
    assert answers(batch).equals(first)
    later = answers._worker[1].process
    answers.close()
    assert later.poll() is not None, "it ends with its object"


def test_nothing_installed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no installation"):
        BatchAnswers(tmp_path)(pyarrow.table(ROWS))


def test_vectors_are_lists_of_numbers_also_where_all_are_refused(encoder: Made, tmp_path: Path) -> None:
    encoder.step(tmp_path / "pipeline", {"task": "sentence-embedding"}, strings=20)
    answers = BatchAnswers(installation(tmp_path, encoder))
    found = answers(pyarrow.table({"text": ["a day", None]}))
    assert found["answer"].type == pyarrow.list_(pyarrow.float64())
    assert len(found["answer"][0]) == 32 and found["answer"][1].as_py() is None and found["error"][1].as_py()
    none = answers(pyarrow.table({"text": pyarrow.array([None], pyarrow.string())}))
    assert none.schema.equals(found.schema)
    assert table_files.shape_answer([0.5]) == [0.5]
