# SPDX-License-Identifier: Apache-2.0
"""Models in a BentoML store: `bentoml:name:version`, or `bentoml:name:latest`, which `lock` resolves.

A store is a directory (`models/<name>/<version>/` with a `model.yaml`), so nothing of BentoML is needed to read one:
the recipe's `registry: file:///srv/bentoml`, else $BENTOML_HOME, else `~/bentoml`. BentoML does not change a version
once it is saved; the pin holds the tag and, because nothing else enforces that, the digest of every file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from packager.errors import SourceError, UsageError, did_you_mean
from packager.events import OnEvent
from packager.sources import Pin, Settings, copy_pinned, local_path, pin_files, redact_address, regular_files
from packager.types import Blob

EXTRA: str | None = None

_SCHEME = "bentoml:"
_PART = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")  # BentoML's own rule for names and versions
_LATEST = "latest"


def matches(ref: str) -> bool:
    """True for `bentoml:…`."""
    return ref.startswith(_SCHEME)


def resolve(ref: str, settings: Settings) -> Pin:
    """Find the version that is meant now and pin its files."""
    name, version = _tag(ref)
    version = _latest(name, settings) if version == _LATEST else version
    files = regular_files(_directory(name, version, settings))
    if "model.yaml" not in files:
        raise SourceError(f"`{name}:{version}` in the BentoML store has no `model.yaml`", hint="save the model again")
    pin = pin_files("bentoml", files, settings, {"name": name, "version": version})
    return Pin(pin.kind, f"{_SCHEME}{name}:{version}", pin.details)


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the version; what is there must be what was pinned."""
    name, version = _tag(pin.uri)
    return copy_pinned(pin, regular_files(_directory(name, version, settings)), out, on_event)


def _tag(ref: str) -> tuple[str, str]:
    name, _, version = ref.removeprefix(_SCHEME).partition(":")
    version = version or _LATEST
    if not _PART.fullmatch(name) or not _PART.fullmatch(version):
        raise UsageError(
            f"source `{redact_address(ref)}` is no model of a BentoML store",
            hint="write `bentoml:name:version` as `bentoml models list` shows it, or `bentoml:name:latest`",
        )
    return name, version


def _home(settings: Settings) -> Path:
    """Return the store's directory; a registry that is no directory belongs to another source."""
    stated = settings.tracking or ""
    home = (local_path(stated, settings.base) if stated.startswith("file:") else None) or settings.bentoml
    if home is None or not (home / "models").is_dir():
        raise SourceError(
            f"there is no BentoML store at `{home or '~/bentoml'}`",
            hint="set BENTOML_HOME, or write `registry: file:///path/of/the/store` in the recipe",
        )
    return home


def _directory(name: str, version: str, settings: Settings) -> Path:
    """Return the directory of a version, or say which there are."""
    models = _home(settings) / "models"
    _present(models / name, models, f"the BentoML store has no model `{name}`")
    _present(models / name / version, models / name, f"model `{name}` has no version `{version}`")
    return models / name / version


def _present(path: Path, parent: Path, problem: str) -> None:
    if path.is_symlink() or not path.is_dir():
        known = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
        raise SourceError(problem, hint=did_you_mean(path.name, known) if known else "save one with `bentoml`")


def _latest(name: str, settings: Settings) -> str:
    """Read the version that BentoML calls the latest: a small file beside the versions."""
    models = _home(settings) / "models"
    _present(models / name, models, f"the BentoML store has no model `{name}`")
    pointer = models / name / _LATEST
    try:
        with pointer.open("rb") as file:
            version = file.read(256).decode().strip()
    except (OSError, UnicodeDecodeError):
        version = ""
    if not _PART.fullmatch(version) or version == _LATEST:
        raise SourceError(f"model `{name}` of the BentoML store names no latest version", hint="write one out")
    return version
