# SPDX-License-Identifier: Apache-2.0
"""The plain files of a bundle as another tool wrote them, with the manifest and the statements from elsewhere.

`oras pull`, `modctl` and image volumes leave files and nothing that says what they are; the manifest in a registry or
a file does. Modes are those of the other tool and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from packager.bundle.readers import Medium, check_directories, compare_extent
from packager.errors import WrongContentError
from packager.files import open_regular, walk_regular
from packager.types import Blob, Tree


class ExtractedTree:
    """Files below `root`; everything else is read from `statements`."""

    def __init__(self, root: Path, statements: Medium) -> None:
        self.root, self.label, self._statements = root, str(root), statements

    def index(self) -> bytes:
        return self._statements.index()

    def open_record(self, digest: str) -> BinaryIO:
        return self._statements.open_record(digest)

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        try:
            return open_regular(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            raise WrongContentError(f"`{path}` is missing from `{self.label}`", subject=path) from None

    def place(self, path: str, blob: Blob) -> str:
        return path or self._statements.place(path, blob)

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        expected = {path for path, _ in tree}
        compare_extent((name for name, _ in walk_regular(self.root)), expected, self.label)
        check_directories(self.root, expected)
