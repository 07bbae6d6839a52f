# SPDX-License-Identifier: Apache-2.0
"""Answer a chunk of a table that comes as columns, and return the finished lines of the output.

A chunk is a line of JSON, then the bytes that it announces:

    {"rows": 2, "first": 0, "form": "lines", "take": {…}, "columns": [{"name": "years", "kind": "f8", "size": 16}]}
    {"rows": 2, "first": 0, "form": "lines", "take": {…}, "columns": […], "names": ["id", "age"], "text": 9, "even": …}

`kind` is `f8` or `i8` for numbers of eight bytes, `json` for a list of values. `text` are lines of CSV without quotes;
columns besides are what is read of them already, with NaN for an empty cell; `even` says that all lines have as many
cells as there are names.
`form` says what comes back: lines of JSON or of CSV with an answer each, the answers alone, or `arrays`: every output
by itself, numbers as their bytes and texts as one list of JSON. Values, reasons and digits are those of
`packager.server.pipeline.rows` and `json`; lines that are no such table are `UnfitError`, and its rows are sent one by
one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
import orjson

from packager.server.columns import has_rows
from packager.server.errors import RequestError
from packager.server.pipeline import rows as tables
from packager.server.protocol.interface import Interface
from packager.server.protocol.tensors import Array, dtype_of

ANSWER = "answer"
Cells: TypeAlias = "Sequence[Any] | Array"
_Texts: TypeAlias = "Sequence[Sequence[str]]"
MOST_ROWS = 1024  # of one run
_KINDS = {"f8": np.dtype(np.float64), "i8": np.dtype(np.int64)}
_OF = {"f": "f8", "i": "i8", "u": "i8"}
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')  # what JSON does not write as it is
_PLACES = re.compile(r"(%%|%s)")  # of a template
_QUOTED = re.compile(r'[,"\r\n]')  # what CSV quotes a cell for
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SPACED = json.JSONEncoder(ensure_ascii=False).encode


class UnfitError(Exception):
    """A text that has to be read row by row."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Lines of the rows with an answer, lines of those that were refused, and how many the first are."""

    kept: bytes
    refused: bytes
    rows: int
    places: list[int]
    """The rows that were refused."""
    arrays: Sequence[Mapping[str, Any]] = ()
    """Which outputs `kept` has one behind the other: name, kind as numpy writes it or `json`, and size in bytes."""


