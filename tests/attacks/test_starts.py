# SPDX-License-Identifier: Apache-2.0
"""No module of the working directory is imported by a Python that this program starts: a checkout may be a stranger's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import packager

ROOT = Path(packager.__file__).parent


def starts(source: str) -> Iterator[list[str]]:
    """Yield the constants of every list that starts this Python with a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List) and any(ast.unparse(item) == "sys.executable" for item in node.elts):
            words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            if "-m" in words:
                yield words


def test_modules_are_started_without_the_working_directory() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), words) for path in ROOT.rglob("*.py") for words in starts(path.read_text())
    ]
    assert len(found) >= 8
    assert not [row for row in found if not {"-P", "-I"} & {*row[1]}]
