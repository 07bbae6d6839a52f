# SPDX-License-Identifier: Apache-2.0
"""Read the lock file of a model's project: `requirements.txt`, `pylock.toml` (PEP 751), `uv.lock`, `poetry.lock`,
`pdm.lock` or `Pipfile.lock`.

No file or address that it names is opened. The result are exact versions, also local ones (`2.9.0+cu128`), with the
hashes where the file has them, and the indexes it needs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from packager import canonical
from packager.canonical import JSON
from packager.errors import UsageError
from packager.formats.index_addresses import has_credentials, redact_addresses
from packager.formats.requirements_files import (
    IGNORED_OPTIONS,
    INDEX_OPTIONS,
    logical_lines,
    of_address,
    parse_option,
    text_of,
)

MAX_SIZE = 32 << 20
_DEFAULT_INDEX = re.compile(r"https://(pypi\.org|pypi\.python\.org)/simple/?")
_KINDS = (
    "understood are a requirements file with exact versions, `pylock.toml`, `uv.lock`, `poetry.lock`, `pdm.lock` and "
    "`Pipfile.lock`"
)
_RANGES = {
    "pyproject.toml": "`uv.lock`, `poetry.lock` or `pdm.lock`",
    "Pipfile": "`Pipfile.lock`",
    "setup.cfg": "what `uv pip compile setup.cfg` writes",
    "setup.py": "what `uv pip compile setup.py` writes",
}
_EXPORTS = {
    "uv.lock": "`uv export --format pylock.toml --extra NAME -o pylock.toml`",
    "poetry.lock": "`poetry export -E NAME -o requirements.txt`",
    "pdm.lock": "`pdm export -G NAME -o requirements.txt`",
}
_NOT_ON_AN_INDEX = ("git", "hg", "svn", "bzr", "path", "url")  # PDM's keys of packages from elsewhere
_OPTIONS = {
    "--requirement": "make one file of it: `uv pip compile FILE -o requirements.lock`",
    "--constraint": "make one file of it: `uv pip compile FILE -o requirements.lock`",
    "--editable": "leave it out (`pip freeze --exclude-editable`): it is on no index",
    "--find-links": "leave it out, and set it in the environment (UV_FIND_LINKS and PIP_FIND_LINKS)",
}


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
    """A parsed lock file: its pins, and the indexes besides PyPI that it names."""

    file: str
    pins: tuple[OwnPin, ...]
    indexes: tuple[str, ...]

    def hashes(self, name: str, version: str) -> frozenset[str]:
        """Return the hashes that the file allows for a pin; empty if it allows all."""
        return frozenset(h for pin in self.pins if (pin.name, pin.version) == (name, version) for h in pin.hashes)


def parse(data: bytes, file: str) -> OwnLock:
    """Read a lock file; its kind follows from its name and its text. Raises UsageError."""
    if len(data) > MAX_SIZE:
        raise UsageError(f"`{file}` is larger than {MAX_SIZE} bytes")
    try:
        text = text_of(data)
        _refuse_other_kinds(text, file)
        if text.lstrip().startswith("{"):
            return _pipfile(canonical.load(text.encode(), limit=MAX_SIZE), file)
        if not file.endswith((".toml", ".lock")):
            return _requirements(text, file)
        value = tomllib.loads(text)
        return _pylock(value, file) if "lock-version" in value else _packages(value, file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"`{file}` is no lock file that can be read: {error}", hint=_KINDS) from None


def _refuse_other_kinds(text: str, file: str) -> None:
    """Raise UsageError for files that are often given instead of a lock, with the remedy."""
    name = file.rpartition("/")[2]
    if name in _RANGES:
        raise UsageError(f"`{file}` names ranges, and a lock names versions", hint=f"give {_RANGES[name]} beside it")
    keys = set(re.findall(r"^([a-z_-]+):", text, re.MULTILINE)) if name.endswith((".yml", ".yaml")) else set()
    if "@EXPLICIT" in text.splitlines() or keys & {"dependencies", "channels", "package"}:
        raise UsageError(
            f"`{file}` is for conda, whose packages are no wheels",
            hint="in that environment run `pip list --format=freeze > requirements.txt`, and give that file",
        )


def _requirements(text: str, file: str) -> OwnLock:
    pins: list[OwnPin] = []
    indexes: list[str] = []
    for number, line in logical_lines(text):
        name, value = parse_option(line)
        if name in INDEX_OPTIONS:
            indexes.append(value)
        elif name and name not in IGNORED_OPTIONS:
            raise UsageError(
                f"`{file}:{number}`: `{name}` is not followed",
                hint=_OPTIONS.get(name, "leave it out: a lock names versions, and nothing else counts"),
            )
        elif not name:
            pins.append(_pin(line, f"{file}:{number}"))
    return _own(file, pins, indexes)


def _pin(line: str, position: str) -> OwnPin:
    head, *hashes = re.split(r"\s--hash[= ]", line)
    values = frozenset(item.strip().removeprefix("sha256:") for item in hashes if item.strip().startswith("sha256:"))
    try:
        requirement = Requirement(head.strip())
    except InvalidRequirement:
        raise _unreadable(head.strip(), position) from None
    marker = str(requirement.marker) if requirement.marker else None
    if requirement.url:
        found = of_address(requirement)
        if found is None:
            raise _unreadable(head.strip(), position)
        name, version, digest = found
        return OwnPin(name, version, marker, values or frozenset(filter(None, [digest])))
    clauses = list(requirement.specifier)
    if len(clauses) != 1 or clauses[0].operator not in ("==", "===") or "*" in clauses[0].version:
        raise UsageError(
            f"`{position}`: expected an exact version, got `{redact_addresses(head.strip()):.80}`",
            hint="a lock names one version of everything, as `pip list --format=freeze`, `uv pip compile` and "
            "`pip-compile` write it",
        )
    return OwnPin(canonicalize_name(requirement.name), clauses[0].version, marker, values)


def _unreadable(line: str, position: str) -> UsageError:
    """Return the error for a line that pins no version, with the remedy."""
    shown = f"`{redact_addresses(line):.80}`"
    if re.search(r"(^|@\s*)(git|hg|svn|bzr)\+", line):
        return UsageError(
            f"`{position}`: {shown} is a revision of a repository, which no index has",
            hint="publish a wheel of it to an index and pin its version, or leave the line out",
        )
    if "@" in line or "://" in line:
        return UsageError(
            f"`{position}`: expected an exact version, got an address that names none: {shown}",
            hint="`pip list --format=freeze` writes versions where `pip freeze` writes addresses",
        )
    return UsageError(f"`{position}`: {shown} is not a requirement", hint="expected lines such as `numpy==2.4.6`")


def _pylock(value: JSON, file: str) -> OwnLock:
    pins, indexes = [], []
    for package in value.get("packages", []):
        if "version" in package and not {"vcs", "directory"} & package.keys():
            files = [*package.get("wheels", []), *(package[key] for key in ("sdist", "archive") if key in package)]
            hashes = frozenset(item["hashes"]["sha256"] for item in files if "sha256" in item["hashes"])
            pins.append(OwnPin(canonicalize_name(package["name"]), package["version"], package.get("marker"), hashes))
            indexes.append(package.get("index", ""))
    return _own(file, pins, indexes)


def _packages(value: JSON, file: str) -> OwnLock:
    """Read the lock of uv, Poetry or PDM: a table for every package."""
    pins, indexes = [], []
    files_of = value.get("metadata", {}).get("files", {})  # as in Poetry before 1.5
    for package in value["package"]:
        source = package.get("source", {})
        index = source.get("registry") or (source.get("url", "") if source.get("type") == "legacy" else "")
        if (source and not index) or any(key in package for key in _NOT_ON_AN_INDEX):
            continue  # the project itself, or a package from a directory or a repository: on no index
        files = [*package.get("wheels", []), *package.get("files", files_of.get(package["name"], []))]
        files += [package["sdist"]] if "sdist" in package else []
        hashes = (item.get("hash", "") for item in files)
        found = frozenset(item.removeprefix("sha256:") for item in hashes if item.startswith("sha256:"))
        pins.append(OwnPin(canonicalize_name(package["name"]), package["version"], _marker(package), found))
        indexes.append(index)
    return _own(file, pins, indexes)


def _marker(package: JSON) -> str | None:
    """Return the marker of a package: uv's forks, PDM's marker, or Poetry's markers, which may differ by group."""
    if forks := package.get("resolution-markers"):
        return " or ".join(f"({item})" for item in forks)
    found = package.get("markers") or package.get("marker")
    if isinstance(found, dict):
        return " or ".join(f"({item})" for item in sorted({*found.values()})) or None
    return str(found) if found else None


