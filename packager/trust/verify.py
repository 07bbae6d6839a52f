# SPDX-License-Identifier: Apache-2.0
"""Verify a bundle: a trusted signer signed it, and it is complete. Offline; the order of the checks is fixed.

    structure    sizes and numbers within limits; index, manifest, paths, records, statements parse strictly
    trust        the verifier's own trust has not expired
    signature    signatures, their times and certificates; which trusted signer signed what
    statement    statements are about this manifest; everything required is there
    revocation   it still is without what is revoked
    rollback     no newer version was accepted before or is required
    files        every file: size, digest, mode, name; and no file that no statement covers
    formats      every file has a format that contains data, not programs

Up to `rollback` the checks are those of `evidence`, which sees only bytes; the time and the record of accepted versions
are passed in. The first failing check ends verification, because later ones would judge unauthenticated data.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from packager.bundle.bundle import ALLOWED_SUFFIXES, CHAIN, DRAFT, EVIDENCE, Bundle
from packager.bundle.readers import read_record
from packager.canonical import JSON
from packager.errors import (
    ForbiddenFormatError,
    IntegrityError,
    MissingStatementError,
    MissingToolError,
    NegativeAnswerError,
    PackagerError,
    TooLargeError,
    WrongContentError,
)
from packager.events import OnEvent, Progress, Warned, ignore
from packager.files import digest_of
from packager.formats import dsse, intoto
from packager.formats.dsse import Certificates, Key, Material, SignedStatement
from packager.records import dataclass
from packager.trust import evidence
from packager.trust.evidence import Evidence, Subject
from packager.trust.keys import PublicKey
from packager.trust.model import Trust, as_trust
from packager.trust.seen import NOTHING, Seen
from packager.types import Blob

if TYPE_CHECKING:
    from cryptography import x509

MAX_STATEMENTS = 1024
MAX_STATEMENT_BYTES = 128 << 20
MAX_NOTES = 5
_WORTH_THREADS = 4 << 20  # bytes that are hashed in the time that a pool of threads takes to import and start
NO_OTHERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> JSON:
        return {"check": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Verification:
    """The results of all checks. Deterministic: equal bundle, trust, time and record give equal JSON everywhere."""

    name: str
    version: str
    digest: str
    set_digest: str
    evidence: tuple[Evidence, ...]
    checks: tuple[Check, ...]
    failure: PackagerError | None
    skipped: Mapping[str, PackagerError] = field(default_factory=dict)  # statements that could not be checked
    others: Mapping[str, str] = field(default_factory=dict)  # what others attached, by digest, and why it is no matter

    @property
    def signers(self) -> tuple[str, ...]:
        """Return the trusted identities that signed, sorted."""
        return tuple(sorted({item.attested.identity for item in self.evidence}))

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return self.failure is None

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each of the first statements that could not be checked, and one for the rest."""
        return skipped_notes(self.skipped, self.others)

    def raise_for_failure(self) -> None:
        """Raise the first failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    def to_json(self) -> JSON:
        return {
            "ok": self.ok,
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "set_digest": self.set_digest,
            "signers": list(self.signers),
            "statements": [_statement_json(item) for item in self.evidence],
            "skipped": [{"digest": digest, "reason": why.message} for digest, why in self.skipped.items()],
            "others": [{"digest": digest, "reason": why} for digest, why in sorted(self.others.items())],
            "checks": [check.to_json() for check in self.checks],
            "refusal": type(self.failure).__name__ if self.failure else None,
        }


def _statement_json(item: Evidence) -> JSON:
    attested = item.attested
    return {
        "predicate_type": item.statement.predicate_type,
        "signer": attested.signer,
        "identity": attested.identity,
        "time": f"{attested.time:%Y-%m-%dT%H:%M:%SZ}" if attested.time else None,
        "digest": item.digest,
    }


def verify(
    bundle: Bundle,
    trusted: Trust | Sequence[PublicKey],
    on_event: OnEvent = ignore,
    *,
    now: datetime | None = None,
    seen: Seen = NOTHING,
) -> Verification:
    """Check `bundle` against a trust, or keys that stand for one; see the module docstring for the order.

    `now` is needed if the trust has an end or names certificates; `seen` is the record of versions accepted before.
    """
    case = _Checks(bundle, as_trust(trusted), now, seen)
    plan: Sequence[tuple[str, Callable[[], str]]] = (
        *case.plan(),
        ("files", lambda: check_files(bundle, on_event)),
        ("formats", lambda: _check_formats(bundle)),
    )
    checks: list[Check] = []
    failure: PackagerError | None = None
    for name, perform in plan:
        try:
            checks.append(Check(name, True, perform()))
        except (IntegrityError, NegativeAnswerError) as error:  # a MissingToolError is no result: it is raised
            checks.append(Check(name, False, error.message))
            failure = error
            break
    return Verification(
        bundle.name,
        bundle.version,
        bundle.digest,
        bundle.set_digest,
        case.evidence,
        tuple(checks),
        failure,
        case.skipped,
        case.others,
    )


def require_signature(
    bundle: Bundle,
    trusted: Trust | Sequence[PublicKey],
    on_event: OnEvent = ignore,
    *,
    now: datetime | None = None,
    seen: Seen = NOTHING,
) -> tuple[Evidence, ...]:
    """Return the trusted statements about `bundle`, or raise; for callers that hash the files while copying."""
    case = _Checks(bundle, as_trust(trusted), now, seen)
    for _, perform in case.plan():
        perform()
    _check_formats(bundle)
    for note in skipped_notes(case.skipped):
        on_event(Warned(note))
    return case.evidence


def skipped_notes(skipped: Mapping[str, PackagerError], others: Mapping[str, str] = NO_OTHERS) -> list[str]:
    """Return a sentence for each of the first skipped statements, and one for the number of the rest.

    What others attached makes one sentence for each reason, because a signer usually makes several statements.
    """
    found = [f"`{digest}` is skipped: {why.message:.300}" for digest, why in [*skipped.items()][:MAX_NOTES]]
    found += [f"{len(skipped) - MAX_NOTES} more statements are skipped"] if len(skipped) > MAX_NOTES else []
    reasons = collections.Counter(others.values()).most_common()
    found += [
        f"`{next(digest for digest, other in others.items() if other == why)}` "
        f"{f'and {count - 1} more are' if count > 1 else 'is'} of others: {why:.300}"
        for why, count in reasons[:MAX_NOTES]
    ]
    rest = sum(count for _, count in reasons[MAX_NOTES:])
    return found + ([f"{rest} more things are of others"] if rest else [])


def _of_other_tools(bundle: Bundle) -> dict[str, str]:
    """Return what is attached and is no statement, or of another form, by digest, with the reason."""
    known = {dsse.BUNDLE, CHAIN, DRAFT, EVIDENCE}
    found = {digest: f"a manifest of another form: {why.message:.200}" for digest, why in bundle.aside.items()}
    for item in bundle.referrers:
        if item.artifact_type not in known:
            found[item.manifest.digest] = f"`{item.artifact_type:.100}` says nothing to this program"
        elif item.others and item.artifact_type == dsse.BUNDLE:
            found[item.manifest.digest] = "a statement in several parts is of another form"
    return found


class _Checks:
    """The checks of one bundle by one verifier, with what each leaves for the next."""

    def __init__(self, bundle: Bundle, trust: Trust, now: datetime | None, seen: Seen) -> None:
        self.bundle, self.trust, self.now, self.seen = bundle, trust, now, seen
        self.subject = Subject(bundle.name, bundle.version, bundle.digest, bundle.tree)
        self.signed: dict[str, SignedStatement] = {}
        self.skipped: dict[str, PackagerError] = {}
        self.others: dict[str, str] = _of_other_tools(bundle)
        self.evidence: tuple[Evidence, ...] = ()

    def plan(self) -> Sequence[tuple[str, Callable[[], str]]]:
        return (
            ("structure", self._structure),
            ("trust", lambda: evidence.check_not_expired(self.trust, self.now)),
            ("signature", self._signature),
            ("statement", self._statement),
            ("revocation", self._revocation),
            ("rollback", lambda: evidence.check_rollback(self.subject, self.trust, self.seen)),
        )

    def _structure(self) -> str:
        self.signed, self.skipped = split_readable(self.bundle)
        return f"{len(self.bundle.tree.files)} files, {len(self.signed)} attached statements"

    def _signature(self) -> str:
        self.evidence = evidence.authenticate(self.signed, self.trust, self.now, self.skipped, self.others)
        return f"signed by {', '.join(sorted({item.attested.identity[:80] for item in self.evidence}))}"

    def _statement(self) -> str:
        evidence.check_subjects(self.subject, self.evidence)
        try:
            required = evidence.check_requirements(self.evidence, self.trust, self.now)
        except MissingStatementError:
            missing = [why for why in self.skipped.values() if isinstance(why, MissingToolError)]
            if missing:  # the required statement may be one that this host cannot check: report that
                raise missing[0] from None
            raise
        return f"{len(self.evidence)} statements are about this manifest and its files; required: {required}"

    def _revocation(self) -> str:
        before, self.evidence = (
            self.evidence,
            evidence.apply_revocations(self.subject, self.evidence, self.trust, self.now),
        )
        return f"{len(before) - len(self.evidence)} statements are revoked"


class AttachedStatement(NamedTuple):
    """A signed statement as it calls itself, unverified: the digest of its blob, who claims to sign, and its type."""

    digest: str
    claim: str
    predicate_type: str


def list_statements(bundle: Bundle) -> Iterator[AttachedStatement]:
    """Yield every readable statement of `bundle`, unverified."""
    for digest, signed in split_readable(bundle)[0].items():
        stated = intoto.parse(signed.payload, limit=dsse.MAX_BUNDLE)
        yield AttachedStatement(digest, _claim(signed.material), stated.predicate_type)


def read_statements(bundle: Bundle) -> Iterator[intoto.Statement]:
    """Yield every readable attached statement, unverified."""
    for signed in split_readable(bundle)[0].values():
        yield intoto.parse(signed.payload, limit=dsse.MAX_BUNDLE)


def list_unreadable(bundle: Bundle) -> Mapping[str, PackagerError]:
    """Return the errors of unreadable attached statements, by the digest of their blob."""
    return split_readable(bundle)[1]


def _claim(material: Material) -> str:
    if isinstance(material, Key):
        return material.claim
    from packager.trust import certificates

    try:
        leaf = material.chain[0] if isinstance(material, Certificates) else material.certificate
        return ", ".join(sorted(certificates.list_names(certificates.parse_der(leaf)))) or material.claim
    except ValueError:
        return material.claim


def split_readable(bundle: Bundle) -> tuple[dict[str, SignedStatement], dict[str, PackagerError]]:
    """Return the attached statements that can be read, and why others cannot, by the digest of their blob."""
    found, skipped = _records(bundle)
    signed, unreadable = evidence.split_readable(found)
    if any(isinstance(one.material, Certificates) and len(one.material.chain) == 1 for one in signed.values()):
        signed = _with_paths(bundle, signed)
    return signed, {**unreadable, **skipped}


def _records(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, PackagerError]]:
    """Return the attached statements as bytes, and the errors of those that are not read.

    The smallest are read first, up to limits of number and size: large ones that others attach displace none of ours.
    """
    found: dict[str, bytes] = {}
    skipped: dict[str, PackagerError] = {}
    room = MAX_STATEMENT_BYTES
    for blob in _attached(bundle, dsse.BUNDLE):
        room -= blob.size
        if blob.size > dsse.MAX_BUNDLE or room < 0 or len(found) == MAX_STATEMENTS:
            skipped[blob.digest] = TooLargeError(
                f"too much is attached: at most {MAX_STATEMENTS} statements, of {dsse.MAX_BUNDLE} bytes each and "
                f"{MAX_STATEMENT_BYTES} together, are read; this one has {blob.size} bytes",
                subject=blob.digest,
            )
        else:
            found[blob.digest] = _content(bundle, blob)
    return found, skipped


def _attached(bundle: Bundle, kind: str) -> list[Blob]:
    """Return the blobs of everything attached of one artifact type, small ones first."""
    blobs = {item.content for item in bundle.referrers if item.artifact_type == kind and not item.others}
    return sorted(blobs, key=lambda blob: (blob.size, blob.digest))


def _content(bundle: Bundle, blob: Blob) -> bytes:
    pending = bundle.pending.get(blob.digest)
    return read_record(bundle.medium, blob.digest, limit=blob.size) if pending is None else pending


def _with_paths(bundle: Bundle, signed: Mapping[str, SignedStatement]) -> dict[str, SignedStatement]:
    """Return the statements with the attached certificates that lead from each signer's on; proven later."""
    from packager.trust import certificates

    pool: list[x509.Certificate] = []
    for blob in _attached(bundle, CHAIN):
        if blob.size <= certificates.MAX_PEM and len(pool) < certificates.MAX_ATTACHED:
            with contextlib.suppress(ValueError):  # anyone can attach anything
                pool += certificates.parse_pem(_content(bundle, blob))
    return {digest: certificates.with_path(statement, pool) for digest, statement in signed.items()}


