# SPDX-License-Identifier: Apache-2.0
"""The content of a trust file, as records: trusted signers, required statements, revocations, ages.

A trust file never comes from a bundle. Its content is one JSON object (`packager schema trust` prints the schema).
`trust.file` signs and renews it; `of_keys` is the trust of a single `--key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from packager import canonical, semver
from packager.canonical import JSON
from packager.formats.dsse import read_items, read_members
from packager.formats.intoto import BUNDLE_PREDICATE
from packager.records import dataclass
from packager.trust import keys
from packager.trust.keys import PublicKey
from packager.types import DIGEST

if TYPE_CHECKING:  # most trust is in keys: reading it must not wait for X.509
    from cryptography import x509

FORMAT = 1
MAX_TRUST = 4 << 20  # bytes
CODE_SIGNING = "1.3.6.1.5.5.7.3.3"  # RFC 5280, 4.2.1.12
_TEXT = 2048  # characters of a line of text; what may be longer has lines: PEM
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Period:
    """When a signer is valid; compared with the trusted time of signing where there is one, else with now."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, at: datetime) -> bool:
        return (self.start is None or self.start <= at) and (self.end is None or at <= self.end)

    @property
    def bounded(self) -> bool:
        return self.start is not None or self.end is not None


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A signer identified by a key."""

    name: str
    key: PublicKey
    period: Period = Period()


@dataclass(frozen=True, slots=True)
class CertificateSigner:
    """A signer with a certificate of an enterprise authority, for `purpose`, with exactly this `identity` in it.

    `intermediates` may lie between that certificate and an authority; they are trusted as far as an authority goes.
    """

    name: str
    authorities: tuple[x509.Certificate, ...]
    identity: str
    purpose: str = CODE_SIGNING
    period: Period = Period()
    intermediates: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class KeylessSigner:
    """A signer with a Sigstore certificate for exactly this `identity`, authenticated by exactly this `issuer`.

    `instance` names a pinned trusted root; None is the public instance, whose root is part of the `sigstore` package.
    """

    name: str
    identity: str
    issuer: str
    instance: str | None = None
    period: Period = Period()


Signer: TypeAlias = KeySigner | CertificateSigner | KeylessSigner


@dataclass(frozen=True, slots=True)
class Requirement:
    """A required statement: its predicate type, its allowed signers (empty: every trusted one), and its maximum age.

    `predicate` are members that the statement's predicate must have with exactly these values, for example
    `verificationResult: PASSED` of a verification summary.
    """

    predicate_type: str
    signers: frozenset[str] = frozenset()
    maximum_age: timedelta | None = None
    predicate: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revocations:
    """What is no longer trusted, whatever its signatures."""

    keys: frozenset[str] = frozenset()  # fingerprints
    identities: frozenset[str] = frozenset()
    certificates: frozenset[str] = frozenset()  # serial numbers, hexadecimal
    bundles: frozenset[str] = frozenset()  # manifest digests
    versions: Mapping[str, str] = field(default_factory=dict)  # name to range


@dataclass(frozen=True, slots=True)
class Roots:
    """The keys that may sign the next trust file, and how many of them must."""

    keys: tuple[PublicKey, ...] = ()
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class Trust:
    """Everything a verifier trusts. Without a `name` it comes from options, not from a trust file."""

    signers: tuple[Signer, ...]
    name: str | None = None
    serial: int = 0
    expires: datetime | None = None
    roots: Roots = Roots()
    timestamping: tuple[x509.Certificate, ...] = ()
    instances: Mapping[str, bytes] = field(default_factory=dict)
    required: tuple[Requirement, ...] = (Requirement(BUNDLE_PREDICATE),)
    minimum: Mapping[str, str] = field(default_factory=dict)
    revoked: Revocations = Revocations()


def build_schema() -> bytes:
    """Return the JSON Schema of the content of a trust file."""
    from importlib import resources

    return resources.files("packager.trust").joinpath("trust.schema.json").read_bytes()


def of_keys(trusted: Iterable[PublicKey]) -> Trust:
    """Return the smallest trust: any of these keys may sign, without a time limit."""
    return Trust(tuple(KeySigner(key.fingerprint, key) for key in trusted))


def parse(payload: bytes) -> Trust:
    """Read the content of a trust file strictly. Raises ValueError with a reason for a message."""
    value = canonical.load(payload, limit=MAX_TRUST)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"expected trust format {FORMAT}; a newer packager may read this file")
    fields = read_members(
        value,
        "trust file",
        "format name serial expires roots signers",
        "timestamping instances require minimum revoked",
    )
    instances = {
        _name(name): canonical.dump(_table(root, "instance"))
        for name, root in _table(fields.get("instances", {}), "instances").items()
    }
    signers = tuple(
        _signer(_name(name), entry)
        for name, value in _table(fields["signers"], "signers").items()
        for entry in (
            read_items(value, f"entries of signer `{name:.80}`", 1, 32) if isinstance(value, list) else [value]
        )
    )
    trust = Trust(
        signers,
        _name(fields["name"]),
        _count(fields["serial"], "serial"),
        parse_time(fields["expires"]),
        _roots(fields["roots"]),
        tuple(_certificates(fields.get("timestamping", []), 0)),
        instances,
        _required(fields.get("require", []), {signer.name for signer in signers}),
        {_text(name): _lowest(low) for name, low in _table(fields.get("minimum", {}), "minimum").items()},
        _revoked(fields.get("revoked", {})),
    )
    for signer in signers:
        if isinstance(signer, KeylessSigner) and signer.instance not in {None, *instances}:
            raise ValueError(f"signer `{signer.name}` names the unknown instance `{signer.instance}`")
    return trust


def _signer(name: str, value: JSON) -> Signer:
    what = f"signer `{name}`"
    table = _table(value, what)
    period = "from until"
    if "key" in table:
        entry = read_members(table, what, "key", period)
        return KeySigner(name, _key(entry["key"], what), _period(entry))
    if "ca" in table:
        entry = read_members(table, what, "ca identity", f"intermediates purpose {period}")
        from packager.trust import certificates

        purpose = _text(entry.get("purpose", CODE_SIGNING))
        if not certificates.is_purpose(purpose):
            raise ValueError(f"the purpose of {what} is not an object identifier")
        return CertificateSigner(
            name,
            tuple(_certificates(entry["ca"], 1)),
            _text(entry["identity"]),
            purpose,
            _period(entry),
            tuple(_certificates(entry.get("intermediates", []), 0)),
        )
    entry = read_members(table, what, "identity issuer", f"instance {period}")
    instance = _name(entry["instance"]) if "instance" in entry else None
    return KeylessSigner(name, _text(entry["identity"]), _text(entry["issuer"]), instance, _period(entry))


def _required(value: JSON, known: set[str]) -> tuple[Requirement, ...]:
    found = []
    for item in read_items(value, "requirements", 0, 64):
        entry = read_members(item, "requirement", "predicateType", "signers maximumAgeDays predicate")
        names = frozenset(_text(name) for name in read_items(entry.get("signers", []), "signers", 0, 256))
        if unknown := sorted(names - known):
            raise ValueError(f"a requirement names the unknown signer `{unknown[0]}`")
        age = timedelta(days=_count(entry["maximumAgeDays"], "maximumAgeDays")) if "maximumAgeDays" in entry else None
        exact = _table(entry.get("predicate", {}), "predicate of a requirement")
        found.append(Requirement(_text(entry["predicateType"]), names, age, exact))
    if not any(requirement.predicate_type == BUNDLE_PREDICATE for requirement in found):
        found.insert(0, Requirement(BUNDLE_PREDICATE))
    return tuple(found)


def _revoked(value: JSON) -> Revocations:
    entry = read_members(value, "revocations", "", "keys identities certificates bundles versions")
    lists = {
        kind: read_items(entry.get(kind, []), kind, 0, 100_000)
        for kind in ("keys", "identities", "certificates", "bundles")
    }
    return Revocations(
        frozenset(_matching(item, _HEX, "a key's fingerprint") for item in lists["keys"]),
        frozenset(_text(item) for item in lists["identities"]),
        frozenset(
            _matching(item, re.compile(r"[1-9a-f][0-9a-f]*"), "a serial number") for item in lists["certificates"]
        ),
        frozenset(_matching(item, DIGEST, "a bundle's digest") for item in lists["bundles"]),
        {name: semver.check_range(_text(text)) for name, text in _table(entry.get("versions", {}), "versions").items()},
    )


def _roots(value: JSON) -> Roots:
    entry = read_members(value, "roots", "keys threshold")
    found = tuple(_key(item, "root") for item in read_items(entry["keys"], "root keys", 1, 32))
    threshold = _count(entry["threshold"], "threshold")
    if len({key.fingerprint for key in found}) != len(found) or not 1 <= threshold <= len(found):
        raise ValueError(f"threshold {threshold} does not fit {len(found)} root keys")
    return Roots(found, threshold)


def _key(value: JSON, what: str) -> PublicKey:
    try:
        return keys.parse_public(_text(value, 8192).encode())
    except ValueError as error:
        raise ValueError(f"the key of {what} {error}") from None


def _certificates(value: JSON, least: int) -> Iterable[x509.Certificate]:
    from packager.trust import certificates

    for item in read_items(value, "certificates", least, 32):
        yield from certificates.parse_pem(_text(item, certificates.MAX_PEM).encode())


def _period(entry: Mapping[str, JSON]) -> Period:
    return Period(*(parse_time(entry[edge]) if edge in entry else None for edge in ("from", "until")))


def parse_time(value: JSON) -> datetime:
    """Read a time in its only form, `2027-01-31T00:00:00Z`. Raises ValueError."""
    text = _matching(value, _TIME, "a time such as 2027-01-31T00:00:00Z")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _lowest(value: JSON) -> str:
    """Return a minimum version: it has a precedence, so no build metadata."""
    text = _version(value)
    if "+" in text:
        raise ValueError(f"`{text:.80}` cannot be a minimum: build metadata after `+` has no precedence")
    return text


def _version(value: JSON) -> str:
    text = _text(value)
    semver.precedence_key(text)
    return text


def _name(value: JSON) -> str:
    return _matching(value, _NAME, "a name of lower-case letters, digits, `.`, `_` and `-`")


def _matching(value: JSON, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"expected {expected}, got `{value!s:.80}`")
    return value


def _text(value: JSON, limit: int = _TEXT) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limit or (limit == _TEXT and not value.isprintable()):
        raise ValueError(f"expected text, got `{value!s:.80}`")
    return value


def _count(value: JSON, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise ValueError(f"`{what}` must be a whole number from 1, got `{value!s:.80}`")
    return value


def _table(value: JSON, what: str) -> dict[str, JSON]:
    if not isinstance(value, dict) or len(value) > 100_000:
        raise ValueError(f"`{what}` must be an object")
    return value


def as_trust(trusted: Trust | Sequence[PublicKey]) -> Trust:
    """Return a trust from either form that a caller may have."""
    return trusted if isinstance(trusted, Trust) else of_keys(trusted)
