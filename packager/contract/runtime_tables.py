# SPDX-License-Identifier: Apache-2.0
"""What is known of runtimes, version by version, as data: `versions.json` and `kernels.json` in a runtime's folder.

A row says what a version reads and needs, and whether that was measured or taken from its vendor's tables. Kernels say,
for every operator, version of its definition and combination of element types, on which versions a graph of that one
operator loads. A site may keep newer tables in its data directory (`packager runtimes update`): they win row by row.
Which of both counts is passed as `Tables`: `load_shipped`, or `SiteTables` of a workspace; nothing here remembers a
site. A contract is made from what ships alone, because nothing of a host may enter a bundle.

Standard library only, and quick: `packager compat` reads nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from packager import canonical, plugins
from packager.canonical import JSON
from packager.errors import IntegrityError
from packager.files import read_own

FORMAT = 1
MAX_TABLE = 16 << 20
Outcome: TypeAlias = Literal["ok", "no", "unknown"]
Order: TypeAlias = tuple[int, ...]

_ROW = {  # member -> what it may be
    "source": str,
    "opset": dict,
    "complete": int,
    "ir": int,
    "numpy": str,
    "python": list,
    "cuda": str,
    "driver": str,
    "capability": str,
    "inside": dict,
    "opens": list,
    "also": list,
    "protocol": list,
    "lacks": list,
    "note": str,
}
_SOURCES = ("measured", "vendor")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*")
_OUTCOMES: Mapping[str, Outcome] = {"o": "ok", "x": "no", "w": "no", "-": "unknown"}


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a runtime. What is empty or None is not known.

    `opset` maps operator sets to the newest version it reads, `complete` is the newest opset at which nothing common is
    missing, `ir` the newest IR version; `inside` names the runtimes it is made of, `opens` those whose artefacts it
    reads; `also` its other names; `lacks` the values that it does not keep: missing numbers (`nan`), whole numbers
    beyond 32 bits (`int64`), in one operator where its name follows.
    """

    version: str
    source: str
    opset: Mapping[str, int] = field(default_factory=dict)
    complete: int | None = None
    ir: int | None = None
    numpy: str = ""
    python: tuple[str, ...] = ()
    cuda: str | None = None
    driver: str | None = None
    capability: str | None = None
    inside: Mapping[str, str] = field(default_factory=dict)
    opens: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which operators the versions `over` have: domain, operator, since -> pattern -> combinations of element types.

    A pattern has one letter per version: `o` loads, `x` does not, `w` answers most tests wrongly, `-` was not or could
    not be tried.
    """

    over: tuple[str, ...] = ()
    operators: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]] = field(default_factory=dict)

    def outcomes(self, domain: str, operator: str, since: str, types: str, version: str) -> Outcome:
        """Say whether an operator on these element types loads in `version`.

        Parameters of the schema that only one side names do not count; among those left one that loads is enough.
        """
        found = {_OUTCOMES[letter] for letter in self._letters(domain, operator, since, types, version)}
        return "ok" if "ok" in found else "no" if "no" in found else "unknown"

    def is_wrong(self, domain: str, operator: str, since: str, types: str, version: str) -> bool:
        """Say whether `version` has the operator and answers most tests of it wrongly."""
        return {"w"} == self._letters(domain, operator, since, types, version) - {"-"}

    def _letters(self, domain: str, operator: str, since: str, types: str, version: str) -> set[str]:
        patterns = self.operators.get(domain, {}).get(operator, {}).get(since, {})
        index = self.over.index(version)
        found = {pattern[index] for pattern, rows in patterns.items() if types in rows}
        if not found and "?" not in types:
            found = {p[index] for p, rows in patterns.items() if any(agree(types, row) for row in rows)}
        return found

    def versions(self, domain: str, operator: str) -> list[int]:
        """Return the definitions of an operator that were tried, oldest first."""
        return sorted(int(since) for since in self.operators.get(domain, {}).get(operator, {}))


def agree(one: str, other: str) -> bool:
    """Say whether two combinations of element types name a parameter in common and none differently."""
    left, right = (dict(part.split("=", 1) for part in text.split(";") if part) for text in (one, other))
    shared = set(left) & set(right)
    return bool(shared) and all(left[name] == right[name] for name in shared)


@dataclass(frozen=True, slots=True)
class Table:
    """All that is known of one runtime; `rows` oldest first. `serial` only rises from table to table."""

    runtime: str
    serial: int
    rows: Mapping[str, Row]
    kernels: tuple[Kernels, ...] = ()

    def kernels_of(self, version: str) -> Kernels | None:
        """Return the kernels that were tried on `version`, the newest table's first."""
        return next((kernels for kernels in self.kernels if version in kernels.over), None)


