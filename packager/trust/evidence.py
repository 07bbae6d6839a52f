# SPDX-License-Identifier: Apache-2.0
"""Decide from signed statements alone whether a bundle may be trusted. Bytes in, answers out: no file, no network,
no clock. Read it from top to bottom; `verify` asks these questions in this order, and the first no ends it.

    sift           which attached statements can be read; the others are left aside, with the reason
    current        the trust itself has not expired
    authenticate   who signed what; a forgery ends everything, a stranger proves nothing
    relate         what trusted signers say is about this bundle, and what is required is there
    withstand      it still is when everything revoked is left out
    newest         nothing newer was seen or is demanded
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from packager.trust.model import KeySigner, Requirement, Signer, Trust
from packager.trust.seen import Seen
from packager.trust.verifiers import Attested, Verifier
from packager.types import Tree


@dataclass(frozen=True, slots=True)
class About:
    """What the statements have to be about."""

    name: str
    version: str
    digest: str
    tree: Tree


@dataclass(frozen=True, slots=True)
class Evidence:
    """A statement, where it came from (the digest of its blob), and who signed it."""

    digest: str
    statement: Statement
    attested: Attested


def parse(records: Mapping[str, bytes]) -> dict[str, SignedStatement]:
    """Read all attached statements strictly, by the digest of their blob. Raises MalformedError."""
    found = {}
    for digest, data in sorted(records.items()):
        try:
            found[digest] = dsse.parse(data)
            intoto.parse(found[digest].payload, limit=dsse.MAX_BUNDLE)
        except ValueError as error:
            raise MalformedError(f"statement `{digest}` is malformed: {error}", subject=digest) from None
    return found


def sift(records: Mapping[str, bytes]) -> tuple[dict[str, SignedStatement], dict[str, PackagerError]]:
    """Return the attached statements that can be read, and why the others cannot, by the digest of their blob.

    Anybody with the right to push may attach anything, other tools' statements too: those prove nothing and prevent
    nothing. What trust demands is demanded of the ones that can be read.
    """
    signed: dict[str, SignedStatement] = {}
    skipped: dict[str, PackagerError] = {}
    for digest, data in sorted(records.items()):
        try:
            signed |= parse({digest: data})
        except MalformedError as error:
            skipped[digest] = error
    return signed, skipped


def current(trust: Trust, now: datetime | None) -> str:
    """Raise Stale when the trust file has expired."""
    if trust.expires is None:
        return f"{len(trust.signers)} signers, given directly"
    if now is None:
        raise UsageError("a trust file that expires needs the time")
    if now > trust.expires:
        raise OutdatedError(
            f"trust file `{trust.name}` expired: expected a time before {trust.expires:%Y-%m-%dT%H:%M:%SZ}",
            hint="get the current one from whoever maintains it",
        )
    return f"trust file `{trust.name}` serial {trust.serial}, {len(trust.signers)} signers"


def authenticate(
    signed: Mapping[str, SignedStatement],
    trust: Trust,
    now: datetime | None,
    skipped: dict[str, PackagerError] | None = None,
) -> tuple[Evidence, ...]:
    """Return what trusted signers said; `skipped` are statements that cannot be judged, and those found here are added.

    Raises BadSignatureError for the first forgery in a trusted signer's name; if nothing at all counts, Unsigned, or
    the most telling of the reasons why not.
    """
    found, doubts = [], []
    skipped = {} if skipped is None else skipped
    for digest, statement in signed.items():
        try:
            attested = _verifier(statement).verify(statement, trust, now)
            _check_period(attested, trust, now)
        except BadSignatureError as error:
            raise BadSignatureError(
                f"the signature in `{digest}` does not hold: {error.message}", subject=digest
            ) from None
        except NegativeAnswerError as error:
            doubts.append(error)
            continue
        except (MalformedError, MissingToolError) as error:
            skipped[digest] = error
            continue
        found.append(Evidence(digest, intoto.parse(attested.payload, limit=dsse.MAX_BUNDLE), attested))
    if not found:
        raise _nobody(signed, trust, doubts, skipped)
    return tuple(found)


def _verifier(signed: SignedStatement) -> Verifier:
    """Return the verifier for a kind of material; the one that needs a package is imported only when it is asked."""
    material = signed.material
    kind = "key" if isinstance(material, Key) else "certificate" if isinstance(material, Certificates) else "keyless"
    verifier: Verifier = importlib.import_module(f"packager.trust.verifiers.{kind}")
    return verifier


def _check_period(attested: Attested, trust: Trust, now: datetime | None) -> None:
    """Raise Stale unless an entry for whoever signed counts at that time: a name may have several."""
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


def _nobody(
    signed: Mapping[str, SignedStatement],
    trust: Trust,
    doubts: Sequence[NegativeAnswerError],
    skipped: Mapping[str, PackagerError],
) -> PackagerError:
    telling: list[PackagerError] = [doubt for doubt in doubts if not isinstance(doubt, UntrustedSignerError)]
    telling += [error for error in skipped.values() if isinstance(error, MissingToolError)]
    telling += skipped.values() if not doubts else ()
    if telling:
        return telling[0]
    if not signed:
        return UnsignedError(
            "the bundle is not signed", hint="ask the publisher for the signed form; `packager sign` makes it"
        )
    wanted = ", ".join(signer.name[:16] for signer in trust.signers)
    got = ", ".join(sorted({statement.material.claim for statement in signed.values()}))
    others = [doubt.message for doubt in doubts if not doubt.message.startswith("no trusted key")]
    reason = f" ({others[0]})" if others else ""
    return UntrustedSignerError(
        f"no trusted key or identity signed this bundle: expected {wanted}, got {got:.300}{reason}",
        hint="compare the fingerprints with what the publisher announced; `packager inspect` lists the signers",
    )


def relate(about: About, evidence: Iterable[Evidence]) -> None:
    """Raise WrongSubject if anything that a trusted signer said is not about this bundle.

    Of the two kinds that describe a whole bundle every word must be ours; of all others the subject must be.
    """
    expected = {
        statement.predicate_type: statement
        for statement in (
            intoto.bundle_statement(about.name, about.version, about.digest, about.tree),
            intoto.model_signing_statement(about.name, about.version, about.tree),
        )
    }
    for item in evidence:
        said = item.statement
        wanted = expected.get(said.predicate_type)
        same = said == wanted if wanted else said.subject_sha256 == about.digest.removeprefix("sha256:")
        if not same:
            like = wanted or expected[intoto.BUNDLE_PREDICATE]
            raise WrongSubjectError(
                f"a trusted key signed another bundle: expected {like.subject_name} {like.subject_sha256[:16]}, "
                f"got {said.subject_name:.80} {said.subject_sha256[:16]:.16} ({said.predicate_type:.80})",
                subject=item.digest,
            )


def satisfy(evidence: Sequence[Evidence], trust: Trust, now: datetime | None) -> str:
    """Raise MissingStatement, Stale or UntrustedTime unless every requirement is met by some statement."""
    for requirement in trust.required:
        same = [item for item in evidence if item.statement.predicate_type == requirement.predicate_type]
        allowed = [item for item in same if not requirement.signers or item.attested.signer in requirement.signers]
        fitting = [item for item in allowed if _says(item.statement.predicate, requirement)]
        if not fitting:
            raise MissingStatementError(
                _lacking(requirement, same, allowed), hint="`packager inspect` lists what is there"
            )
        if requirement.maximum_age is not None:
            _check_age(requirement.predicate_type, requirement.maximum_age, fitting, now)
    return ", ".join(requirement.predicate_type for requirement in trust.required)


def stated(evidence: Iterable[Evidence], trust: Trust, predicate_type: str) -> tuple[Evidence, ...]:
    """Return the statements of one kind that count: where the trust says who may make them, only theirs."""
    entitled = [item.signers for item in trust.required if item.predicate_type == predicate_type and item.signers]
    return tuple(
        item
        for item in evidence
        if item.statement.predicate_type == predicate_type and all(item.attested.signer in who for who in entitled)
    )


def _says(predicate: object, requirement: Requirement) -> bool:
    told = predicate if isinstance(predicate, dict) else {}
    return all(name in told and told[name] == value for name, value in requirement.predicate.items())


def _lacking(requirement: Requirement, same: Sequence[Evidence], allowed: Sequence[Evidence]) -> str:
    what = f"the required statement `{requirement.predicate_type}`"
    if allowed:
        return f"{what} does not say what it must: expected {dict(requirement.predicate)}"
    if same:
        got = ", ".join(sorted({item.attested.signer[:16] for item in same}))
        return f"{what} is not by who may make it: expected {', '.join(sorted(requirement.signers))}, got {got}"
    return f"{what} is missing, or not by anybody trusted"


def _check_age(kind: str, maximum: timedelta, fitting: Sequence[Evidence], now: datetime | None) -> None:
    times = [item.attested.time for item in fitting if item.attested.time is not None]
    if now is None or not times:
        raise UntrustedTimeError(
            f"nobody trusted says when `{kind}` was signed, and it may only be so old",
            hint="a plain key proves no time; sign with a certificate and --tsa, or keyless",
        )
    if now - max(times) > maximum:
        raise OutdatedError(f"`{kind}` is too old: expected at most {maximum.days} days, got {(now - max(times)).days}")


def withstand(about: About, evidence: Sequence[Evidence], trust: Trust, now: datetime | None) -> tuple[Evidence, ...]:
    """Return the evidence without what is revoked. Raises RevokedError if the bundle is, or what is left does not
    do.
    """
    revoked = trust.revoked
    if about.digest in revoked.bundles:
        raise RevokedError(f"bundle {about.digest} was revoked")
    text = revoked.versions.get(about.name)
    if text is not None and _in_range(about, text):
        raise RevokedError(f"`{about.name}` {about.version} was revoked: {text}")
    left = tuple(item for item in evidence if _revocation(item.attested, trust) is None)
    try:
        satisfy(left, trust, now)
    except NegativeAnswerError:
        reasons = [reason for item in evidence if (reason := _revocation(item.attested, trust))]
        if not reasons:
            raise
        raise RevokedError(f"{reasons[0]} was revoked", hint="ask the publisher for a newly signed bundle") from None
    return left


def _revocation(attested: Attested, trust: Trust) -> str | None:
    revoked = trust.revoked
    if attested.key is not None and attested.key in revoked.keys:
        return f"key {attested.key[:16]}"
    if attested.identity in revoked.identities:
        return f"identity `{attested.identity}`"
    if attested.certificate is not None and attested.certificate in revoked.certificates:
        return f"certificate {attested.certificate}"
    return None


def newest(about: About, trust: Trust, seen: Seen) -> str:
    """Raise RolledBack if the trust file demands a higher version, or one was seen."""
    minimum = trust.minimum.get(about.name, "0.0.0-0")  # the lowest version there is
    if not _in_range(about, f">={minimum}"):
        raise RolledBackError(
            f"`{about.name}` {about.version} is older than the trust file allows: expected at least {minimum}"
        )
    seen.check(about.name, about.version, about.digest)
    return "nothing newer was seen or is demanded"


def _in_range(about: About, text: str) -> bool:
    try:
        return semver.in_range(about.version, text)
    except ValueError:
        raise MalformedError(
            f"`{about.name}` has no semantic version: got `{about.version:.80}`", subject=about.name
        ) from None
