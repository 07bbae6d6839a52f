# SPDX-License-Identifier: Apache-2.0
"""Choose what an installation takes its wheels from: the bundle, a directory of the operator, or an index.

A bundle that carries wheels is installed from them and from nothing else. The lock is that of this platform and Python;
where the bundle has none, the message says which it has.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import IntegrityError, NegativeAnswer
from packager.formats.locked import PYLOCK, requirements_name
from packager.packages import platforms

_PREFIX, _SUFFIX = requirements_name("\0").split("\0")


@dataclass(frozen=True, slots=True)
class Supply:
    """A requirements file with hashes, and the directory that holds its wheels (None: an index has them)."""

    requirements: Path
    place: Path | None


def choose(deps: Path, wheelhouse: Path | None) -> Supply:
    """Return what to install for this interpreter from the unpacked lock files in `deps`.

    Raises NegativeAnswer when the bundle is not locked, or does not carry the wheels, for this platform and Python.
    """
    locked = sorted(path.name[len(_PREFIX) : -len(_SUFFIX)] for path in deps.glob(f"{_PREFIX}*{_SUFFIX}"))
    files = _files(deps)
    fitting = [name for name in locked if _fits(name, files[name])]
    carried = deps / "wheels"
    if wheelhouse is None and carried.is_dir():
        vendored = [name for name in locked if all((carried / file).is_file() for file in files[name])]
        found = [name for name in fitting if name in vendored]
        if not found:
            raise _mismatch("carries wheels", vendored)
        return Supply(deps / requirements_name(found[0]), carried)
    if not fitting:
        raise _mismatch("is locked", locked)
    return Supply(deps / requirements_name(fitting[0]), wheelhouse)


def _mismatch(verb: str, names: list[str]) -> NegativeAnswer:
    pythons = sorted(
        {platforms.parse(name).python_version for name in names}, key=lambda text: tuple(map(int, text.split(".")))
    )
    return NegativeAnswer(
        f"the bundle {verb} for {', '.join(f'`{name}`' for name in names)}, and this is `{platforms.here()}`",
        hint=f"run packager with CPython {' or '.join(pythons)} on such a machine, "
        "or ask the publisher to add this platform to `vendor` in the recipe",
    )


def _fits(name: str, files: list[str]) -> bool:
    """Say whether a lock is for this interpreter and every wheel of it installs here (glibc included)."""
    asked = platforms.parse(name)
    here = platforms.here()
    return here.endswith(f"_{asked.machine}-cp{asked.python[0]}{asked.python[1]}") and platforms.installs(files)


def _files(deps: Path) -> Mapping[str, list[str]]:
    """Return the wheels of every locked platform, read from `pylock.toml`."""
    try:
        value = tomllib.loads((deps / PYLOCK).read_text("utf-8"))
        return {name: list(files) for name, files in value["tool"]["packager"]["platforms"].items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"`{deps / PYLOCK}` is not a lock of this format: {error}", subject=PYLOCK) from None
