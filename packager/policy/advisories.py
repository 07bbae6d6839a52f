# SPDX-License-Identifier: Apache-2.0
"""Look up known vulnerabilities offline: advisories in OSV form in one SQLite file, matched against pins.

An import reads what osv.dev publishes (a zip of JSON files), JSON lines, or one JSON file; it keeps those about Python
packages and records the digest of the file and the newest `modified` in it, which is the age of the database.
Source: OSV schema 1.7 (https://ossf.github.io/osv-schema/), the evaluation algorithm there; PEP 440 for the order.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from packager import canonical
from packager.canonical import JSON
from packager.errors import UsageError
from packager.files import digest_of

FILE = "advisories.sqlite"
ECOSYSTEM = "PyPI"
MAX_ADVISORY = 8 << 20  # bytes of one advisory
MAX_FILE = 8 << 30
SEVERITIES = ("unknown", "none", "low", "moderate", "high", "critical")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Database:
    """An imported database: the digest of the file it came from, the newest `modified` in it, and its size."""

    digest: str
    newest: str
    count: int

    def to_json(self) -> JSON:
        return {"digest": self.digest, "newest": self.newest, "advisories": self.count}


@dataclass(frozen=True, slots=True)
class Hit:
    """A pin that an advisory covers. `fixed` are the versions that the advisory names as fixed."""

    id: str
    aliases: tuple[str, ...]
    package: str
    version: str
    severity: str
    fixed: tuple[str, ...]

    def to_json(self) -> JSON:
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "package": self.package,
            "version": self.version,
            "severity": self.severity,
            "fixed": list(self.fixed),
        }


def import_file(source: Path, folder: Path) -> Database:
    """Import a file into `folder`; the database that was there stays until the new one is complete.

    Raises UsageError for a file without an advisory about a Python package.
    """
    try:
        with source.open("rb") as file:
            digest = digest_of(file, limit=MAX_FILE).digest
    except OSError as error:
        raise UsageError(f"cannot read `{source}`: {error.strerror}") from None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as scratch:
        made = Path(scratch) / FILE
        known = _write(made, source, digest)
        made.replace(folder / FILE)
    return known


def _write(target: Path, source: Path, digest: str) -> Database:
    newest, count = "", 0
    with contextlib.closing(sqlite3.connect(target)) as database:
        database.execute("CREATE TABLE advisory (package TEXT, id TEXT, body BLOB)")
        for advisory in _advisories(source):
            packages = {canonicalize_name(str(item["package"]["name"])) for item in _affected(advisory)}
            body = canonical.dump(advisory)
            rows = [(package, str(advisory["id"]), body) for package in packages]
            database.executemany("INSERT INTO advisory VALUES (?, ?, ?)", rows)
            newest, count = max(newest, str(advisory.get("modified", ""))), count + bool(rows)
        if not count:
            raise UsageError(
                f"`{source}` holds no advisory about a Python package",
                hint="expected `all.zip` of the PyPI ecosystem from osv.dev, JSON lines, or one advisory",
            )
        database.execute("CREATE INDEX by_package ON advisory (package)")
        database.execute("CREATE TABLE about (format INTEGER, digest TEXT, newest TEXT, count INTEGER)")
        database.execute("INSERT INTO about VALUES (?, ?, ?, ?)", (_FORMAT, digest, newest, count))
        database.commit()
    return Database(digest, newest, count)


def _advisories(source: Path) -> Iterator[Mapping[str, JSON]]:
    """Yield every advisory of a file, one in memory at a time."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".json"):
                    with archive.open(info) as member:
                        yield _parse(member.read(MAX_ADVISORY + 1), info.filename)
        return
    with source.open("rb") as file:
        if source.suffix == ".json":
            yield _parse(file.read(MAX_ADVISORY + 1), source.name)
            return
        for number, line in enumerate(iter(lambda: file.readline(MAX_ADVISORY + 2), b""), start=1):
            if line.strip():
                yield _parse(line, f"{source.name}:{number}")


def _parse(data: bytes, label: str) -> Mapping[str, JSON]:
    try:
        value = canonical.load(data, limit=MAX_ADVISORY)
        if not isinstance(value["id"], str) or not isinstance(value["modified"], str):
            raise ValueError("it lacks `id` or `modified`")
        _affected(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"`{label}` is not an advisory in the OSV form: {error}") from None
    return dict(value)


