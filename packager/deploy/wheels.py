# SPDX-License-Identifier: Apache-2.0
"""Choose what an installation takes its wheels from: the bundle, a directory of the operator, or an index.

A bundle that carries wheels is installed from them and from nothing else. The lock is that of this platform and Python;
where the bundle has none, the message says which it has.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import IntegrityError, NegativeAnswerError
from packager.formats import platforms
from packager.formats.wheel_locks import PYLOCK, requirements_name

_PREFIX, _SUFFIX = requirements_name("\0").split("\0")


@dataclass(frozen=True, slots=True)
class Supply:
    """A requirements file with hashes, and the directory that holds its wheels (None: an index has them)."""

    requirements: Path
    place: Path | None


@dataclass(frozen=True, slots=True)
class Locked:
    """The lock files of one runtime in a bundle: the wheels of every platform, and those that the bundle carries."""

    platforms: Mapping[str, list[str]]
    carried: frozenset[str] | None

    def fitting(self, wheelhouse: Path | None) -> str:
        """Return the platform that is installed here: one whose wheels are carried, where any are and none are given.

        Raises NegativeAnswerError when the bundle is not locked, or does not carry the wheels, for this platform and
        Python.
        """
        names = sorted(self.platforms)
        verb = "is locked"
        if wheelhouse is None and self.carried is not None:
            names = [name for name in names if self.carried.issuperset(self.platforms[name])]
            verb = "carries wheels"
        found = [name for name in names if _fits(name, self.platforms[name])]
        if not found:
            raise _mismatch(verb, names)
        return found[0]


def choose(deps: Path, wheelhouse: Path | None) -> Supply:
    """Return what to install for this interpreter from the unpacked lock files in `deps`.

    Raises NegativeAnswerError when the bundle is not locked, or does not carry the wheels, for this platform and
    Python.
    """
    try:
        data = (deps / PYLOCK).read_bytes()
    except OSError as error:
        raise _unreadable(str(deps / PYLOCK), error) from None
    locked = read(data, str(deps / PYLOCK), (path.relative_to(deps).as_posix() for path in deps.rglob("*")))
    own = deps / "wheels" if locked.carried is not None else None
    return Supply(deps / requirements_name(locked.fitting(wheelhouse)), wheelhouse or own)


def read(pylock: bytes, subject: str, paths: Iterable[str]) -> Locked:
    """Read a runtime's `pylock.toml`, which `subject` names; `paths` are all files beside it. Raises IntegrityError."""
    there = set(paths)
    try:
        value = tomllib.loads(pylock.decode("utf-8"))
        files = {name: list(files) for name, files in value["tool"]["packager"]["platforms"].items()}
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, AttributeError, TypeError) as error:
        raise _unreadable(subject, error) from None
    names = [
        path[len(_PREFIX) : -len(_SUFFIX)] for path in there if path.startswith(_PREFIX) and path.endswith(_SUFFIX)
    ]
    carried = {path.removeprefix("wheels/") for path in there if path.startswith("wheels/")}
    if missing := sorted(set(names) - set(files)):
        raise _unreadable(subject, f"it does not tell the wheels of `{missing[0]}`")
    return Locked({name: files[name] for name in names}, frozenset(carried) if carried or "wheels" in there else None)


def _unreadable(subject: str, why: object) -> IntegrityError:
    return IntegrityError(f"`{subject}` is not a lock of this format: {why}", subject=PYLOCK)


def _mismatch(verb: str, names: list[str]) -> NegativeAnswerError:
    pythons = sorted(
        {platforms.parse(name).python_version for name in names}, key=lambda text: tuple(map(int, text.split(".")))
    )
    return NegativeAnswerError(
        f"the bundle {verb} for {', '.join(f'`{name}`' for name in names)}, and this is `{platforms.name_host()}`",
        hint=f"run packager with CPython {' or '.join(pythons)} on such a machine, "
        "or ask the publisher to add this platform to `vendor` in the recipe",
    )


def _fits(name: str, files: list[str]) -> bool:
    """Say whether a lock is for this interpreter and every wheel of it installs here (glibc included)."""
    own = platforms.parse(name)
    here = platforms.name_host()
    return here.endswith(f"_{own.machine}-cp{own.python[0]}{own.python[1]}") and platforms.installs(files)
