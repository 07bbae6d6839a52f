# SPDX-License-Identifier: Apache-2.0
"""Answer batches of a data platform with an installation: for `map_batches` of Ray Data and `mapInPandas` of Spark.

The platform moves the rows; a process of the installation, with its own interpreter and libraries, answers them, as in
`packager run` (`packager.deploy.batch`). A callable travels to the platform's workers as a path and a few names; each
of them starts a process of its own with its first batch. Only pyarrow is imported here, which both platforms have.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.deploy import install, table_files
from packager.deploy.batch_workers import Worker, start_workers
from packager.deploy.table_chunks import ArrowChunk
from packager.deploy.table_files import ANSWER
from packager.errors import StepError, UsageError

ERROR = "error"


class BatchAnswers:
    """Answer batches of rows with what is installed in a directory, which every node finds under the same path.

    Calling it with a batch (a pandas data frame, an Arrow table or record batch, or a dictionary of numpy arrays, as
    Ray Data has by default) returns one of the same form and order with two more columns: `answer`, JSON as text or
    null, and `error`, null or why a row was refused. Vectors of a sentence encoder are lists of numbers, not JSON.

    Ray Data, as actors that each keep a process of the installation:

        rows.map_batches(BatchAnswers, fn_constructor_args=["/srv/digits"], concurrency=2)

    Spark, as a function on data frames and as a pandas UDF:

        answers = BatchAnswers("/srv/digits")
        frame.mapInPandas(answers.map_batches, schema="x double, answer string, error string")
        pandas_udf(lambda rows: answers(rows)["answer"], "string")(struct("x"))

    `columns` says which column of a batch is which input. Batches of one object are answered one after the other.
    Raises UsageError where nothing is installed or a column is missing, StepError where the installation does not start
    or its process ends; the next batch starts another. MissingToolError without pyarrow.
    """

    def __init__(self, directory: str | Path, *, columns: Mapping[str, str] | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.columns = dict(columns or {})
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process = contextlib.ExitStack()
        self._worker: tuple[int, Worker] | None = None
        self._end = weakref.finalize(self, self._process.close)

    def __getstate__(self) -> dict[str, object]:
        return {"directory": self.directory, "columns": self.columns}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.directory, self.columns = state["directory"], state["columns"]
        self._begin()

    def __call__(self, batch: Any) -> Any:
        """Return a batch with its answers."""
        table = _to_table(batch)
        if taken := {ANSWER, ERROR} & {*table.column_names}:
            raise UsageError(
                f"the batch has a column `{min(taken)}` already", hint="rename it before the rows are answered"
            )
        with self._lock:
            worker = self._started()
            answers, errors = self._answer(worker, table) if table.num_rows else ([], [])
        arrow = table_files.arrow("pyarrow")
        kind = arrow.list_(arrow.float64()) if worker.about["vectors"] else arrow.string()
        table = table.append_column(ANSWER, arrow.array(answers, kind))
        return _like(batch, table.append_column(ERROR, arrow.array(errors, arrow.string())))

    def map_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield each batch with its answers, for `DataFrame.mapInPandas` and `mapInArrow` of Spark."""
        return map(self, batches)

    def close(self) -> None:
        """End the process of the installation; the next batch starts one."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        self._worker = None
        self._process.close()

    def _started(self) -> Worker:
        if self._worker is None or self._worker[0] != os.getpid():  # a fork shares no process
            release = install.find_current(self.directory)
            self._worker = os.getpid(), self._process.enter_context(start_workers(release, 1))().get()
        return self._worker[1]

    def _answer(self, worker: Worker, table: Any) -> tuple[list[JSON], list[str | None]]:
        """Return the answer of every row, None where there is an error, and the error."""
        known = {*worker.about["columns"], *worker.about["optional"]}
        if other := sorted(set(self.columns) - known):
            raise UsageError(f"the bundle has no column `{other[0]}`", hint=f"it takes {', '.join(sorted(known))}")
        take = {name: self.columns.get(name, name) for name in worker.about["columns"]}
        if missing := sorted(name for name, column in take.items() if column not in table.column_names):
            hint = f"name the column to take, as in `BatchAnswers(DIRECTORY, columns={{{missing[0]!r}: ...}})`"
            known_here = ", ".join(table.column_names)
            raise UsageError(f"the batch has no column `{take[missing[0]]}`, only {known_here}", hint=hint)
        optional = {name: self.columns.get(name, name) for name in worker.about["optional"]}
        take |= {name: column for name, column in optional.items() if column in table.column_names}
        try:
            return _answer_columns(worker, table, take) or _answer_rows(worker, table, take)
        except StepError as error:
            self._stop()
            raise StepError(error.message, hint="its words above may say why; the next batch starts another") from None


def _answer_columns(worker: Worker, table: Any, take: Mapping[str, str]) -> tuple[list[JSON], list[str | None]] | None:
    """Return answers and errors of rows that go as columns; None where the worker takes none, or not these."""
    if not worker.about.get("chunks"):
        return None
    numbers = {take[name]: kind for name, kind in worker.about["numbers"].items()}
    columns = ArrowChunk(table).columns(numbers)
    part = worker.answer_columns(columns, form="answers", take=dict(take), first=0) if columns else None
    if part is None:
        return None
    errors: list[str | None] = [None] * table.num_rows
    for line in part.refused.splitlines():
        row = json.loads(line)
        errors[row["row"]] = row["reason"]
    kept = iter(part.kept.decode().split("\n"))
    return [next(kept) if error is None else None for error in errors], errors


def _answer_rows(worker: Worker, table: Any, take: Mapping[str, str]) -> tuple[list[JSON], list[str | None]]:
    rows = [{name: table_files.plain(row[column]) for name, column in take.items()} for row in table.to_pylist()]
    found = worker.answer_rows(rows)
    answers = [None if "error" in row else table_files.shape_answer(row["answer"]) for row in found]
    return answers, [row.get("error") for row in found]


def _to_table(batch: Any) -> Any:
    """Return a batch as an Arrow table."""
    arrow = table_files.arrow("pyarrow")
    if isinstance(batch, arrow.Table):
        return batch
    if isinstance(batch, arrow.RecordBatch):
        return arrow.Table.from_batches([batch])
    if isinstance(batch, Mapping):
        arrays = {name: values if values.ndim == 1 else [*values] for name, values in batch.items()}
        return arrow.table({name: arrow.array(values) for name, values in arrays.items()})
    return arrow.Table.from_pandas(batch, preserve_index=False)


def _like(batch: Any, table: Any) -> Any:
    """Return a table in the form of a batch, its own columns as they were."""
    arrow = table_files.arrow("pyarrow")
    if isinstance(batch, arrow.Table):
        return table
    if isinstance(batch, arrow.RecordBatch):
        return (
            table.combine_chunks().to_batches()[0]
            if table.num_rows
            else arrow.RecordBatch.from_pylist([], table.schema)
        )
    more = {name: table[name] for name in (ANSWER, ERROR)}
    if isinstance(batch, Mapping):
        return {**batch, **{name: column.to_numpy() for name, column in more.items()}}
    pandas = importlib.import_module("pandas")
    columns = {name: pandas.Series(column.to_pylist(), batch.index, dtype=object) for name, column in more.items()}
    return batch.assign(**columns)
