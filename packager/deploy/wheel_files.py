# SPDX-License-Identifier: Apache-2.0
"""Unpack wheels without an installer, as PEP 427 lets one: for images whose build runs nothing.

Only what is imported is written: scripts and headers are left out, and a wheel that wants files elsewhere is refused.
The caller trusts the wheel's publisher; names are checked all the same.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from packager.errors import MalformedError, PackagerError, UsageError
from packager.types import check_path

_IMPORTED = ("purelib", "platlib")
_LEFT_OUT = ("scripts", "headers")


def unpack(wheel: Path, target: Path) -> None:
    """Write the modules of `wheel` below `target`, where other wheels may be already.

    Raises IntegrityError for a file that is no wheel, UsageError for one that cannot be unpacked this way.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = None if info.is_dir() else _place(info, wheel.name)
                if name is not None:
                    _write(archive, info, target / name, wheel.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise MalformedError(f"`{wheel.name}` is not a wheel: {error}", subject=wheel.name) from None


def _place(info: zipfile.ZipInfo, wheel: str) -> str | None:
    """Return where a member goes, None for nowhere."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise MalformedError(f"`{wheel}` holds `{info.filename:.100}`, which is no regular file", subject=wheel)
    try:
        check_path(info.filename)
    except PackagerError as error:
        raise MalformedError(f"`{wheel}`: {error.message}", subject=wheel) from None
    top, _, rest = info.filename.partition("/")
    if not top.endswith(".data"):
        return info.filename
    scheme, _, name = rest.partition("/")
    if scheme in _LEFT_OUT:
        return None
    if scheme not in _IMPORTED or not name:
        raise UsageError(
            f"`{wheel}` puts files into `{scheme:.40}`, which an image has no place for",
            hint="install the bundle on the host instead (`packager install`)",
        )
    return name


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path, wheel: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(info) as source, place.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except FileExistsError:
        raise UsageError(f"`{wheel}` and another wheel both have `{info.filename:.100}`") from None
