# SPDX-License-Identifier: Apache-2.0
"""Decide whether a bundle is what somebody trusted signed, and whole. Offline; the order of the checks is fixed.

    structure    sizes and numbers under their caps; index, manifest, paths, records, statements parse strictly
    trust        the verifier's own trust has not expired
    signature    signatures, their times and certificates; who of the trusted signed what
    statement    it is about this manifest; everything required is there
    revocation   and still is without what is revoked
    rollback     nothing newer was seen or is demanded
    files        every file: size, digest, mode, name; and nothing that no statement covers
    formats      every file is of a format that holds data, not programs

Up to `rollback` the answers come from `evidence`, which sees only bytes; the time and what was seen are handed in.
The first failing check ends the verdict, because what comes after it would judge data that nobody vouches for.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from packager.bundle.bundle import ALLOWED_SUFFIXES, Bundle
from packager.bundle.readers import record
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
from packager.trust import evidence
from packager.trust.evidence import About, Evidence
from packager.trust.keys import PublicKey
from packager.trust.model import Trust, normal
from packager.trust.seen import NOTHING, Seen
from packager.types import Blob

MAX_STATEMENTS = 256
MAX_STATEMENT_BYTES = 128 << 20
MAX_NOTES = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> JSON:
        return {"check": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Verification:
    """The whole verdict. Deterministic: the same bundle, trust, time and memory give the same JSON everywhere."""

    name: str
    version: str
    digest: str
    set_digest: str
    evidence: tuple[Evidence, ...]
    checks: tuple[Check, ...]
    failure: PackagerError | None
    skipped: Mapping[str, PackagerError] = field(default_factory=dict)  # statements that could not be judged

    @property
    def signers(self) -> tuple[str, ...]:
        """Return the trusted identities that signed, sorted."""
        return tuple(sorted({item.attested.identity for item in self.evidence}))

    @property
    def ok(self) -> bool:
        return self.failure is None

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

    `now` is needed as soon as the trust has an end or names certificates; `seen` is what the verifier remembers.
    """
    case = _Case(bundle, normal(trusted), now, seen)
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
        except (IntegrityError, NegativeAnswerError) as error:  # a MissingToolError is no verdict: it is raised
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
    )


def require_signature(
    bundle: Bundle,
    trusted: Trust | Sequence[PublicKey],
    on_event: OnEvent = ignore,
    *,
    now: datetime | None = None,
    seen: Seen = NOTHING,
) -> tuple[Evidence, ...]:
    """Return what trusted signers state of `bundle`, or raise; for callers that hash the files while copying."""
    case = _Case(bundle, normal(trusted), now, seen)
    for _, perform in case.plan():
        perform()
    _check_formats(bundle)
    for note in notes(case.skipped):
        on_event(Warned(note))
    return case.evidence


def notes(skipped: Mapping[str, PackagerError]) -> list[str]:
    """Say which statements were left aside and why: a few, then how many more."""
    told = [f"`{digest}` is left aside: {why.message:.300}" for digest, why in [*skipped.items()][:MAX_NOTES]]
    return told + ([f"{len(skipped) - MAX_NOTES} more statements are left aside"] if len(skipped) > MAX_NOTES else [])