def _affected(advisory: Mapping[str, JSON]) -> list[Mapping[str, JSON]]:
    """Return the entries of an advisory about Python packages; none of a withdrawn one."""
    if advisory.get("withdrawn"):
        return []
    rows = [item for item in advisory.get("affected", []) if "package" in item]
    return [item for item in rows if str(item["package"]["ecosystem"]).partition(":")[0] == ECOSYSTEM]


def read_database(folder: Path) -> Database | None:
    """Return the imported database, or None. Raises UsageError for a database of another form."""
    with _opened(folder) as database:
        if database is None:
            return None
        form, digest, newest, count = database.execute("SELECT format, digest, newest, count FROM about").fetchone()
    if form != _FORMAT:
        raise UsageError("the advisories were imported by another version", hint="`packager vulndb import FILE` again")
    return Database(digest, newest, count)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection | None]:
    path = folder / FILE
    if not path.is_file():
        yield None
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        raise UsageError(f"the advisories in `{path}` cannot be read: {error}", hint="import them again") from None


def match(folder: Path, pins: Iterable[tuple[str, str]]) -> list[Hit]:
    """Return the hits for pins (name, version), sorted. Raises UsageError where no advisories were imported."""
    found = []
    with _opened(folder) as database:
        if database is None:
            raise UsageError(
                "there are no advisories yet", hint="`packager vulndb import FILE`, for example from osv.dev"
            )
        for name, version in sorted(set(pins)):
            package = canonicalize_name(name)
            rows = database.execute("SELECT body FROM advisory WHERE package = ? ORDER BY id", (package,))
            for (body,) in rows:
                advisory = canonical.load(body, limit=2 * MAX_ADVISORY)
                own = [item for item in _affected(advisory) if canonicalize_name(item["package"]["name"]) == package]
                if any(is_affected(version, item) for item in own):
                    found.append(_hit(advisory, own, name, version))
    return found


def _hit(advisory: Mapping[str, JSON], own: Sequence[Mapping[str, JSON]], name: str, version: str) -> Hit:
    events = [event for item in own for span in item.get("ranges", []) for event in span.get("events", [])]
    fixed = sorted({str(event["fixed"]) for event in events if "fixed" in event})
    aliases = tuple(sorted({str(alias) for alias in advisory.get("aliases", [])}))
    return Hit(str(advisory["id"]), aliases, name, version, find_severity(advisory, own), tuple(fixed))


def is_affected(version: str, item: Mapping[str, JSON]) -> bool:
    """Return whether an `affected` entry covers a version: it is listed, or lies in a range of type ECOSYSTEM.

    A version or event that PEP 440 cannot order counts as affected, because it may be.
    """
    if version in item.get("versions", []):
        return True
    spans = [span for span in item.get("ranges", []) if span.get("type") == "ECOSYSTEM"]
    try:
        at = Version(version)
        if any(Version(str(listed)) == at for listed in _orderable(item.get("versions", []))):
            return True
        return any(_covers(at, span.get("events", [])) for span in spans)
    except InvalidVersion:
        return True


def _orderable(versions: Iterable[JSON]) -> Iterator[str]:
    for version in versions:
        with contextlib.suppress(InvalidVersion):
            yield str(Version(str(version)))


def _covers(at: Version, events: Sequence[Mapping[str, JSON]]) -> bool:
    """Walk the events in the order of their versions; between introduced and fixed a version is affected."""
    rows = sorted(
        ((_at(str(value)), kind) for event in events for kind, value in event.items()), key=lambda row: row[0]
    )
    answer = False
    for event, kind in rows:
        if kind == "introduced" and event <= at:
            answer = True
        elif (kind == "fixed" and event <= at) or (kind == "last_affected" and event < at):
            answer = False
    limits = [event for event, kind in rows if kind == "limit"]
    return answer and (not limits or any(at < limit for limit in limits))


def _at(text: str) -> Version:
    return Version("0.dev0") if text == "0" else Version("99999999!0") if text == "*" else Version(text)


def find_severity(advisory: Mapping[str, JSON], own: Sequence[Mapping[str, JSON]]) -> str:
    """Return the severity that the publisher states; `unknown` where only a vector or nothing is given."""
    for entry in [advisory, *own]:
        for key in ("database_specific", "ecosystem_specific"):
            text = str((entry.get(key) or {}).get("severity", "")).lower().replace("medium", "moderate")
            if text in SEVERITIES:
                return text
    return SEVERITIES[0]
