# SPDX-License-Identifier: Apache-2.0
"""Chunks of a file of rows, in the form that is cheapest to hand to a worker.

A chunk of a table goes as columns: lines of CSV without quotes as they are, numbers of Parquet as bytes, all else as
lists. What is no table (other members in each row, unreadable lines) goes as rows, with the same answers. The protocol
is that of `packager.server.batch_columns`.
"""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.deploy import table_files
from packager.deploy.table_files import ANSWER, Row, Unreadable
from packager.deploy.table_lines import LineReader

_LONGEST = 131072  # what `csv` takes for a cell
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Columns:
    """A chunk as columns: what its header says of them, and their bytes."""

    header: Mapping[str, JSON]
    data: Sequence[bytes]
    names: Sequence[str]


class RowChunk:
    """Rows one by one."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.count = len(rows)

    def rows(self) -> Sequence[Row]:
        """Return the rows."""
        return self._rows

    def first(self) -> Row:
        """Return the first row."""
        return self._rows[0]

    def columns(self, numbers: Mapping[str, str], only: Collection[str] | None = None) -> Columns | None:
        """Return the rows as columns; None where one of them has other members than the first."""
        first = self._rows[0]
        if isinstance(first, Unreadable):
            return None
        names, found = tuple(first), []
        for row in self._rows:
            if isinstance(row, Unreadable) or tuple(row) != names:
                return None
            found.append(row.values())
        if not names or ANSWER in names:
            return None
        try:
            data = [_encode(cells).encode() for cells in zip(*found, strict=True)]
        except ValueError:  # NaN, which is no JSON
            return None
        return _described(self.count, [(name, "json", cells) for name, cells in zip(names, data, strict=True)])


class TextChunk:
    """Lines of CSV without quotes."""

    def __init__(self, names: Sequence[str], text: bytes, count: int) -> None:
        self._names, self.text, self.count = names, text, count

    def rows(self) -> Sequence[Row]:
        """Return the rows."""
        cells = csv.reader(self.text.decode().split("\n")[:-1], strict=True)
        return [table_files.csv_row(self._names, row) for row in cells]

    def first(self) -> Row:
        """Return the first row."""
        line = self.text[: self.text.index(b"\n")].decode()
        return table_files.csv_row(self._names, next(csv.reader([line], strict=True)))

    def columns(self, numbers: Mapping[str, str], only: Collection[str] | None = None) -> Columns:
        """Return the lines as they are, and besides the columns of `numbers` by their kinds, `f8` or `i8`."""
        wanted = {name: numbers[name] for name in self._names if name in numbers}
        made = _described(self.count, _read_numbers(self.text, self.count, self._names, wanted))
        header = {**made.header, "names": list(self._names), "text": len(self.text), "even": bool(made.data)}
        return Columns(header, [*made.data, self.text], self._names)


class ArrowChunk:
    """Rows of Parquet."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.count = table.num_rows

    def rows(self) -> Sequence[Row]:
        """Return the rows."""
        return table_files.arrow_rows(self.table)

    def first(self) -> Row:
        """Return the first row."""
        return table_files.arrow_rows(self.table.slice(0, 1))[0]

    def columns(self, numbers: Mapping[str, str], only: Collection[str] | None = None) -> Columns | None:
        """Return the columns, or those of `only`; numbers as bytes.

        None where two have one name or one is called as the answers are.
        """
        names = self.table.column_names
        if ANSWER in names or len(set(names)) < len(names):
            return None
        chosen = [name for name in names if only is None or name in only]
        return _described(self.count, [(name, *_arrow_cells(self.table[name])) for name in chosen])


Chunk = RowChunk | TextChunk | ArrowChunk


def _described(rows: int, columns: Sequence[tuple[str, str, bytes]]) -> Columns:
    about = [{"name": name, "kind": kind, "size": len(data)} for name, kind, data in columns]
    return Columns({"rows": rows, "columns": about}, [data for *_, data in columns], [name for name, *_ in columns])