def check_files(bundle: Bundle, on_event: OnEvent = ignore) -> str:
    """Check every file, on all cores, and that the medium contains nothing else."""
    bundle.medium.check_extent(bundle.tree, bundle.held)
    for digest in sorted(bundle.held & bundle.records.keys()):
        read_record(bundle.medium, digest, limit=dsse.MAX_BUNDLE)
    done, total = 0, bundle.tree.size

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(f"checking {bundle.name} {bundle.version}", done, total))

    def check(item: tuple[str, Blob]) -> None:
        path, blob = item
        with bundle.medium.open_file(path, blob) as file:
            got = digest_of(file, limit=blob.size, moved=moved)
        if got != blob:
            address = bundle.medium.place(path, blob)
            raise WrongContentError(
                f"`{address}` is not what was signed: expected {blob.digest}, got {got.digest}", subject=address
            )

    files = sorted(bundle.tree, key=lambda item: -item[1].size)
    if total < _WORTH_THREADS:
        for item in files:
            check(item)
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(check, files):
                pass
    return f"{len(bundle.tree.files)} files, {total} bytes, nothing else"


def _check_formats(bundle: Bundle) -> str:
    for path, _ in bundle.tree:
        suffix = PurePosixPath(path).suffix
        if suffix not in ALLOWED_SUFFIXES:
            raise ForbiddenFormatError(
                f"`{path}` has a format that bundles may not contain",
                hint=f"allowed: {', '.join(sorted(ALLOWED_SUFFIXES))}",
            )
    return "only allowed formats"
