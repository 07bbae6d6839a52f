# SPDX-License-Identifier: Apache-2.0
"""`requirements.txt` of a platform whose server is Python: the bundle's lock, then what that server needs.

What it needs is a list among the templates that `tests/make_server_wheels.py` writes: exact versions, the hashes of
their wheels, and the ranges that they take of each other.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers import _deployment
from packager.errors import UsageError
from packager.formats import platforms
from packager.formats.wheel_locks import INDEX


def build_requirements(bundle: Bundle, runtime: str, wheels: str, platform: str) -> bytes:
    """Return the lock of the bundle, and beside it the wheels that a platform's server needs, each with its hashes.

    `wheels` is their list among the templates. Raises UsageError for a bundle without a lock, and where it locks a
    version that one of them does not take.
    """
    folder = f"deps/{runtime}"
    if bundle.tree.get(f"{folder}/{INDEX}") is None:
        raise UsageError(
            f"`{bundle.name}` has no lock for {runtime}", hint="build the bundle with `packager lock` first"
        )
    lock = bundle.read(f"{folder}/{INDEX}").decode()
    locked = {key: _versions(bundle.read(path).decode()) for key, path in _platforms(bundle, folder).items()}
    rows = json.loads(_deployment.read_template(wheels))["packages"]
    _check_ranges(rows, [*locked.values()] or [_versions(lock)], platform)
    own = [_row(row, marker) for row in rows if (marker := _marker(row, locked, lock)) is not None]
    return "".join([lock if lock.endswith("\n") else f"{lock}\n", *own]).encode()


def _platforms(bundle: Bundle, folder: str) -> dict[str, str]:
    """Return the lock file of each platform."""
    found = (re.fullmatch(rf"{folder}/requirements-(.+)\.txt", path) for path, _ in bundle.tree)
    return {name[1]: name[0] for name in found if name}


def _versions(text: str) -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9][^=\s;]*)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def _check_ranges(rows: Sequence[JSON], locks: Sequence[Mapping[str, str]], platform: str) -> None:
    """Raise UsageError where the bundle locks a version that the platform's packages do not take."""
    for row, lock in itertools.product(rows, locks):
        if row["name"] in lock:
            continue
        for name, ranges in row["needs"].items():
            if name in lock and not SpecifierSet(ranges).contains(lock[name], prereleases=True):
                raise UsageError(
                    f"the bundle locks `{name}` {lock[name]}, and `{row['name']}` {row['version']}, which {platform} "
                    f"needs, takes {ranges}",
                    hint=f"lock another `{name}` (`dependencies:` in the recipe), or render another kind",
                )


def _marker(row: JSON, locked: Mapping[str, Mapping[str, str]], lock: str) -> str | None:
    """Return where a wheel of the server is installed: where the bundle locks none of its name; None for nowhere."""
    lacking = [key for key, versions in locked.items() if row["name"] not in versions]
    own = str(row.get("marker") or "")
    if len(lacking) == len(locked):
        return None if not locked and row["name"] in _versions(lock) else own
    if not lacking:
        return None
    there = " or ".join(f"({platforms.parse(key).marker})" for key in lacking)
    return f"({own}) and ({there})" if own else there


def _row(row: JSON, marker: str) -> str:
    pin = f"{row['name']}=={row['version']}" + (f" ; {marker}" if marker else "")
    return " \\\n    ".join([pin, *(f"--hash=sha256:{value}" for value in row["hashes"])]) + "\n"