class _Case:
    """One bundle before one verifier: what each step of the plan leaves for the next."""

    def __init__(self, bundle: Bundle, trust: Trust, now: datetime | None, seen: Seen) -> None:
        self.bundle, self.trust, self.now, self.seen = bundle, trust, now, seen
        self.about = About(bundle.name, bundle.version, bundle.digest, bundle.tree)
        self.signed: dict[str, SignedStatement] = {}
        self.skipped: dict[str, PackagerError] = {}
        self.evidence: tuple[Evidence, ...] = ()

    def plan(self) -> Sequence[tuple[str, Callable[[], str]]]:
        return (
            ("structure", self._structure),
            ("trust", lambda: evidence.current(self.trust, self.now)),
            ("signature", self._signature),
            ("statement", self._statement),
            ("revocation", self._revocation),
            ("rollback", lambda: evidence.newest(self.about, self.trust, self.seen)),
        )

    def _structure(self) -> str:
        self.signed, self.skipped = evidence.sift(dict(_records(self.bundle)))
        return f"{len(self.bundle.tree.files)} files, {len(self.signed)} attached statements"

    def _signature(self) -> str:
        self.evidence = evidence.authenticate(self.signed, self.trust, self.now, self.skipped)
        return f"signed by {', '.join(sorted({item.attested.identity[:80] for item in self.evidence}))}"

    def _statement(self) -> str:
        evidence.relate(self.about, self.evidence)
        try:
            required = evidence.satisfy(self.evidence, self.trust, self.now)
        except MissingStatementError:
            lacking = [why for why in self.skipped.values() if isinstance(why, MissingToolError)]
            if lacking:  # it may be one that this host cannot judge: then that is what has to be said
                raise lacking[0] from None
            raise
        return f"{len(self.evidence)} statements are about this manifest and its files; required: {required}"

    def _revocation(self) -> str:
        before, self.evidence = self.evidence, evidence.withstand(self.about, self.evidence, self.trust, self.now)
        return f"{len(before) - len(self.evidence)} statements are revoked"


def attached(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    """Yield (blob digest, who it claims to be by, predicate type) of every statement that can be read, unverified."""
    for digest, signed in evidence.sift(dict(_records(bundle)))[0].items():
        yield digest, _claim(signed.material), intoto.parse(signed.payload, limit=dsse.MAX_BUNDLE).predicate_type


def statements(bundle: Bundle) -> Iterator[intoto.Statement]:
    """Yield every attached statement that can be read, unverified."""
    for signed in evidence.sift(dict(_records(bundle)))[0].values():
        yield intoto.parse(signed.payload, limit=dsse.MAX_BUNDLE)


def unreadable(bundle: Bundle) -> Mapping[str, PackagerError]:
    """Return why attached statements cannot be read, by the digest of their blob."""
    return evidence.sift(dict(_records(bundle)))[1]


def _claim(material: Material) -> str:
    if isinstance(material, Key):
        return material.claim
    from packager.trust import certificates

    try:
        leaf = material.chain[0] if isinstance(material, Certificates) else material.certificate
        return ", ".join(sorted(certificates.names(certificates.parse_der(leaf)))) or material.claim
    except ValueError:
        return material.claim


def _records(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Yield the attached statements as bytes, under the caps on their number and size."""
    blobs = {r.content.digest: r.content for r in bundle.referrers if r.artifact_type == dsse.BUNDLE and not r.others}
    total = sum(blob.size for blob in blobs.values())
    if len(blobs) > MAX_STATEMENTS or total > MAX_STATEMENT_BYTES:
        raise TooLargeError(
            f"too much is attached: expected at most {MAX_STATEMENTS} statements and {MAX_STATEMENT_BYTES} bytes, "
            f"got {len(blobs)} and {total}",
            subject=bundle.name,
        )
    for digest, blob in blobs.items():
        limit = min(dsse.MAX_BUNDLE, blob.size)
        pending = bundle.pending.get(digest)
        yield digest, record(bundle.medium, digest, limit=limit) if pending is None else pending


def check_files(bundle: Bundle, on_event: OnEvent = ignore) -> str:
    """Read every file once, on all cores, and account for everything on the medium."""
    bundle.medium.check_extent(bundle.tree, bundle.records)
    for digest in sorted(bundle.records):
        if digest not in bundle.pending:
            record(bundle.medium, digest, limit=dsse.MAX_BUNDLE)
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
            place = bundle.medium.place(path, blob)
            raise WrongContentError(
                f"`{place}` is not what was signed: expected {blob.digest}, got {got.digest}", subject=place
            )

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(check, sorted(bundle.tree, key=lambda item: -item[1].size)):
            pass
    return f"{len(bundle.tree.files)} files, {total} bytes, nothing else"


def _check_formats(bundle: Bundle) -> str:
    for path, _ in bundle.tree:
        suffix = PurePosixPath(path).suffix
        if suffix not in ALLOWED_SUFFIXES:
            raise ForbiddenFormatError(
                f"`{path}` is of a format that bundles may not hold",
                hint=f"allowed: {', '.join(sorted(ALLOWED_SUFFIXES))}",
            )
    return "only allowed formats"
