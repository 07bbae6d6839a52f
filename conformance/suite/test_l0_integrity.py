# SPDX-License-Identifier: Apache-2.0
"""L0: the files that are about to be judged are those that were promised."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from suite.cell import Cell


def test_files_are_those_of_the_bundle(cell: Cell) -> None:
    if not cell.files:
        pytest.fail("the cell names no files, so that it is unknown what is tested")
    for name, digest in cell.files.items():
        with Path(name).open("rb") as file:
            got = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        assert got == digest, f"`{Path(name).name}`: expected {digest}, got {got}"
