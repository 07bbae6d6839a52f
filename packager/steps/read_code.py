# SPDX-License-Identifier: Apache-2.0
"""Read code: what the Python files of a source import and call, file by file; none of them is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager.canonical import JSON
from packager.scanners import _code
from packager.steps import _answers
from packager.types import check_path

VERSION = 1  # 1: first form
ANSWER = _answers.READ_CODE
_LONGEST = 4 << 20  # bytes of a file that is read


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return the remarkable words of each of `files`."""
    found: dict[str, list[str]] = {}
    for path in params["files"]:
        with (inputs["source"] / check_path(path)).open("rb") as file:
            data = file.read(_LONGEST + 1)
        found[path] = _code.list_remarks(path, data) if len(data) <= _LONGEST else ["is too long to be read"]
    return found