def version_key(version: str) -> Order:
    """Return a key that sorts versions as their makers count them; only the numbers matter here."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def list_runtimes() -> tuple[str, ...]:
    """Return the runtimes that knowledge ships for, by their published names."""
    found = plugins.find_locations("runtimes")
    return tuple(sorted(name for name, at in found.items() if (at.path / "versions.json").is_file()))


def load_shipped(runtime: str) -> Table:
    """Return what ships about a runtime, beside its plug-in; an empty table when there is nothing."""
    location = plugins.locate("runtimes", runtime)
    if location is None or not (location.path / "versions.json").is_file():
        return Table(runtime, 0, MappingProxyType({}))
    return _shipped(location.path)


@functools.cache
def _shipped(folder: Path) -> Table:
    value = _load((folder / "versions.json").read_bytes())
    kernels = folder / "kernels.json"
    if kernels.is_file():
        value = {**value, "kernels": _load(kernels.read_bytes())}
    return _table(value)


Tables: TypeAlias = Callable[[str], Table]
"""What is known of a runtime, by its name: `load_shipped`, or `SiteTables`."""


@dataclass(frozen=True, slots=True)
class SiteTables:
    """The tables of one site: what ships, overridden row by row by those in `folder`. Without one they are what ships.

    The folder is read at every call, so that a table which the site takes counts from then on.
    """

    folder: Path | None

    def __call__(self, runtime: str) -> Table:
        """Return what is known of a runtime at the site. Raises IntegrityError for a damaged table."""
        found = load_shipped(runtime)
        if self.folder is not None:
            for name in (f"{runtime}.json", f"{runtime}.measured.json"):
                found = _overlaid(found, self.folder / name)
        return found


def _overlaid(base: Table, path: Path) -> Table:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return base
    return merge_tables(base, _read(path, stat.st_mtime_ns, stat.st_size))


@functools.cache
def _read(path: Path, changed: int, size: int) -> Table:
    return parse(read_own(path, MAX_TABLE), str(path))


def merge_tables(base: Table, newer: Table) -> Table:
    """Lay one table over another."""
    rows = {**base.rows, **newer.rows}
    ordered = MappingProxyType({version: rows[version] for version in sorted(rows, key=version_key)})
    return Table(base.runtime, max(base.serial, newer.serial), ordered, (*newer.kernels, *base.kernels))


def parse(data: bytes, subject: str) -> Table:
    """Parse a table strictly. Raises IntegrityError naming `subject`."""
    try:
        return _table(_load(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(
            f"`{subject}` is not a table of runtime knowledge: {error}",
            subject=subject,
            hint=f"expected format {FORMAT}",
        ) from None


def _load(data: bytes) -> JSON:
    return canonical.load(data, limit=MAX_TABLE)


def _table(value: JSON) -> Table:
    _members(value, {"format", "runtime", "serial", "versions"}, {"kernels"}, "the table")
    if value["format"] != FORMAT or type(value["serial"]) is not int:
        raise ValueError(f"format is {value['format']!s:.20}, serial {value['serial']!s:.20}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value["runtime"]):
        raise ValueError("its runtime has no name")
    rows = {version: _row(version, row) for version, row in value["versions"].items()}
    ordered = {version: rows[version] for version in sorted(rows, key=version_key)}
    parts = value.get("kernels", [])
    kernels = tuple(_kernels(part) for part in (parts if isinstance(parts, list) else [parts]))
    return Table(value["runtime"], value["serial"], MappingProxyType(ordered), kernels)


def _row(version: str, value: JSON) -> Row:
    if not _VERSION.fullmatch(version):
        raise ValueError(f"`{version:.40}` is not a version")
    _members(value, {"source"}, set(_ROW), version)
    for name, member in value.items():
        if type(member) is not _ROW[name]:
            raise ValueError(f"`{name}` of {version} is a {type(member).__name__}")
    if value["source"] not in _SOURCES:
        raise ValueError(f"`source` of {version} is none of {', '.join(_SOURCES)}")
    lists = {
        name: _words(value[name], version) for name in ("python", "opens", "also", "protocol", "lacks") if name in value
    }
    if not all(type(number) is int for number in value.get("opset", {}).values()):
        raise ValueError(f"`opset` of {version} is not a number for each set")
    _words(list(value.get("inside", {}).values()), version)
    return Row(version, **{**value, **lists})


def _words(value: Iterable[JSON], version: str) -> tuple[str, ...]:
    found = tuple(value)
    if not all(isinstance(word, str) for word in found):
        raise ValueError(f"a list of {version} holds something else than text")
    return found


def _kernels(value: JSON) -> Kernels:
    _members(value, {"over", "operators"}, set(), "kernels")
    over = _words(value["over"], "kernels")
    for operators in value["operators"].values():
        for name, definitions in operators.items():
            for since, patterns in definitions.items():
                _check_patterns(f"{name} {since}", patterns, len(over))
    return Kernels(over, value["operators"])


def _check_patterns(name: str, patterns: Mapping[str, JSON], length: int) -> None:
    for pattern, rows in patterns.items():
        if len(pattern) != length or not set(pattern) <= set(_OUTCOMES):
            raise ValueError(f"the pattern of {name:.60} does not have {length} letters o, x, w or -")
        _words(rows, name)


def _members(value: JSON, needed: set[str], optional: set[str], what: str) -> None:
    if not isinstance(value, dict) or not needed <= set(value) <= needed | optional:
        raise ValueError(f"{what:.60} must have the members {', '.join(sorted(needed))}, and no unknown one")
