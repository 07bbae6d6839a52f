# SPDX-License-Identifier: Apache-2.0
"""Rows from and to files: JSON lines, CSV, Parquet, a folder of images, audio or texts. One chunk is in memory."""

from __future__ import annotations

import base64
import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from packager.canonical import JSON
from packager.errors import MissingToolError, UsageError

ANSWER = "answer"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_OF_KIND = {"image": _IMAGES, "audio": (".wav",), "text": (".txt",)}
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
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in known and path.is_file() and not path.is_symlink():
            yield {"file": path.relative_to(folder).as_posix()}


def read_file(folder: Path, name: str, kind: str) -> str:
    """Return a file as requests carry it: a text as it is, an image or audio in base64.

    Raises OSError, and ValueError for a text that is not UTF-8.
    """
    data = (folder / name).read_bytes()
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
            for cells in reader:
                if len(cells) == len(names):
                    yield dict(zip(names, cells, strict=True))
                elif cells:  # a line without any is no row
                    yield Unreadable(f"expected {len(names)} cells", str(cells)[:200])
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"`{path}` is not CSV in UTF-8: line {reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    file = _arrow("pyarrow.parquet").ParquetFile(path)
    for batch in file.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> JSON:
    """Return a value as JSON has it; what JSON has not (times, decimals) becomes text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
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
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"`{path}` has no known form", hint=f"known are {', '.join(sorted(_WRITERS))}")
    if path.suffix.lower() == ".parquet":
        _arrow("pyarrow.parquet")


def write_rows(path: Path, parts: Iterable[Path], bundle: str) -> None:
    """Write one file of the parts, which are JSON lines, in order."""
    _WRITERS[path.suffix.lower()](path, parts, bundle)


def _write_json_lines(path: Path, parts: Iterable[Path], bundle: str) -> None:
    with path.open("wb") as sink:
        for part in parts:
            sink.write(part.read_bytes())


def _write_csv(path: Path, parts: Iterable[Path], bundle: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer: Any = None
        for part in parts:
            for row in _lines(part):
                writer = writer or _csv_writer(sink, row)
                writer.writerow({name: _cell(value) for name, value in row.items()})


def _csv_writer(sink: Any, row: Mapping[str, JSON]) -> Any:
    writer = csv.DictWriter(sink, list(row), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    return writer


def _cell(value: JSON) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _write_parquet(path: Path, parts: Iterable[Path], bundle: str) -> None:
    """Write one row group per part; the first part says what types columns have, answers but vectors are JSON."""
    arrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    writer = schema = None
    try:
        for part in parts:
            rows = [{**row, ANSWER: _arrow_answer(row[ANSWER])} for row in _lines(part)]
            if not rows:
                continue
            if writer is None or schema is None:
                schema = arrow.Table.from_pylist(rows).schema.with_metadata({"packager.bundle": bundle})
                writer = parquet.ParquetWriter(path, schema)
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        parquet.write_table(arrow.table({ANSWER: arrow.array([], arrow.string())}), path)


def _arrow_answer(value: JSON) -> JSON:
    numbers = isinstance(value, list) and all(isinstance(item, float) for item in value)
    return value if numbers and value else json.dumps(value, ensure_ascii=False)


def _lines(part: Path) -> Iterator[dict[str, JSON]]:
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)


_WRITERS: Mapping[str, Callable[[Path, Iterable[Path], str], None]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def _arrow(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingToolError("pyarrow", "batch") from None
