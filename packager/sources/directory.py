# SPDX-License-Identifier: Apache-2.0
"""A directory of files: a saved MLflow model, a `transformers` checkpoint, an export. Written as a path or `file:` URL.

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
    regular_files,
    shown,
)
from packager.types import Blob

EXTRA: str | None = None


def matches(ref: str) -> bool:
    """True for a path or `file:` URL that does not end like a file of the sources `file` and `oci`."""
    return bool(ref) and local_path(ref, Path()) is not None and not ref.lower().endswith((*SINGLE_FILES, BUNDLE))


def resolve(ref: str, settings: Settings) -> Pin:
    """Pin the directory by the digest of its tree."""
    return pin_files("directory", regular_files(_root(ref, settings)), settings, {})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the directory; what is there must be what was pinned."""
    return copy_pinned(pin, regular_files(_root(settings.ref, settings)), out, on_event)


def _root(ref: str, settings: Settings) -> Path:
    path = local_path(ref, settings.base) if ref else None
    if path is None or not path.exists():
        raise SourceError(
            f"directory `{shown(ref)}` does not exist", hint="a registered model is written `models:/name@alias`"
        )
    if not path.is_dir():
        raise SourceError(
            f"expected a directory, got the file `{shown(ref)}`",
            hint=f"a file must end in one of {', '.join(SINGLE_FILES)}",
        )
    # Else the lock would be part of what it locks.
    if settings.base.resolve().is_relative_to(path.resolve()):
        raise UsageError(
            f"source `{shown(ref)}` contains the recipe itself", hint="give the model a directory of its own"
        )
    return path
