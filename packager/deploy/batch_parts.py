# SPDX-License-Identifier: Apache-2.0
"""What an interrupted run keeps: answered chunks one behind the other, and a line of sizes and digests for each.

    rows      the rows that were answered, in order: lines, or their answers as streams of Arrow
    refused   the lines of those that were refused
    done      for each chunk: its number, its rows, and size and SHA-256 of what it added to both files

Nothing is forced to the disk. A run goes on behind the last chunk up to which both files are as the lines say, and
drops what is behind it, so that what a power cut took is answered again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from packager.canonical import JSON
from packager.files import storage_errors

_DONE, ROWS, REFUSED = "done", "rows", "refused"


@dataclass(frozen=True, slots=True)
class Part:
    """An answered chunk: the lines of its answered rows and of its refused ones, and how many the first are."""

    kept: bytes
    refused: bytes
    rows: int
    places: Sequence[int] = ()
    """Which rows of the chunk were refused."""
    arrays: Sequence[Mapping[str, JSON]] = ()
    """Which outputs `kept` has, where it has arrays and no lines (`packager.server.batch_columns`)."""


class Parts:
    """The chunks that are answered; the next one is number `done`."""

    def __init__(self, folder: Path) -> None:
        """Read the folder of an interrupted run, or an empty one. Raises StorageError."""
        self._folder = folder
        self.done = self.rows = 0
        self.sizes: list[int] = []
        with storage_errors(folder):
            journal = folder / _DONE
            lines = journal.read_text("ascii", "replace").split("\n") if journal.is_file() else []
            self._files = [(folder / name).open("a+b") for name in (ROWS, REFUSED)]
            self._take(lines)
            self._journal = journal.open("ab")

    def _take(self, lines: list[str]) -> None:
        """Take the chunks whose bytes are as their lines say, up to the first that is not, and drop all others."""
        sound, ends = [], [0, 0]
        for file in self._files:
            file.seek(0)
        for line in lines:
            words = line.split()
            if len(words) != 6 or words[0] != str(self.done) or not self._is_there(words[2:]):
                break
            sound.append(f"{line}\n")
            self.done, self.rows = self.done + 1, self.rows + int(words[1])
            self.sizes.append(int(words[2]))
            ends = [end + int(size) for end, size in zip(ends, words[2::2], strict=True)]
        for file, end in zip(self._files, ends, strict=True):
            file.truncate(end)
        (self._folder / _DONE).write_text("".join(sound), "ascii")

    def _is_there(self, words: list[str]) -> bool:
        """Read the next bytes of both files and return whether they have the sizes and digests of a line."""
        return all(
            size.isdecimal() and _digest(file, int(size)) == digest
            for file, size, digest in zip(self._files, words[::2], words[1::2], strict=True)
        )

    def add(self, part: Part) -> None:
        """Add the next chunk. Raises StorageError."""
        words = [str(self.done), str(part.rows)]
        with storage_errors(self._folder):
            for file, data in zip(self._files, (part.kept, part.refused), strict=True):
                file.write(data)
                file.flush()
                words += [str(len(data)), hashlib.sha256(data).hexdigest()]
            self._journal.write(f"{' '.join(words)}\n".encode())
            self._journal.flush()
        self.done, self.rows = self.done + 1, self.rows + part.rows
        self.sizes.append(len(part.kept))

    def pieces(self) -> Iterator[bytes]:
        """Yield the lines of the answered rows, chunk by chunk."""
        with (self._folder / ROWS).open("rb") as file:
            for size in self.sizes:
                yield file.read(size)

    def close(self) -> None:
        """Close the files."""
        for file in (*self._files, self._journal):
            file.close()


def _digest(file: BinaryIO, size: int) -> str | None:
    """Return the digest of the next bytes; None where there are fewer."""
    state, left = hashlib.sha256(), size
    while left and (piece := file.read(min(left, 1 << 20))):
        state.update(piece)
        left -= len(piece)
    return None if left else state.hexdigest()
