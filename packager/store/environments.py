# SPDX-License-Identifier: Apache-2.0
"""Directories of environments in a store: of locked toolchains, and those that installations share by hard links."""

from __future__ import annotations

from pathlib import Path

from packager.files import hold_lock

TOOLCHAINS = "environments"
SERVED = "served"
RECORD = "packager-environment.json"
"""A file in every shared environment that identifies its content. Its link count shows whether it is in use."""
GATE = ".gate"  # locked shared while links are made, exclusively while unused environments are removed


def move_unused(shared: Path, target: Path) -> list[Path]:
    """Move shared environments without links from an installation into `target`; return their new paths."""
    if not shared.is_dir() or shared.is_symlink():
        return []
    with hold_lock(shared / GATE):
        unused = [path for path in shared.iterdir() if not path.name.startswith(".") and not _used(path)]
        return [path.rename(target / f"{SERVED}-{path.name}") for path in unused]


def _used(path: Path) -> bool:
    return (path / RECORD).is_file() and (path / RECORD).lstat().st_nlink > 1
