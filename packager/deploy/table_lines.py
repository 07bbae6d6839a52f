# SPDX-License-Identifier: Apache-2.0
"""A file of CSV by lines, many at once, and by rows where a row may have several lines."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from packager.deploy import table_files
from packager.deploy.table_files import Row
from packager.errors import UsageError

_LEAST = 1 << 16  # bytes of one read
_MARK = b"\xef\xbb\xbf"


class LineReader:
    """Reads a file of CSV in UTF-8, from the beginning."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._line = 0
        self._held = file.read(len(_MARK)).removeprefix(_MARK)
        self._length = 32  # bytes of a line, as far as is known

    def read_names(self) -> list[str]:
        """Return the cells of the first row. Raises UsageError."""
        return next(self._cells(), [])

    def take(self, count: int) -> bytes:
        """Return the next lines, `count` of them or as many as there are, each with its end. Raises UsageError."""
        data = self._held
        while (found := data.count(b"\n")) < count:
            block = self._file.read(max(_LEAST, (count - found) * self._length))
            if not block:
                break
            data += block
        end = len(data) if found < count else _end_of(data, count)
        text, self._held = data[:end], data[end:]
        if text and not text.endswith(b"\n"):
            text += b"\n"
        self._length = max(self._length, -(-len(text) // count))
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise self._unread(error, text.count(b"\n", 0, error.start)) from None
        self._line += text.count(b"\n")
        return text

    def read_rows(self, text: bytes, names: Sequence[str], size: int) -> list[Row]:
        """Return up to `size` rows of the lines that were taken last and of those behind them. Raises UsageError."""
        self._line -= text.count(b"\n")
        self._held = text + self._held
        rows = (table_files.csv_row(names, cells) for cells in self._cells() if cells)  # an empty line is no row
        return list(islice(rows, size))

    def _cells(self) -> Iterator[list[str]]:
        """Yield the cells of rows; what was not read when this ends is read next."""
        pending: deque[bytes] = deque()
        reader = csv.reader(self._lines(pending), strict=True)
        try:
            yield from reader
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._unread(error, reader.line_num) from None
        finally:
            self._line += reader.line_num
            self._held = b"".join(pending) + self._held

    def _lines(self, pending: deque[bytes]) -> Iterator[str]:
        """Yield lines that end as `csv` knows ends: by a line feed, a carriage return, or both."""
        while True:
            if not pending:
                data, self._held = self._held, b""
                if not data.endswith(b"\n"):
                    data += self._file.readline()
                pending.extend(data.splitlines(keepends=True))
            if not pending:
                return
            yield pending.popleft().decode()

    def _unread(self, error: Exception, line: int) -> UsageError:
        return UsageError(f"`{self._path}` is not CSV in UTF-8: line {self._line + line}: {error}")


def _end_of(data: bytes, count: int) -> int:
    """Return the place behind the line feed number `count`, which is there."""
    start, end = 0, len(data)
    while end - start > _LEAST:
        middle = (start + end) // 2
        before = data.count(b"\n", start, middle)
        if before >= count:
            end = middle
        else:
            start, count = middle, count - before
    for _ in range(count):
        start = data.index(b"\n", start) + 1
    return start
