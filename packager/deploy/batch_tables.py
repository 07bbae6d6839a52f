# SPDX-License-Identifier: Apache-2.0
"""An output that is Parquet: the columns of the input as they are, and beside them the answers in types of their own.

An answer of tensors is a struct with a field for each output, of a number, text or nested list; a vector is a list; all
else is JSON as text. What is kept of a chunk is a stream of Arrow with the answer of each row, null for a refused one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.deploy import table_files
from packager.deploy.batch_parts import Part
from packager.deploy.table_chunks import ArrowChunk, Chunk, TextChunk, read_names
from packager.deploy.table_files import ANSWER, Unreadable
from packager.errors import StepError, UsageError

_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 64 << 20
_NAMES = {"float16": "float16", "bool": "bool_", "string": "string"}  # that pyarrow's functions have for dtypes


def find_answer_type(about: Mapping[str, JSON]) -> Any:
    """Return the type of an answer, from what a worker says of its outputs."""
    arrow = table_files.arrow("pyarrow")
    if about.get("vectors"):
        return arrow.list_(arrow.float64())
    fields = [(port["name"], _port_type(port["dtype"], port["shape"])) for port in about.get("arrays", ())]
    if not fields or None in dict(fields).values():
        return arrow.string()
    return arrow.struct(fields)


def _port_type(dtype: str, shape: Sequence[int]) -> Any:
    """Return the type of a row of an output; None for one that Arrow has not, and for rows without values."""
    arrow = table_files.arrow("pyarrow")
    make = getattr(arrow, _NAMES.get(dtype, dtype), None)
    if make is None or 0 in shape:
        return None
    kind = make()
    for size in reversed(shape):
        kind = arrow.list_(kind, size)
    return kind


def find_schema(source: Path, answer: Any, bundle: str) -> Any:
    """Return the schema of the output for a table; None for any other input."""
    arrow, names = table_files.arrow("pyarrow"), read_names(source)
    if not names:
        return None
    fields = [arrow.field(name, arrow.string()) for name in names]
    if source.suffix.lower() == ".parquet":
        fields = list(table_files.arrow("pyarrow.parquet").ParquetFile(source).schema_arrow)
    return arrow.schema([*fields, arrow.field(ANSWER, answer)], metadata={"packager.bundle": bundle})


def make_piece(part: Part, count: int, schema: Any) -> bytes:
    """Return the answers of a chunk of `count` rows as a stream of Arrow. Raises StepError."""
    arrow, kind = table_files.arrow("pyarrow"), schema.field(ANSWER).type
    try:
        answers = _read_arrays(part, kind) if part.arrays else _read_lines(part.kept, kind)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, KeyError):
        hint = "write JSON lines instead (-o NAME.jsonl), and conform the bundle on this machine"
        raise StepError("an answer has another type or shape than the bundle's contract says", hint=hint) from None
    if part.places:
        answers = answers.take(arrow.array(_places(part.places, count), arrow.int64()))
    sink = arrow.BufferOutputStream()
    batch = arrow.record_batch([answers], [ANSWER])
    with arrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def _places(refused: Sequence[int], count: int) -> list[int | None]:
    """Return for every row which answer it has, None for a refused one."""
    missing, answers = set(refused), iter(range(count))
    return [None if row in missing else next(answers) for row in range(count)]


def _read_arrays(part: Part, kind: Any) -> Any:
    """Return the answers from the bytes of every output."""
    arrow, view, start = table_files.arrow("pyarrow"), memoryview(part.kept), 0
    columns: dict[str, Any] = {}
    for about in part.arrays:
        data = view[start : start + about["size"]]
        start += about["size"]
        columns[about["name"]] = _read_array(bytes(data), about["kind"], part.rows, kind.field(about["name"]).type)
    fields = list(kind)
    return arrow.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)


def _read_array(data: bytes, given: str, rows: int, kind: Any) -> Any:
    arrow, sizes, count = table_files.arrow("pyarrow"), list[int](), rows
    while arrow.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        count, kind = count * kind.list_size, kind.value_type
    if given == "json":
        found = arrow.array(json.loads(data), kind)
    elif arrow.types.is_boolean(kind):
        found = arrow.Array.from_buffers(arrow.uint8(), count, [None, arrow.py_buffer(data)]).cast(kind)
    else:
        found = arrow.Array.from_buffers(kind, count, [None, arrow.py_buffer(data)])
    for size in reversed(sizes):
        found = arrow.FixedSizeListArray.from_arrays(found, size)
    return found


def _read_lines(lines: bytes, kind: Any) -> Any:
    """Return the answers from lines of JSON."""
    arrow, texts = table_files.arrow("pyarrow"), lines.decode().split("\n")[:-1]
    if arrow.types.is_string(kind):
        return arrow.array(texts, kind)
    return arrow.array([cast_answer(json.loads(text), kind) for text in texts], kind)


def cast_answer(value: JSON, kind: Any) -> JSON:
    """Return an answer of JSON as a cell of that type."""
    types = table_files.arrow("pyarrow").types
    if types.is_string(kind):
        return json.dumps(value, ensure_ascii=False)
    if types.is_struct(kind):
        return {field.name: _cast_value(value[field.name], field.type) for field in kind}
    return value


def _cast_value(value: JSON, kind: Any) -> JSON:
    """Return a value of an output with NaN where JSON has null for it."""
    types = table_files.arrow("pyarrow").types
    if isinstance(value, list):
        return [_cast_value(item, kind.value_type) for item in value]
    return math.nan if value is None and types.is_floating(kind) else value


def _columns(chunk: Chunk, schema: Any) -> Any:
    """Return the columns of a chunk."""
    arrow = table_files.arrow("pyarrow")
    if isinstance(chunk, ArrowChunk):
        return chunk.table.replace_schema_metadata(None)
    if isinstance(chunk, TextChunk):
        with suppress(arrow.ArrowInvalid):  # a line of another width, which is refused
            return _parted(chunk, schema.names[:-1])
    rows = [{} if isinstance(row, Unreadable) else {**row} for row in chunk.rows()]
    return arrow.Table.from_pylist(rows, arrow.schema(list(schema)[:-1]))


def _parted(chunk: TextChunk, names: Sequence[str]) -> Any:
    arrow, reader = table_files.arrow("pyarrow"), table_files.arrow("pyarrow.csv")
    data = chunk.text
    return reader.read_csv(
        arrow.BufferReader(data),
        reader.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        reader.ParseOptions(quote_char=False),
        reader.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()), strings_can_be_null=False),
    )


def write_table(path: Path, pieces: Callable[[], Iterable[bytes]], answer: Any, bundle: str) -> None:
    """Write lines of JSON as Parquet, one group of rows for each piece; `pieces` gives them as often as it is called.

    A column has the type that all its values have. Raises UsageError where they have none.
    """
    arrow, parquet = table_files.arrow("pyarrow"), table_files.arrow("pyarrow.parquet")
    field = arrow.field(ANSWER, answer)
    schema = arrow.schema([field], metadata={"packager.bundle": bundle})
    try:
        for piece in pieces():
            found = arrow.Table.from_pylist(_cells(piece, answer)).schema
            places = [name for name in found.names if name != ANSWER]
            schema = arrow.unify_schemas(
                [schema, arrow.schema([found.field(name) for name in places])], promote_options="permissive"
            )
        schema = schema.remove(0).append(field)
        with parquet.ParquetWriter(path, schema) as writer:
            for piece in pieces():
                writer.write_table(arrow.Table.from_pylist(_cells(piece, answer), schema=schema))
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        hint = "write JSON lines instead (-o NAME.jsonl), which keep every value as it is"
        raise UsageError(f"the rows are no table of Parquet: {reason}", hint=hint) from None


def _cells(piece: bytes, answer: Any) -> list[dict[str, JSON]]:
    return [{**row, ANSWER: cast_answer(row[ANSWER], answer)} for row in table_files.read_lines(piece)]


class TableWriter:
    """A file of Parquet, in groups of rows that depend on the chunks alone."""

    def __init__(self, path: Path, schema: Any) -> None:
        """Begin the file."""
        self._arrow, self._schema = table_files.arrow("pyarrow"), schema
        self._writer = table_files.arrow("pyarrow.parquet").ParquetWriter(path, schema)
        self._held: list[Any] = []
        self._rows = self._bytes = 0

    def add(self, chunk: Chunk, piece: bytes) -> None:
        """Write the answered rows of a chunk."""
        answers = self._arrow.ipc.open_stream(piece).read_all()[ANSWER]
        table = _columns(chunk, self._schema).append_column(self._schema.field(ANSWER), answers)
        if answers.null_count:
            table = table.filter(answers.is_valid())
        self._held.append(table)
        self._rows, self._bytes = self._rows + table.num_rows, self._bytes + table.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            whole = self._arrow.concat_tables(self._held).replace_schema_metadata(self._schema.metadata)
            self._writer.write_table(whole, row_group_size=self._rows)
        self._held.clear()
        self._rows = self._bytes = 0

    def close(self) -> None:
        """End the file."""
        self._flush()
        self._writer.close()
