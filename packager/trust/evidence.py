# SPDX-License-Identifier: Apache-2.0
"""Decide from signed statements whether a bundle may be trusted.

Bytes in, evidence out: no file, no network, no clock. `verify` runs these checks in this order, and the first failure
ends it.

    split_readable      which attached statements can be read; the others are skipped, with the reason
    check_not_expired   the trust itself has not expired
    authenticate        which trusted signer signed what; a forgery fails, an unknown signer proves nothing
    check_subjects      every trusted statement is about this bundle
    check_requirements  the required statements are there
    apply_revocations   they still are without everything revoked
    check_rollback      no newer version was accepted before or is required
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from packager import semver
from packager.errors import (
    BadSignatureError,
    MalformedError,
    MissingStatementError,
    MissingToolError,
    NegativeAnswerError,
    OutdatedError,
    PackagerError,
    RevokedError,
    RolledBackError,
    UnsignedError,
    UntrustedSignerError,
    UntrustedTimeError,
    UsageError,
    WrongSubjectError,
)
from packager.formats import dsse, intoto
from packager.formats.dsse import Certificates, Key, SignedStatement
from packager.formats.intoto import Statement
from packager.records import dataclass
from packager.trust.model import KeySigner, Requirement, Signer, Trust
from packager.trust.seen import Seen
from packager.trust.verifiers import Attested, Verifier
from packager.types import Tree


@dataclass(frozen=True, slots=True)
class Subject:
    """The bundle that the statements must be about."""

    name: str
    version: str
    digest: str
    tree: Tree


@dataclass(frozen=True, slots=True)
class Evidence:
    """A statement, the digest of its blob, and its trusted signer."""

    digest: str
    statement: Statement
    attested: Attested


def parse_statements(records: Mapping[str, bytes]) -> dict[str, SignedStatement]:
    """Read all attached statements strictly, by the digest of their blob. Raises MalformedError."""
    found = {}
    for digest, data in sorted(records.items()):
        try:
            found[digest] = dsse.parse(data)
            intoto.parse(found[digest].payload, limit=dsse.MAX_BUNDLE)
        except ValueError as error:
            raise MalformedError(f"statement `{digest}` is malformed: {error}", subject=digest) from None
    return found


def split_readable(records: Mapping[str, bytes]) -> tuple[dict[str, SignedStatement], dict[str, PackagerError]]:
    """Return the attached statements that can be read, and the errors of the others, by the digest of their blob.

    Everyone with push rights may attach anything, including statements of other tools: those prove nothing and prevent
    nothing. Requirements apply to the readable ones.
    """
    signed: dict[str, SignedStatement] = {}
    skipped: dict[str, PackagerError] = {}
    for digest, data in sorted(records.items()):
        try:
            signed |= parse_statements({digest: data})
        except MalformedError as error:
            skipped[digest] = error
    return signed, skipped


def check_not_expired(trust: Trust, now: datetime | None) -> str:
    """Raise OutdatedError when the trust file has expired."""
    if trust.expires is None:
        return f"{len(trust.signers)} signers, given directly"
    if now is None:
        raise UsageError("a trust file that expires needs the time")
    if now > trust.expires:
        raise OutdatedError(
            f"trust file `{trust.name}` expired: expected a time before {trust.expires:%Y-%m-%dT%H:%M:%SZ}",
            hint="get the current one from its maintainer",
        )
    return f"trust file `{trust.name}` serial {trust.serial}, {len(trust.signers)} signers"


def authenticate(
    signed: Mapping[str, SignedStatement],
    trust: Trust,
    now: datetime | None,
    skipped: dict[str, PackagerError] | None = None,
    others: dict[str, str] | None = None,
) -> tuple[Evidence, ...]:
    """Return the statements of trusted signers; statements that cannot be checked are added to `skipped`.

    Those of signers who are not trusted are added to `others`, with the reason.

    Raises BadSignatureError for the first forgery in a trusted signer's name; without any trusted statement,
    UnsignedError, or the most specific error of a statement.
    """
    found, doubts = [], []
    skipped = {} if skipped is None else skipped
    for digest, statement in signed.items():
        try:
            found.append(authenticate_one(digest, statement, trust, now))
        except NegativeAnswerError as error:
            doubts.append(error)
            if others is not None:
                others[digest] = error.message
        except (MalformedError, MissingToolError) as error:
            skipped[digest] = error
    if not found:
        raise _no_signer_error(signed, trust, doubts, skipped)
    return tuple(found)


def authenticate_one(digest: str, signed: SignedStatement, trust: Trust, now: datetime | None) -> Evidence:
    """Return a statement with its trusted signer. Raises BadSignatureError for a forgery, or why it proves nothing."""
    try:
        attested = _verifier(signed).verify(signed, trust, now)
    except BadSignatureError as error:
        raise BadSignatureError(
            f"the signature in `{digest}` is invalid: {error.message}",
            subject=digest,
            hint="fetch it again; if it stays so, it is not what its publisher signed: do not use it",
        ) from None
    _check_period(attested, trust, now)
    return Evidence(digest, intoto.parse(attested.payload, limit=dsse.MAX_BUNDLE), attested)


def _verifier(signed: SignedStatement) -> Verifier:
    """Return the verifier for a kind of material; one that needs a package is imported only when used."""
    material = signed.material
    kind = "key" if isinstance(material, Key) else "certificate" if isinstance(material, Certificates) else "keyless"
    verifier: Verifier = importlib.import_module(f"packager.trust.verifiers.{kind}")
    return verifier


def _check_period(attested: Attested, trust: Trust, now: datetime | None) -> None:
    """Raise OutdatedError unless an entry of the signer is valid at that time: a name may have several entries."""
    entries = [s for s in trust.signers if s.name == attested.signer and _is(s, attested)]
    if any(not entry.period.bounded for entry in entries):
        return
    at = attested.time or now
    if at is None:
        raise UsageError(f"signer `{attested.signer}` is trusted for a limited time, so the time is needed")
    if not any(entry.period.holds(at) for entry in entries):
        raise OutdatedError(f"signer `{attested.signer}` is not trusted at {at:%Y-%m-%dT%H:%M:%SZ}")


def _is(signer: Signer, attested: Attested) -> bool:
    if isinstance(signer, KeySigner):
        return attested.certificate is None and signer.key.fingerprint == attested.key
    return attested.certificate is not None and signer.identity == attested.identity


def _no_signer_error(
    signed: Mapping[str, SignedStatement],
    trust: Trust,
    doubts: Sequence[NegativeAnswerError],
    skipped: Mapping[str, PackagerError],
) -> PackagerError:
    specific: list[PackagerError] = [doubt for doubt in doubts if not isinstance(doubt, UntrustedSignerError)]
    specific += [error for error in skipped.values() if isinstance(error, MissingToolError)]
    specific += skipped.values() if not doubts else ()
    if specific:
        return specific[0]
    if not signed:
        return UnsignedError(
            "the bundle is not signed",
            hint="get the signed bundle from its publisher; `packager sign` signs one; `skopeo copy` "
            "leaves signatures behind, `packager pull` and `oras cp -r` take them along",
        )
    wanted = ", ".join(signer.name[:16] for signer in trust.signers)
    got = ", ".join(sorted({statement.material.claim for statement in signed.values()}))
    others = [doubt.message for doubt in doubts if not doubt.message.startswith("no trusted key")]
    reason = f" ({others[0]})" if others else ""
    return UntrustedSignerError(
        f"no trusted key or identity signed this bundle: expected {wanted}, got {got:.300}{reason}",
        hint="compare the fingerprints with those that the publisher announced; `packager inspect` lists the signers",
    )


def check_subjects(subject: Subject, evidence: Iterable[Evidence]) -> None:
    """Raise WrongSubjectError if any trusted statement is not about this bundle.

    The two kinds that describe a whole bundle must be equal to the expected statement; all others must have its
    subject.
    """
    expected = {
        statement.predicate_type: statement
        for statement in (
            intoto.bundle_statement(subject.name, subject.version, subject.digest, subject.tree),
            intoto.model_signing_statement(subject.name, subject.version, subject.tree),
        )
    }
    for item in evidence:
        got = item.statement
        whole = expected.get(got.predicate_type)
        same = got == whole if whole else got.subject_sha256 == subject.digest.removeprefix("sha256:")
        if not same:
            like = whole or expected[intoto.BUNDLE_PREDICATE]
            raise WrongSubjectError(
                f"a trusted key signed another bundle: expected {like.subject_name} {like.subject_sha256[:16]}, "
                f"got {got.subject_name:.80} {got.subject_sha256[:16]:.16} ({got.predicate_type:.80})",
                subject=item.digest,
            )


def check_requirements(evidence: Sequence[Evidence], trust: Trust, now: datetime | None) -> str:
    """Raise MissingStatementError, OutdatedError or UntrustedTimeError unless each requirement is met."""
    for requirement in trust.required:
        same = [item for item in evidence if _meets(item.statement.predicate_type, requirement)]
        allowed = [item for item in same if not requirement.signers or item.attested.signer in requirement.signers]
        fitting = [item for item in allowed if _matches(item.statement.predicate, requirement)]
        if not fitting:
            raise MissingStatementError(
                _missing_message(requirement, same, allowed), hint="`packager inspect` lists the attached statements"
            )
        if requirement.maximum_age is not None:
            _check_age(requirement.predicate_type, requirement.maximum_age, fitting, now)
    return ", ".join(requirement.predicate_type for requirement in trust.required)


def statements_of_type(evidence: Iterable[Evidence], trust: Trust, predicate_type: str) -> tuple[Evidence, ...]:
    """Return the statements of one type that count: where the trust restricts their signers, only theirs."""
    entitled = [item.signers for item in trust.required if item.predicate_type == predicate_type and item.signers]
    return tuple(
        item
        for item in evidence
        if item.statement.predicate_type == predicate_type and all(item.attested.signer in names for names in entitled)
    )


def _meets(predicate_type: str, requirement: Requirement) -> bool:
    """Return whether a statement is of the required type.

    Where a signature of the bundle is all that is required, that of `cosign sign` is one: its subject is the manifest
    digest, which covers name, version and files.
    """
    if predicate_type == intoto.COSIGN_SIGN_PREDICATE and not requirement.predicate:
        return requirement.predicate_type in (intoto.BUNDLE_PREDICATE, intoto.COSIGN_SIGN_PREDICATE)
    return predicate_type == requirement.predicate_type


def _matches(predicate: object, requirement: Requirement) -> bool:
    members = predicate if isinstance(predicate, dict) else {}
    return all(name in members and members[name] == value for name, value in requirement.predicate.items())


def _missing_message(requirement: Requirement, same: Sequence[Evidence], allowed: Sequence[Evidence]) -> str:
    what = f"the required statement `{requirement.predicate_type}`"
    if allowed:
        return f"{what} does not have the required members: expected {dict(requirement.predicate)}"
    if same:
        got = ", ".join(sorted({item.attested.signer[:16] for item in same}))
        return f"{what} is not by an allowed signer: expected {', '.join(sorted(requirement.signers))}, got {got}"
    return f"{what} is missing, or not by a trusted signer"


def _check_age(kind: str, maximum: timedelta, fitting: Sequence[Evidence], now: datetime | None) -> None:
    times = [item.attested.time for item in fitting if item.attested.time is not None]
    if now is None or not times:
        raise UntrustedTimeError(
            f"`{kind}` has a maximum age, but no trusted timestamp says when it was signed",
            hint="a plain key proves no time; sign with a certificate and --tsa, or keyless",
        )
    if now - max(times) > maximum:
        raise OutdatedError(f"`{kind}` is too old: expected at most {maximum.days} days, got {(now - max(times)).days}")


def apply_revocations(
    subject: Subject, evidence: Sequence[Evidence], trust: Trust, now: datetime | None
) -> tuple[Evidence, ...]:
    """Return the evidence without revoked statements.

    Raises RevokedError if the bundle is revoked, or the remaining evidence does not meet the requirements.
    """
    revoked = trust.revoked
    if subject.digest in revoked.bundles:
        raise RevokedError(f"bundle {subject.digest} was revoked")
    text = revoked.versions.get(subject.name)
    if text is not None and _in_range(subject, text):
        raise RevokedError(f"`{subject.name}` {subject.version} was revoked: {text}")
    left = without_revoked(evidence, trust)
    try:
        check_requirements(left, trust, now)
    except NegativeAnswerError:
        reasons = [reason for item in evidence if (reason := _revocation(item.attested, trust))]
        if not reasons:
            raise
        raise RevokedError(f"{reasons[0]} was revoked", hint="get a newly signed bundle from the publisher") from None
    return left


def without_revoked(evidence: Iterable[Evidence], trust: Trust) -> tuple[Evidence, ...]:
    """Return the evidence of signers that are not revoked."""
    return tuple(item for item in evidence if _revocation(item.attested, trust) is None)


def _revocation(attested: Attested, trust: Trust) -> str | None:
    revoked = trust.revoked
    if attested.key is not None and attested.key in revoked.keys:
        return f"key {attested.key[:16]}"
    if attested.identity in revoked.identities:
        return f"identity `{attested.identity}`"
    if attested.certificate is not None and attested.certificate in revoked.certificates:
        return f"certificate {attested.certificate}"
    return None


def check_rollback(subject: Subject, trust: Trust, seen: Seen) -> str:
    """Raise RolledBackError if the trust file requires a higher version, or one was accepted before."""
    minimum = trust.minimum.get(subject.name, "0.0.0-0")  # the lowest version there is
    if not _in_range(subject, f">={minimum}"):
        raise RolledBackError(
            f"`{subject.name}` {subject.version} is older than the trust file allows: expected at least {minimum}"
        )
    seen.check(subject.name, subject.version, subject.digest)
    return "no newer version was accepted before or is required"


def _in_range(subject: Subject, text: str) -> bool:
    try:
        return semver.in_range(subject.version, text)
    except ValueError:
        raise MalformedError(
            f"`{subject.name}` has no semantic version: got `{subject.version:.80}`", subject=subject.name
        ) from None
