# SPDX-License-Identifier: Apache-2.0
"""Read a user's rows with labels: what cannot be read is an error that names the file, and the row if there is one."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from packager import error_causes
from packager.canonical import JSON
from packager.errors import MissingToolError, PackagerError, StepError

HINT = "`evaluation.data` takes .parquet, .csv or .jsonl: a column per input, one with the label, those of the slices"
_MOST_ROWS = 5_000_000


def read_rows(folder: Path) -> list[dict[str, JSON]]:
    """Return the rows of the one file in `folder`. Raises StepError."""
    (path,) = folder.iterdir()
    try:
        rows = list(_READERS[path.suffix](path))
    except PackagerError:
        raise
    except Exception as error:  # a file of a user: the readers raise what they like
        raise StepError(
            f"evaluation: `{path.name}` cannot be read: {error_causes.find_cause_line(str(error)):.300}", hint=HINT
        ) from error
    if not rows or len(rows) > _MOST_ROWS:
        raise StepError(f"evaluation: `{path.name}` has {len(rows)} rows, expected 1 to {_MOST_ROWS}", hint=HINT)
    return rows


def _csv(path: Path) -> Iterator[dict[str, JSON]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, strict=True)):
            if None in row or None in row.values():
                raise StepError(f"evaluation: row {number} of `{path.name}` has another number of cells", hint=HINT)
            yield {**row}


def _lines(path: Path) -> Iterator[dict[str, JSON]]:
    for number, line in enumerate(path.read_text("utf-8").split("\n")):  # a text may hold what else splitlines() parts
        row = json.loads(line) if line.strip() else None
        if row is not None and not isinstance(row, dict):
            raise StepError(f"evaluation: line {number} of `{path.name}` is no object", hint=HINT)
        if row is not None:
            yield row


def _parquet(path: Path) -> Iterator[dict[str, JSON]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingToolError("pyarrow", "batch") from None
    yield from parquet.read_table(path).to_pylist()


_READERS: Mapping[str, Callable[[Path], Iterator[dict[str, JSON]]]] = {
    ".csv": _csv,
    ".jsonl": _lines,
    ".parquet": _parquet,
}
