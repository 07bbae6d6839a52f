# SPDX-License-Identifier: Apache-2.0
"""Rows from and to files: JSON lines, CSV, Parquet, a folder of images, audio or texts. One chunk is in memory."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from packager.canonical import JSON
from packager.errors import MissingToolError, UsageError
from packager.files import storage_errors

ANSWER = "answer"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_OF_KIND = {"image": _IMAGES, "audio": (".wav",), "text": (".txt",)}
_OUTPUTS = (".csv", ".jsonl", ".parquet")
_LONGEST = 64 << 20  # bytes of one line


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is no row, with the reason and the beginning of its text."""

    reason: str
    text: str


Row: TypeAlias = "Mapping[str, JSON] | Unreadable"


def read_rows(path: Path, kind: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file or folder in order; of a folder files of a kind (`image`, `audio`, `text`), or all.

    Raises UsageError for a form that is not known.
    """
    if path.is_dir():
        return _folder(path, kind)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"`{path}` has no known form",
            hint=f"known are {', '.join(sorted(_READERS))}, and folders of images, .wav or .txt",
        )
    return reader(path)


def _folder(folder: Path, kind: str | None) -> Iterator[Row]:
    """Yield images, audio or texts by their path below the folder; links are not followed."""
    known = [suffix for name, suffixes in _OF_KIND.items() for suffix in suffixes if kind in (None, name)]
    for name in sorted(_list_files(folder), key=lambda name: name.split("/")):
        if os.path.splitext(name)[1].lower() in known:  # noqa: PTH122 # for a path of each the same
            yield {"file": name}


def _list_files(folder: Path, below: str = "") -> Iterator[str]:
    """Yield the regular files below a folder; what a file is comes with its name, so that none is looked at."""
    with storage_errors(folder), os.scandir(folder / below) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _list_files(folder, f"{below}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield below + entry.name


def read_file(folder: Path, name: str, kind: str) -> str:
    """Return a file as requests carry it: a text as it is, an image or audio in base64.

    Raises OSError, and ValueError for a text that is not UTF-8.
    """
    with open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123 # a `Path` takes as long as the file
        data = file.read()
    if kind != "text":
        return base64.b64encode(data).decode()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("the text is not UTF-8") from None


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            if line.strip():
                yield _json_row(line)


def _json_row(line: bytes) -> Row:
    try:
        value = json.loads(line)
        line.decode()
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        return Unreadable(f"the line is not JSON: {error!s:.200}", line[:200].decode("utf-8", "replace"))
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        return Unreadable("expected an object", line[:200].decode("utf-8", "replace"))
    return value


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = next(reader, [])
            yield from (csv_row(names, cells) for cells in reader if cells)  # a line without any is no row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"`{path}` is not CSV in UTF-8: line {reader.line_num}: {error}") from None


def csv_row(names: Sequence[str], cells: Sequence[str]) -> Row:
    """Return the row of cells under names."""
    if len(cells) != len(names):
        return Unreadable(f"expected {len(names)} cells", str(list(cells))[:200])
    return dict(zip(names, cells, strict=True))


def _parquet(path: Path) -> Iterator[Row]:
    file = arrow("pyarrow.parquet").ParquetFile(path)
    for batch in file.iter_batches(batch_size=1024):
        yield from arrow_rows(batch)


def arrow_rows(table: Any) -> list[Row]:
    """Return the rows of an Arrow table."""
    return [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()]


def plain(value: Any) -> JSON:
    """Return a value as JSON has it: NaN is missing, and what JSON has not (times, decimals, infinity) becomes text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}


def check_target(path: Path) -> None:
    """Raise UsageError for an output whose form is not known, MissingToolError for one that lacks its library."""
    if path.suffix.lower() not in _OUTPUTS:
        raise UsageError(f"`{path}` has no known form", hint=f"known are {', '.join(_OUTPUTS)}")
    if path.suffix.lower() == ".parquet":
        arrow("pyarrow.parquet")


def write_csv(path: Path, pieces: Iterable[bytes]) -> None:
    """Write one file of lines of JSON, which come chunk by chunk; the first says which columns there are."""
    with path.open("w", encoding="utf-8", newline="") as sink:
        names: list[str] | None = None
        for piece in pieces:
            rows = read_lines(piece)
            if names is None and rows:
                names = list(rows[0])
                sink.write(csv_text([dict(zip(names, names, strict=True))], names))
            sink.write(csv_text(rows, names or ()))


def csv_text(rows: Iterable[Mapping[str, JSON]], names: Sequence[str]) -> str:
    """Return lines of CSV with the cells under `names` of every row."""
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, names, extrasaction="ignore", lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return sink.getvalue()


def _cell(value: JSON) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def shape_answer(value: JSON) -> JSON:
    """Return an answer as a cell of a table: a vector of numbers as it is, all else as JSON."""
    numbers = isinstance(value, list) and all(isinstance(item, float) for item in value)
    return value if numbers and value else json.dumps(value, ensure_ascii=False)


def read_lines(piece: bytes) -> list[dict[str, JSON]]:
    """Return the objects of lines of JSON."""
    return [json.loads(line) for line in piece.split(b"\n") if line]


def arrow(name: str) -> Any:
    """Return a module of pyarrow. Raises MissingToolError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingToolError("pyarrow", "batch") from None