def _pipfile(value: JSON, file: str) -> OwnLock:
    """Read the default group of `Pipfile.lock`."""
    sources = {item["name"]: item["url"] for item in value["_meta"]["sources"]}
    pins, indexes = [], []
    for name, about in value["default"].items():
        if "version" not in about:
            continue  # from a directory or a repository: on no index
        if not re.fullmatch(r"==[^*,;\s]+", about["version"]):
            raise UsageError(
                f"`{file}`: expected an exact version of `{name}`, got `{about['version']:.80}`",
                hint="lock it again: `pipenv lock`",
            )
        hashes = (item for item in about.get("hashes", []) if item.startswith("sha256:"))
        found = frozenset(item.removeprefix("sha256:") for item in hashes)
        pins.append(OwnPin(canonicalize_name(name), about["version"][2:], about.get("markers"), found))
        indexes.append(sources.get(about.get("index", ""), ""))
    return _own(file, pins, indexes)


def _own(file: str, pins: Iterable[OwnPin], indexes: Iterable[str]) -> OwnLock:
    found = tuple(sorted(pins, key=lambda pin: (pin.name, pin.version, pin.marker or "")))
    if not found:
        raise UsageError(f"`{file}` locks nothing", hint="expected lines such as `numpy==2.4.6`")
    _check_one_version_each(found, file)
    extra = dict.fromkeys(address for address in indexes if address and not _DEFAULT_INDEX.fullmatch(address))
    for address in extra:
        check_address(address, file)
    return OwnLock(file, found, tuple(sorted(extra)))


def _check_one_version_each(pins: Iterable[OwnPin], file: str) -> None:
    """Raise UsageError where one environment would get two versions: the file serves several (extras, groups)."""
    seen: dict[tuple[str, str | None], str] = {}
    for pin in pins:
        other = seen.setdefault((pin.name, pin.marker), pin.version)
        if other != pin.version:
            how = _EXPORTS.get(file.rpartition("/")[2], "leave one of the two")
            raise UsageError(
                f"`{file}` locks two versions of `{pin.name}` for the same environment, {other} and {pin.version}",
                hint=f"it serves extras or groups that exclude each other; give the lock of one of them: {how}",
            )


def check_address(address: str, file: str) -> str:
    """Return the address of an index if it may be recorded: https or http, and no credentials. Raises UsageError."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise UsageError(f"`{file}` names an index by no valid address") from None
    if has_credentials(address):
        raise UsageError(
            f"`{file}` holds credentials for the index at `{parts.hostname}`",
            hint="remove the index there and name it in the environment (`UV_INDEX=acme=https://…`); pip and uv also "
            "read `~/.netrc` and the keyring",
        )
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError(f"`{file}` names an index that others cannot reach: `{redact_addresses(address):.80}`")
    return address