class _Chunk:
    """The cells of rows by column, and what became of the rows so far."""

    plain = False
    """Whether cells are texts that JSON writes as they are."""

    def __init__(self, rows: int, cells: Mapping[str, Cells]) -> None:
        self.rows = rows
        self._cells = cells
        self.reasons: dict[int, str] = {}
        self.outputs: list[Mapping[str, Array]] = []

    def shown(self) -> Mapping[str, Cells]:
        """Return the cells as they were sent."""
        return self._cells

    def read(self, take: Mapping[str, str]) -> dict[str, Cells]:
        """Return the cells of the inputs, which `take` names a column for; numbers where they are read already."""
        return {name: self._cells[column] for name, column in take.items()}

    def lines(self) -> Sequence[str] | None:
        """Return the rows as lines of CSV; None where they did not come so."""
        return None

    def row(self, place: int, take: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the cells of a row, or what `take` names of them."""
        shown = self.shown()
        pairs = {name: name for name in shown} if take is None else take
        return {name: _value(shown[column], place) for name, column in pairs.items()}


class _TextChunk(_Chunk):
    """Lines of CSV without quotes, with numbers that are read of them already."""

    def __init__(self, rows: int, names: Sequence[str], text: bytes, numbers: Mapping[str, Cells]) -> None:
        super().__init__(rows, numbers)
        self._names, self._text = names, text[:-1].decode()
        self._shown: Mapping[str, Cells] | None = None

    def shown(self) -> Mapping[str, Cells]:
        """Return the texts of the cells."""
        if self._shown is None:
            cells, width = self._text.replace("\n", ",").split(","), len(self._names)
            self._shown = {name: cells[place::width] for place, name in enumerate(self._names)}
            self.plain = _ESCAPED.search(self._text.replace("\n", "")) is None
        return self._shown

    def read(self, take: Mapping[str, str]) -> dict[str, Cells]:
        """Return numbers for inputs that have them, and texts for the others."""
        texts = {} if set(take.values()) <= self._cells.keys() else self.shown()
        return {name: self._cells[column] if column in self._cells else texts[column] for name, column in take.items()}

    def lines(self) -> Sequence[str]:
        """Return the lines without their ends."""
        return self._text.split("\n")


def row_limit(interface: Interface) -> int:
    """Return how many rows run together, at most."""
    first = interface.inputs[0].shape[0] if interface.inputs[0].shape else 1
    most = first if isinstance(first, int) else interface.allowed_range(first).largest
    small = all(len(port.shape) == 1 or port.shape[1:] == (1,) for port in interface.inputs)
    return min(most or MOST_ROWS, MOST_ROWS if small else 64)


class ColumnAnswers:
    """Answers chunks of columns with an opened model that has rows."""

    def __init__(self, interface: Interface, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> None:
        self._interface, self._run = interface, run
        self._most = row_limit(interface)

    @staticmethod
    def fits(interface: Interface) -> bool:
        """Return whether chunks of columns can be answered: every input and output has a row for each of them."""
        return has_rows(interface)

    def numbers(self) -> dict[str, str]:
        """Return the kinds of the inputs that take a number of each row."""
        kinds = {port.name: _OF.get(dtype_of(port.dtype).kind) for port in self._interface.inputs}
        return {name: kind for name, kind in kinds.items() if kind}

    def arrays(self) -> list[dict[str, Any]]:
        """Return name, type and shape of a row of every output; nothing where one has rows of several shapes."""
        outputs = self._interface.outputs
        if not all(isinstance(size, int) for port in outputs for size in port.shape[1:]):
            return []
        return [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape[1:])} for port in outputs]

    def answer(self, header: Mapping[str, Any], payload: bytes) -> Finished:
        """Answer the chunk of a header. Raises UnfitError."""
        chunk = _read_chunk(header, payload)
        self._answer_rows(chunk, header["take"])
        if header["form"] == "arrays":
            return self._write_arrays(chunk, header["first"])
        return _write(chunk, header["form"], header["first"])

    def _write_arrays(self, chunk: _Chunk, first: int) -> Finished:
        """Return the outputs of the rows that were answered, one behind the other. Raises UnfitError."""
        pieces, about = list[bytes](), list[dict[str, Any]]()
        for port in self._interface.outputs if chunk.outputs else ():
            values = np.concatenate([part[port.name] for part in chunk.outputs])
            if values.dtype != dtype_of(port.dtype) or values.shape[1:] != tuple(port.shape[1:]):
                raise UnfitError
            if values.dtype.kind in "iufb":
                kind, data = values.dtype.str, values.tobytes()
            else:
                kind, data = "json", _COMPACT(values.reshape(-1).tolist()).encode()
            pieces.append(data)
            about.append({"name": port.name, "kind": kind, "size": len(data)})
        refused, places = _refusals(chunk, first)
        return Finished(b"".join(pieces), refused, chunk.rows - len(places), places, about)

    def _answer_rows(self, chunk: _Chunk, take: Mapping[str, str]) -> None:
        cells = chunk.read(take)
        try:
            whole: dict[str, Array] | None = tables.feeds_of_columns(self._interface, cells)
        except RequestError:
            whole = None

        def feeds_of(start: int, end: int) -> Mapping[str, Array]:
            if end - start == 1:
                return tables.feeds(self._interface, [chunk.row(start, take)])
            if whole is not None:
                feeds = {name: values[start:end] for name, values in whole.items()}
            else:
                feeds = tables.feeds_of_columns(
                    self._interface, {name: values[start:end] for name, values in cells.items()}
                )
            tables.check_feeds(self._interface, feeds)
            return feeds

        for start in range(0, chunk.rows, self._most):
            self._answer_part(chunk, feeds_of, start, min(start + self._most, chunk.rows))

    def _answer_part(
        self, chunk: _Chunk, feeds_of: Callable[[int, int], Mapping[str, Array]], start: int, end: int
    ) -> None:
        """Run rows together; where one of them is refused, each half of them."""
        try:
            feeds = feeds_of(start, end)
        except RequestError as error:
            if end - start == 1:
                chunk.reasons[start] = error.message
                return
            middle = (start + end) // 2
            self._answer_part(chunk, feeds_of, start, middle)
            self._answer_part(chunk, feeds_of, middle, end)
            return
        found = self._run(feeds)
        if any(not values.ndim or len(values) != end - start for values in found.values()):
            raise UnfitError
        chunk.outputs.append(found)


def _value(values: Cells, place: int) -> Any:
    if not isinstance(values, np.ndarray):
        return values[place]
    value = values[place].item()
    return None if value != value else value


def _check_lines(text: bytes, rows: int, width: int) -> None:
    """Raises UnfitError where not every line has as many cells as there are names."""
    values = np.frombuffer(text, np.uint8)
    marks = values[(values == 0x2C) | (values == 0x0A)]
    if marks.size != rows * width or text[-1:] != b"\n":
        raise UnfitError
    lines = marks.reshape(rows, width)
    if not ((lines[:, -1] == 0x0A).all() and (lines[:, :-1] == 0x2C).all()):
        raise UnfitError


def _read_chunk(header: Mapping[str, Any], payload: bytes) -> _Chunk:
    columns: dict[str, Any] = {}
    view, start = memoryview(payload), 0
    for column in header["columns"]:
        data = view[start : start + column["size"]]
        start += column["size"]
        kind = _KINDS.get(column["kind"])
        columns[column["name"]] = json.loads(bytes(data)) if kind is None else np.frombuffer(data, kind)
    if "text" in header:
        text = bytes(view[start:])
        if not header["even"]:
            _check_lines(text, header["rows"], len(header["names"]))
        return _TextChunk(header["rows"], header["names"], text, columns)
    return _Chunk(header["rows"], columns)


def _write(chunk: _Chunk, form: str, first: int) -> Finished:
    """Return the lines of all rows, which were answered or refused."""
    refused, places = _refusals(chunk, first)
    count = chunk.rows - len(places)
    template, cells = _answer_cells(chunk.outputs, _SPACED if form != "lines" else _COMPACT) if count else ("", [])
    if form == "lines":
        columns = _kept(chunk, chunk.shown())
        template, shown = _json_lines(columns, chunk.plain, template)
        cells = [*shown, *cells]
    elif form == "csv":
        template, shown = _csv_lines(chunk, template)
        cells = [*shown, *map(_doubled, cells)]
    kept = fill(template, cells, count)
    return Finished(kept.encode(), refused, count, places)


def _refusals(chunk: _Chunk, first: int) -> tuple[bytes, list[int]]:
    """Return the lines of the refused rows, and which they are."""
    places = sorted(chunk.reasons)
    rows = [{"row": first + place, "reason": chunk.reasons[place], "input": chunk.row(place)} for place in places]
    return "".join([f"{_COMPACT(row)}\n" for row in rows]).encode(), places


def _kept(chunk: _Chunk, columns: Mapping[str, Cells]) -> Mapping[str, Any]:
    """Return the cells of the rows that were answered."""
    if not chunk.reasons:
        return columns
    keep = [place not in chunk.reasons for place in range(chunk.rows)]
    return {
        name: values[keep] if isinstance(values, np.ndarray) else list(compress(values, keep))
        for name, values in columns.items()
    }


def fill(template: str, cells: _Texts, count: int) -> str:
    """Return so many lines of a template, whose places take the texts of the columns, as the operator `%` has it.

    Neighbours are joined in pairs until one column is left, which is four times as fast as `%`.
    """
    between = [""]
    for part in _PLACES.split(template):
        if part == "%s":
            between.append("")
        else:
            between[-1] += "%" if part == "%%" else part
    first, last = between[0], f"{between[-1]}\n"
    if not cells or not count:
        return last * count
    columns, gaps = list(cells), between[1:-1]
    while len(columns) > 1:
        pairs = zip(columns[::2], gaps[::2], columns[1::2], strict=False)
        made: list[Sequence[str]] = [
            [f"{one}{gap}{other}" for one, other in zip(left, right, strict=True)] for left, gap, right in pairs
        ]
        columns, gaps = made + columns[len(made) * 2 :], gaps[1::2]
    return f"{first}{f'{last}{first}'.join(columns[0])}{last}"


def _json_lines(columns: Mapping[str, Any], plain: bool, answer: str) -> tuple[str, _Texts]:
    """Return the template of a line of JSON, and the texts of the columns for it."""
    form = '"%s"' if plain else "%s"
    names = "".join([f"{_escape(_COMPACT(name))}:{form}," for name in columns])
    shown = [values if plain else json_texts(values) for values in columns.values()]
    return f'{{{names}"{ANSWER}":{answer}}}', shown


def _csv_lines(chunk: _Chunk, answer: str) -> tuple[str, _Texts]:
    """Return the template of a line of CSV, and the texts for it: of whole lines where they came so."""
    quoted, lines = answer.replace('"', '""'), chunk.lines()
    columns = _kept(chunk, chunk.shown() if lines is None else {"": lines})
    shown = [_csv_texts(values) if lines is None else values for values in columns.values()]
    return f'{"%s," * len(columns)}"{quoted}"', shown


def _csv_texts(values: Cells) -> list[str]:
    if isinstance(values, np.ndarray):
        return json_texts(values)
    texts = [value if isinstance(value, str) else "" if value is None else _SPACED(value) for value in values]
    return [f'"{_double(text)}"' if _QUOTED.search(text) else text for text in texts]


def _double(text: str) -> str:
    return text.replace('"', '""')


def _doubled(column: Sequence[str]) -> Sequence[str]:
    return list(map(_double, column)) if '"' in "".join(column) else column


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _answer_cells(outputs: Sequence[Mapping[str, Array]], encode: Callable[[Any], str]) -> tuple[str, _Texts]:
    """Return the template of an answer as JSON, and the texts of its numbers: a list for each of them."""
    comma, colon = (",", ":") if encode is _COMPACT else (", ", ": ")
    parts, cells = list[str](), list[Sequence[str]]()
    for name in outputs[0]:
        values = np.concatenate([part[name] for part in outputs]) if len(outputs) > 1 else outputs[0][name]
        width = int(np.prod(values.shape[1:], dtype=np.int64))
        texts = json_texts(values.reshape(-1), encode) if width else []
        cells += [texts[place::width] for place in range(width)]
        parts.append(f"{_escape(encode(name))}{colon}{_nested(values.shape[1:], comma)}")
    return f"{{{comma.join(parts)}}}", cells


def _nested(shape: Sequence[int], comma: str) -> str:
    if not shape:
        return "%s"
    return f"[{comma.join([_nested(shape[1:], comma)] * shape[0])}]"


def json_texts(values: Cells, encode: Callable[[Any], str] = _COMPACT) -> list[str]:
    """Return every value of a column as `json` writes it; what is not finite is null."""
    if not len(values):
        return []
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return _number_texts(values)
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    if set(map(type, listed)) == {str}:
        return [f'"{text}"' for text in _COMPACT(listed)[2:-2].split('","')]
    return [encode(value) for value in listed]


def _number_texts(values: Array) -> list[str]:
    wide = values.astype(np.float64) if values.dtype.kind == "f" else values
    texts = orjson.dumps(np.ascontiguousarray(wide), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")
    if wide.dtype.kind == "f":  # orjson writes 1e-5 as 0.00001, `repr` as 1e-05
        size = np.abs(wide)
        for place in np.flatnonzero(((size < 1e-4) & (size > 0)) | ((size >= 1e16) & (size < np.inf))).tolist():
            texts[place] = repr(wide[place].item())
    return texts
