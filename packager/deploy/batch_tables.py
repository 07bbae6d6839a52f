# SPDX-License-Identifier: Apache-2.0
"""Chunks of an output that is Parquet: what is kept of a chunk is a stream of Arrow, of which the file is written.

Columns are those of the input: numbers as int64 or double, texts, true and false; and the answers as JSON. Inputs with
other columns go by way of lines of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packager.deploy import table_files
from packager.deploy.table_chunks import ArrowChunk, Chunk, TextChunk, read_names
from packager.deploy.table_files import ANSWER, Unreadable


def find_schema(source: Path, bundle: str) -> Any:
    """Return the schema of the output for an input with plain columns; None for any other input."""
    arrow, names = table_files.arrow("pyarrow"), read_names(source)
    if not names:
        return None
    types = dict.fromkeys(names, arrow.string())
    if source.suffix.lower() == ".parquet":
        given = table_files.arrow("pyarrow.parquet").ParquetFile(source).schema_arrow
        types = {name: _plain_type(given.field(name).type) for name in names}
    if None in types.values():
        return None
    return arrow.schema({**types, ANSWER: arrow.string()}, metadata={"packager.bundle": bundle})


def _plain_type(given: Any) -> Any:
    """Return the type that a column of Python's values has; None for one that is not plain."""
    arrow = table_files.arrow("pyarrow")
    kinds = arrow.types
    if kinds.is_integer(given) and given != arrow.uint64():
        return arrow.int64()
    if kinds.is_floating(given):
        return arrow.float64()
    if kinds.is_boolean(given):
        return given
    return arrow.string() if kinds.is_string(given) or kinds.is_large_string(given) else None


def make_piece(chunk: Chunk, schema: Any, answers: bytes, refused: Sequence[int]) -> bytes:
    """Return the rows of a chunk with their answers, which are lines; b"" where every row was refused."""
    arrow = table_files.arrow("pyarrow")
    texts = answers.decode().split("\n")[:-1]
    if not texts:
        return b""
    missing = set(refused)
    places = [place for place in range(chunk.count) if place not in missing] if missing else None
    columns = _columns(chunk, places, schema.remove(schema.get_field_index(ANSWER)))
    table = columns.append_column(schema.field(ANSWER), arrow.array(texts, arrow.string()))
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, schema) as stream:
        for batch in table.replace_schema_metadata(schema.metadata).combine_chunks().to_batches():
            stream.write_batch(batch)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def _columns(chunk: Chunk, places: Sequence[int] | None, schema: Any) -> Any:
    """Return the columns of the rows at `places`, or of all."""
    arrow = table_files.arrow("pyarrow")
    if isinstance(chunk, ArrowChunk):
        table = chunk.table.cast(schema.remove_metadata())
    elif isinstance(chunk, TextChunk) and places is None:
        return _parted(chunk, schema.names)
    else:
        rows = chunk.rows()
        chosen = [rows[place] for place in (range(chunk.count) if places is None else places)]
        return arrow.Table.from_pylist([{} if isinstance(row, Unreadable) else {**row} for row in chosen], schema)
    return table if places is None else table.take(arrow.array(places, arrow.int64()))


def _parted(chunk: TextChunk, names: Sequence[str]) -> Any:
    arrow, reader = table_files.arrow("pyarrow"), table_files.arrow("pyarrow.csv")
    data = chunk.text
    return reader.read_csv(
        arrow.BufferReader(data),
        reader.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        reader.ParseOptions(quote_char=False),
        reader.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()), strings_can_be_null=False),
    )


class TableWriter:
    """A file of Parquet with one group of rows for each chunk."""

    def __init__(self, path: Path, schema: Any, pieces: Iterable[bytes]) -> None:
        """Begin the file with the pieces of an interrupted run."""
        self._arrow = table_files.arrow("pyarrow")
        self._writer = table_files.arrow("pyarrow.parquet").ParquetWriter(path, schema)
        for piece in pieces:
            self.add(piece)

    def add(self, piece: bytes) -> None:
        """Write the rows of a chunk."""
        if piece:
            self._writer.write_table(self._arrow.ipc.open_stream(piece).read_all())

    def close(self) -> None:
        """End the file."""
        self._writer.close()
