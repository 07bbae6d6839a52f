# SPDX-License-Identifier: Apache-2.0
"""Record which versions a verifier has accepted, so that older ones are refused (rollback protection).

    {"format": 1, "trusts": {"acme": {"file": {serial, digest, roots, threshold},
                                      "bundles": {"digits": [version, digest]}}}}

The record is one file of the verifier. Values only increase. The file is replaced atomically under a lock, so a kill at
any point leaves the old or the new one; a damaged file is refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path

from packager import canonical, semver
from packager.canonical import JSON
from packager.errors import MalformedError, RolledBackError, UsageError
from packager.files import hold_lock, read_own, storage_errors, write_atomically
from packager.formats.dsse import read_items, read_members
from packager.records import dataclass
from packager.trust.file import AcceptedFile
from packager.types import DIGEST

MAX_STATE = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """What was accepted under the name of one trust file: the file, and the highest version of each bundle."""

    file: AcceptedFile | None = None
    bundles: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # name to version and digest

    def check(self, name: str, version: str, digest: str) -> None:
        """Raise RolledBackError if `name` was accepted in a higher version, or in this version with another digest."""
        if name not in self.bundles:
            return
        highest, known = self.bundles[name]
        if semver.precedence_key(version) < semver.precedence_key(highest):
            raise RolledBackError(
                f"`{name}` {version} is older than what was seen here: expected at least {highest}",
                hint="to accept an older version on purpose, use `--state none`",
            )
        if version != highest and semver.precedence_key(version) == semver.precedence_key(highest):
            raise RolledBackError(
                f"`{name}` {version} is neither newer nor older than {highest}, which was seen here",
                hint="build metadata after `+` has no order; get a bundle with another version from the publisher",
            )
        if version == highest and digest != known:
            raise RolledBackError(
                f"`{name}` {version} was seen with another digest: expected {known}, got {digest}",
                hint="a version is published once; check with the publisher which of the two is theirs",
            )

    def with_bundle(self, name: str, version: str, digest: str) -> Seen:
        """Return this record with one more accepted bundle; an older one changes nothing."""
        if name in self.bundles and semver.precedence_key(version) <= semver.precedence_key(self.bundles[name][0]):
            return self
        return replace(self, bundles={**self.bundles, name: (version, digest)})

    def with_file(self, file: AcceptedFile) -> Seen:
        """Return this record with an accepted trust file; an older one changes nothing."""
        return self if self.file is not None and file.serial <= self.file.serial else replace(self, file=file)


NOTHING = Seen()


def load(path: Path, trust: str) -> Seen:
    """Read the record for the trust file of that name. Raises MalformedError when the state file is damaged."""
    return _read(path).get(trust, Seen())


def remember(path: Path, trust: str, new: Seen) -> None:
    """Merge `new` into the state file: whatever is higher stays."""
    try:
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with hold_lock(path.with_name(f".{path.name}.lock")):
                _merge(path, trust, new)
    except (NotADirectoryError, FileExistsError):
        raise UsageError(f"`{path}` cannot be a state file", hint="give --state a file that may be written") from None


def _merge(path: Path, trust: str, new: Seen) -> None:
    known = _read(path)
    merged = known.get(trust, Seen())
    if new.file is not None:
        merged = merged.with_file(new.file)
    for name, (version, digest) in new.bundles.items():
        merged = merged.with_bundle(name, version, digest)
    if merged != known.get(trust):
        write_atomically(path, canonical.dump(_json({**known, trust: merged})) + b"\n", mode=0o600)


def _json(seen: Mapping[str, Seen]) -> JSON:
    return {
        "format": 1,
        "trusts": {
            name: {
                "file": entry.file.to_json() if entry.file else None,
                "bundles": {bundle: list(pair) for bundle, pair in entry.bundles.items()},
            }
            for name, entry in seen.items()
        },
    }


def _read(path: Path) -> dict[str, Seen]:
    try:
        data = read_own(path, MAX_STATE)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read state file `{path}`: {error.strerror}") from None
    try:
        value = read_members(canonical.load(data, limit=MAX_STATE), "state", "format trusts")
        if value["format"] != 1 or not isinstance(value["trusts"], dict):
            raise ValueError("unknown format")
        return {name: _seen(entry) for name, entry in value["trusts"].items()}
    except ValueError as error:
        raise MalformedError(
            f"state file `{path}` is damaged: {error}",
            subject=str(path),
            hint="restore it; without it the accepted versions are unknown, so older ones are accepted again",
        ) from None


def _seen(value: JSON) -> Seen:
    entry = read_members(value, "entry", "file bundles")
    bundles: dict[str, tuple[str, str]] = {}
    if not isinstance(entry["bundles"], dict):
        raise ValueError("`bundles` is not an object")
    for name, pair in entry["bundles"].items():
        version, digest = (str(part) for part in read_items(pair, "parts", 2, 2))
        semver.precedence_key(version)
        if not DIGEST.fullmatch(digest):
            raise ValueError("a digest is malformed")
        bundles[name] = (version, digest)
    return Seen(None if entry["file"] is None else AcceptedFile.from_json(entry["file"]), bundles)
