# SPDX-License-Identifier: Apache-2.0
"""A directory of files: a saved MLflow model, a `transformers` checkpoint, an export. Written as a path or `file:` URL.

A path that turns out to be a file, whatever its ending (`.sav`, `.model`), is a directory of that one file.

Pinned by content. `.git` and MLflow's `registered_model_meta` are not part of it; links and devices are refused, only
the directory itself may be reached through a link (`latest -> v3`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager.errors import SourceError, UsageError
from packager.events import OnEvent
from packager.sources import (
    BUNDLE,
    SINGLE_FILES,
    Pin,
    Settings,
    copy_pinned,
    local_path,
    pin_files,
    redact_address,
    regular_files,
)
from packager.types import Blob

EXTRA: str | None = None


def matches(ref: str) -> bool:
    """True for a path or `file:` URL that does not end like a file of the sources `file` and `oci`."""
    return bool(ref) and local_path(ref, Path()) is not None and not ref.lower().endswith((*SINGLE_FILES, BUNDLE))


def resolve(ref: str, settings: Settings) -> Pin:
    """Pin the directory by the digest of its tree."""
    return pin_files("directory", _files(ref, settings), settings, {})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the directory; what is there must be what was pinned."""
    return copy_pinned(pin, _files(settings.ref, settings), out, on_event)


def _files(ref: str, settings: Settings) -> dict[str, Path]:
    path = _root(ref, settings)
    return {path.name: path} if path.is_file() else regular_files(path)


def _root(ref: str, settings: Settings) -> Path:
    path = local_path(ref, settings.base) if ref else None
    if path is None or not path.exists():
        raise SourceError(
            f"directory `{redact_address(ref)}` does not exist",
            hint="a registered model is written `models:/name@alias`",
        )
    if path.is_file() and not path.is_symlink():
        return path
    if not path.is_dir():
        kind = "a symbolic link" if path.is_symlink() else "neither a directory nor a regular file"
        raise SourceError(f"`{redact_address(ref)}` is {kind}", hint="name the file or directory itself")
    # Else the lock would be part of what it locks.
    if settings.base.resolve().is_relative_to(path.resolve()):
        raise UsageError(
            f"source `{redact_address(ref)}` contains the recipe itself", hint="give the model its own directory"
        )
    return path