def _read_numbers(
    text: bytes, rows: int, names: Sequence[str], wanted: Mapping[str, str]
) -> list[tuple[str, str, bytes]]:
    """Return columns of lines as numbers, NaN for an empty cell; none without pyarrow, or where it may read otherwise.

    What `float` and `int` take and pyarrow does not, or the other way round, is left to the worker, which has the text.
    """
    try:
        arrow, reader = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.csv")
    except ImportError:
        return []
    if b"x" in text or b"X" in text:  # 0x10 is a whole number for pyarrow alone
        wanted = {name: kind for name, kind in wanted.items() if kind == "f8"}
    if not wanted:
        return []
    types = {name: arrow.float64() if kind == "f8" else arrow.int64() for name, kind in wanted.items()}
    try:
        table = reader.read_csv(
            arrow.BufferReader(text),
            reader.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False),
            reader.ParseOptions(quote_char=False),
            reader.ConvertOptions(column_types=types, include_columns=list(types), null_values=[""]),
        )
    except arrow.ArrowInvalid:
        return []
    found = [(name, kind, _number_bytes(table[name].combine_chunks())) for name, kind in wanted.items()]
    return [(name, kind, data) for name, kind, data in found if data is not None and len(data) == 8 * rows]


def _number_bytes(column: Any) -> bytes | None:
    """Return numbers of eight bytes; None for NaN that is no empty cell, and for whole numbers that are missing."""
    arrow, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    if arrow.types.is_floating(column.type):
        if compute.any(compute.is_nan(column)).as_py():
            return None
        column = column.fill_null(math.nan) if column.null_count else column
    if column.null_count:
        return None
    data: bytes = column.buffers()[1].slice(column.offset * 8, len(column) * 8).to_pybytes()
    return data


def _arrow_cells(column: Any) -> tuple[str, bytes]:
    """Return the kind and the bytes of a column."""
    arrow, compute = table_files.arrow("pyarrow"), table_files.arrow("pyarrow.compute")
    whole, kind = column.combine_chunks(), None
    if arrow.types.is_integer(whole.type) and whole.type != arrow.uint64():
        kind, wide = "i8", arrow.int64()
    elif arrow.types.is_floating(whole.type) and compute.all(compute.is_finite(whole)).as_py():
        kind, wide = "f8", arrow.float64()
    if kind is None or whole.null_count:
        return "json", _encode([table_files.plain(value) for value in whole.to_pylist()]).encode()
    return kind, _number_bytes(whole.cast(wide)) or b""


def read_chunks(path: Path, size: int, kind: str | None = None) -> Iterator[Chunk]:
    """Yield the rows of a file or folder in order, `size` in each chunk but the last. Raises UsageError."""
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".csv":
        yield from _csv_chunks(path, size)
        return
    if suffix == ".parquet":
        yield from _arrow_chunks(path, size)
        return
    rows = table_files.read_rows(path, kind)
    while chunk := list(islice(rows, size)):
        yield RowChunk(chunk)


def read_names(path: Path) -> tuple[str, ...]:
    """Return the columns that every row of a CSV or Parquet file has; none where two are one, and of other files."""
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        return ()
    if suffix == ".parquet":
        found = table_files.arrow("pyarrow.parquet").ParquetFile(path).schema_arrow.names
    else:
        with path.open("rb") as file:
            found = LineReader(path, file).read_names()
    return () if ANSWER in found or len(set(found)) < len(found) else tuple(found)


def _csv_chunks(path: Path, size: int) -> Iterator[Chunk]:
    with path.open("rb") as file:
        lines = LineReader(path, file)
        names = lines.read_names()
        whole = bool(names) and len(set(names)) == len(names) and ANSWER not in names
        while text := lines.take(size):
            if whole and _is_plain(text):
                yield TextChunk(names, text, text.count(b"\n"))
            elif rows := lines.read_rows(text, names, size):
                yield RowChunk(rows)


def _is_plain(text: bytes) -> bool:
    """Return whether every line is a row of its own, for `csv` as for one who parts it at commas and ends."""
    blank = text[:1] == b"\n" or b"\n\n" in text
    half = _LONGEST // 2
    long = any(text.find(b"\n", start, start + half) < 0 for start in range(0, len(text) - half, half))
    return not (blank or long or b'"' in text or b"\r" in text or b"\0" in text)


def _arrow_chunks(path: Path, size: int) -> Iterator[Chunk]:
    arrow = table_files.arrow("pyarrow")
    held: list[Any] = []
    count = 0
    for batch in table_files.arrow("pyarrow.parquet").ParquetFile(path).iter_batches(batch_size=size):
        held.append(batch)
        count += batch.num_rows
        while count >= size:
            table = arrow.Table.from_batches(held)
            yield ArrowChunk(table.slice(0, size))
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield ArrowChunk(arrow.Table.from_batches(held))
