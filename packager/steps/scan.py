# SPDX-License-Identifier: Apache-2.0
"""Scan: the report of one scanner on files of the source, each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from packager import plugins
from packager.canonical import JSON
from packager.errors import PackagerError
from packager.steps import _answers
from packager.types import check_path

VERSION = 2  # 2: numbers of joblib's files are left out; the source's own modules are named; 1: first form
ANSWER = _answers.SCAN


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return the outcome for each of `files`: `clean`, `infected`, or `failed` where the scanner could not decide.

    `own` are the modules that the source brings. The words of a clean file say what of those it imports.
    """
    scanner = plugins.load("scanners", params["scanner"])
    own = frozenset(params.get("own", ()))
    return {path: _scanned(scanner, inputs["source"] / check_path(path), own) for path in params["files"]}


def _scanned(scanner: ModuleType, file: Path, own: frozenset[str]) -> JSON:
    try:
        found, noted = scanner.judge(file, own) if hasattr(scanner, "judge") else (scanner.scan(file), [])
    except PackagerError:
        raise
    except Exception as error:
        # Whatever a hostile file provokes in a scanner: it has not been found clean.
        return {"outcome": "failed", "words": [f"{type(error).__name__}: {error!s:.200}"]}
    return {"outcome": "infected" if found else "clean", "words": (found or noted)[:20]}
