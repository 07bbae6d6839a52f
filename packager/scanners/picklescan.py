# SPDX-License-Identifier: Apache-2.0
"""picklescan: lists imports that no model needs; our own list overrides it.

It looks at an archive as a whole too, with its own eyes. A file that is no archive is given to it as we read it: it
stops at the numbers that joblib writes between the instructions.
"""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packager import scanners
from packager.errors import MissingToolError
from packager.scanners._allowlist import ALLOWED

TOOLCHAIN = ("picklescan",)
EXTRA = "scan"


def scan(file: Path) -> list[str]:
    """Return the dangerous imports of a file. Raises ValueError where a pickle could not be read to its end."""
    try:
        tool = importlib.import_module("picklescan.scanner")
    except ImportError as error:
        raise MissingToolError("picklescan", EXTRA) from error
    found = [*_dangerous(tool, tool.scan_file_path(str(file)), file.name)] if zipfile.is_zipfile(file) else []
    for name, data in () if found else scanners.find_pickles(file):
        found += _dangerous(tool, tool.scan_pickle_bytes(io.BytesIO(data), name), name)
    return sorted(set(found))


def _dangerous(tool: Any, result: Any, name: str) -> Iterator[str]:
    dangerous = [item for item in result.globals if item.safety == tool.SafetyLevel.Dangerous]
    yield from (f"{item.module}.{item.name}" for item in dangerous if (item.module, item.name) not in ALLOWED)
    if result.infected_files and not dangerous:
        yield name
    if result.scan_err and not dangerous:
        raise ValueError(f"`{name}` is no whole pickle")
