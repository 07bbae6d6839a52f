# SPDX-License-Identifier: Apache-2.0
"""One file that is a whole model, such as `.onnx`, `.pt2` or `.skops`.

An ONNX graph brings its external data files, which must lie beside or below it.

Nothing is loaded and no `onnx` is needed: the names of external data are read from the file's wire format; weights
inside the file are skipped, not read. Pinned by content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from packager.errors import IntegrityError, SourceError
from packager.events import OnEvent
from packager.formats.onnx_files import external_data
from packager.sources import SINGLE_FILES, Pin, Settings, copy_pinned, local_path, pin_files, redact_address
from packager.types import Blob, check_path

EXTRA: str | None = None


def matches(ref: str) -> bool:
    """True for a path or `file:` URL that ends like a model of one file."""
    return local_path(ref, Path()) is not None and ref.lower().endswith(SINGLE_FILES)


def resolve(ref: str, settings: Settings) -> Pin:
    """Pin the file, and what belongs to it, by content."""
    path = _path(ref, settings)
    return pin_files("file", list_files(path), settings, {"main": path.name})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the file and what belongs to it; what is there must be what was pinned."""
    return copy_pinned(pin, list_files(_path(settings.ref, settings)), out, on_event)


def _path(ref: str, settings: Settings) -> Path:
    path = local_path(ref, settings.base) if ref else None
    if path is None or not os.path.lexists(path):
        raise SourceError(
            f"file `{redact_address(ref)}` does not exist", hint="paths start at the directory of the recipe"
        )
    if path.is_symlink() or not path.is_file():
        kind = "a symbolic link" if path.is_symlink() else "not a regular file"
        raise SourceError(f"`{redact_address(ref)}` is {kind}", hint="name the file itself")
    return path


def list_files(path: Path) -> dict[str, Path]:
    """Return a file and what it needs beside it, by path. Raises SourceError where that cannot be taken along."""
    names = external_data(path) if path.suffix.lower() == ".onnx" else ()
    return {path.name: path} | {name: _beside(path, name) for name in names}


def _beside(path: Path, name: str) -> Path:
    """Return the external data file `name`, or say why it cannot be taken along."""
    try:
        parts = check_path(name).split("/")
    except IntegrityError as error:
        raise SourceError(f"`{path.name}` keeps weights elsewhere: {error.message}") from error
    steps = [path.parent.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    if any(step.is_symlink() for step in steps):
        raise SourceError(
            f"external data `{name}` of `{path.name}` is a symbolic link", hint="put the file itself there"
        )
    if name == path.name or not steps[-1].is_file():
        raise SourceError(f"external data `{name}` of `{path.name}` is not there", hint=f"copy it beside `{path.name}`")
    return steps[-1]
