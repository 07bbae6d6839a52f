# SPDX-License-Identifier: Apache-2.0
"""The lock file a model's project already has: `requirements.txt`, `pylock.toml` (PEP 751) or `uv.lock`.

Read, never run: no file it names is followed, no address it names is asked here. What comes out are exact versions,
local ones (`2.9.0+cu128`) included, with the hashes where the file has them, and the indexes it needs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.errors import UsageError
from packager.packages.indexes import opens, told

MAX_SIZE = 32 << 20
_DEFAULT_INDEX = re.compile(r"https://(pypi\.org|pypi\.python\.org)/simple/?")
_INDEX_OPTIONS = ("--extra-index-url", "--index-url", "-i")
_IGNORED_OPTIONS = ("--only-binary", "--no-binary", "--prefer-binary", "--require-hashes", "--trusted-host", "--pre")


@dataclass(frozen=True, slots=True)
class OwnPin:
    """One exact version; `hashes` are SHA-256 in hexadecimal, empty if the file has none."""

    name: str
    version: str
    marker: str | None
    hashes: frozenset[str]

    @property
    def line(self) -> str:
        """The pin as a PEP 508 line."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


@dataclass(frozen=True, slots=True)
class OwnLock:
    """A parsed lock file: its pins, and the indexes beyond PyPI that it names."""

    file: str
    pins: tuple[OwnPin, ...]
    indexes: tuple[str, ...]

    def hashes(self, name: str, version: str) -> frozenset[str]:
        """Return the hashes that the file accepts for a pin; empty if it accepts any."""
        return frozenset(h for pin in self.pins if (pin.name, pin.version) == (name, version) for h in pin.hashes)


def parse(data: bytes, file: str) -> OwnLock:
    """Read a lock file; its kind is told by its name. Raises UsageError."""
    if len(data) > MAX_SIZE:
        raise UsageError(f"`{file}` is larger than {MAX_SIZE} bytes")
    try:
        text = data.decode("utf-8")
        if not file.endswith((".toml", ".lock")):
            return _requirements(text, file)
        value = tomllib.loads(text)
        return _pylock(value, file) if "lock-version" in value else _uv_lock(value, file)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"`{file}` is no lock file that can be read: {error}",
            hint="a requirements file with exact versions, `pylock.toml` and `uv.lock` are understood",
        ) from None


def _requirements(text: str, file: str) -> OwnLock:
    pins: list[OwnPin] = []
    indexes: list[str] = []
    for number, line in _logical_lines(text):
        option, _, value = line.replace("=", " ", 1).partition(" ") if line.startswith("-") else ("", "", "")
        if option in _INDEX_OPTIONS:
            indexes.append(value.strip())
        elif option and option not in _IGNORED_OPTIONS:
            raise UsageError(
                f"`{file}:{number}`: option `{option}` is not followed",
                hint="give the locked file it leads to, complete",
            )
        elif not option:
            pins.append(_pin(line, f"{file}:{number}"))
    return _own(file, pins, indexes)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) without comments, continued lines joined."""
    joined, start = "", 0
    for number, row in enumerate(text.splitlines(), 1):
        start = start if joined else number
        joined += re.sub(r"(^|\s)#.*$", "", row)
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        if joined.strip():
            yield start, joined.strip()
        joined = ""


def _pin(line: str, place: str) -> OwnPin:
    head, *hashes = re.split(r"\s--hash[= ]", line)
    try:
        requirement = Requirement(head.strip())
    except InvalidRequirement:
        raise UsageError(f"`{place}`: `{told(head.strip()):.80}` is not a requirement") from None
    clauses = list(requirement.specifier)
    if requirement.url or len(clauses) != 1 or clauses[0].operator not in ("==", "===") or "*" in clauses[0].version:
        raise UsageError(
            f"`{place}`: expected an exact version, got `{told(head.strip()):.80}`",
            hint="a lock names one version of everything: `pip freeze`, `uv pip compile` or `pip-compile` write one",
        )
    values = (item.strip().removeprefix("sha256:") for item in hashes if item.strip().startswith("sha256:"))
    marker = str(requirement.marker) if requirement.marker else None
    return OwnPin(canonicalize_name(requirement.name), clauses[0].version, marker, frozenset(values))


def _pylock(value: JSON, file: str) -> OwnLock:
    pins, indexes = [], []
    for package in value.get("packages", []):
        if "version" in package:
            files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
            hashes = frozenset(item["hashes"]["sha256"] for item in files if "sha256" in item["hashes"])
            pins.append(OwnPin(canonicalize_name(package["name"]), package["version"], package.get("marker"), hashes))
            indexes.append(package.get("index", ""))
    return _own(file, pins, indexes)


def _uv_lock(value: JSON, file: str) -> OwnLock:
    pins, indexes = [], []
    for package in value["package"]:
        source = package.get("source", {})
        if "registry" not in source:
            continue  # the project itself, or something from a directory or a repository: nothing an index can give
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        hashes = (item.get("hash", "") for item in files)
        marker = " or ".join(f"({item})" for item in package.get("resolution-markers", [])) or None
        found = frozenset(item.removeprefix("sha256:") for item in hashes if item.startswith("sha256:"))
        pins.append(OwnPin(canonicalize_name(package["name"]), package["version"], marker, found))
        indexes.append(source["registry"])
    return _own(file, pins, indexes)


def _own(file: str, pins: Iterable[OwnPin], indexes: Iterable[str]) -> OwnLock:
    found = tuple(sorted(pins, key=lambda pin: (pin.name, pin.version, pin.marker or "")))
    if not found:
        raise UsageError(f"`{file}` locks nothing", hint="expected lines such as `numpy==2.4.6`")
    extra = dict.fromkeys(address for address in indexes if address and not _DEFAULT_INDEX.fullmatch(address))
    for address in extra:
        check_address(address, file)
    return OwnLock(file, found, tuple(sorted(extra)))


def check_address(address: str, file: str) -> str:
    """Return the address of an index if it may be recorded: https or http, and no credentials. Raises UsageError."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise UsageError(f"`{file}` names an index by no valid address") from None
    if opens(address):
        raise UsageError(
            f"`{file}` holds credentials for the index at `{parts.hostname}`",
            hint="remove the index there and name it in the environment (`UV_INDEX=acme=https://…`); pip and uv also "
            "read `~/.netrc` and the keyring",
        )
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError(f"`{file}` names an index that others cannot reach: `{told(address):.80}`")
    return address
