# SPDX-License-Identifier: Apache-2.0
"""Where a store keeps environments: those of locked toolchains, and those that installations share by hard links."""

from __future__ import annotations

from pathlib import Path

from packager.files import locked

TOOLCHAINS = "environments"
SERVED = "served"
RECORD = "packager-environment.json"
"""In every shared environment: what decides its content. Its link count says whether an installation uses it."""
GATE = ".gate"  # locked shared while links are made, exclusively while unused environments are removed


def put_aside(shared: Path, place: Path) -> list[Path]:
    """Move kept environments that no installation has links to into the directory `place`; return where they are."""
    if not shared.is_dir() or shared.is_symlink():
        return []
    with locked(shared / GATE):
        unused = [path for path in shared.iterdir() if not path.name.startswith(".") and not _used(path)]
        return [path.rename(place / f"{SERVED}-{path.name}") for path in unused]


def _used(path: Path) -> bool:
    return (path / RECORD).is_file() and (path / RECORD).lstat().st_nlink > 1
