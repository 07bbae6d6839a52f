# SPDX-License-Identifier: Apache-2.0
"""Verify a signature made with a certificate of an enterprise authority.

In order: the certificate names exactly a trusted identity; its key made the signature; the time (of trusted timestamps
where the verifier names authorities for them, else now); the certificate was valid then, for digital signatures and the
pinned purpose, and is no authority itself; a path to the pinned authority, valid then.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from packager.errors import (
    BadSignatureError,
    MalformedError,
    UnfitCertificateError,
    UntrustedSignerError,
    UntrustedTimeError,
    UsageError,
)
from packager.formats.dsse import Certificates, SignedStatement, encode_payload
from packager.trust import certificates, keys, timestamps
from packager.trust.keys import PublicKey
from packager.trust.model import CertificateSigner, Trust
from packager.trust.verifiers import Attested


def verify(signed: SignedStatement, trust: Trust, now: datetime | None) -> Attested:
    """Return the signer, if a trusted authority issued the certificate to a trusted identity."""
    material = signed.material
    if not isinstance(material, Certificates):
        raise UntrustedSignerError("this is no signature with a certificate chain")
    leaf, *others = _chain(material)
    present = certificates.list_names(leaf)
    candidates = [s for s in trust.signers if isinstance(s, CertificateSigner) and s.identity in present]
    if not candidates:
        raise UntrustedSignerError(f"the certificate names no trusted identity: got {_listing(present)}")
    key = _key(leaf)
    if not key.signed(signed.signature, encode_payload(signed.payload)):
        raise BadSignatureError("the signature does not match its statement", subject=candidates[0].name)
    stamped = _stamped_time(signed.signature, material, trust)
    at = stamped or now
    if at is None:
        raise UsageError("checking a certificate without time stamps needs the time")
    signer = _first_issued(candidates, leaf, others, at)
    return Attested(
        signed.payload, signer.name, signer.identity, stamped, key.fingerprint, certificates.format_serial(leaf)
    )


def _chain(material: Certificates) -> list[x509.Certificate]:
    try:
        return [certificates.parse_der(raw) for raw in material.chain]
    except ValueError as error:
        raise MalformedError(f"a certificate of the signature is malformed: {error}", subject="certificate") from None


def _listing(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))[:200] or "no name at all"


def _key(leaf: x509.Certificate) -> PublicKey:
    try:
        return keys.public_key(leaf.public_key())
    except ValueError:
        raise UnfitCertificateError("the certificate holds another kind of key than ECDSA P-256 or P-384") from None


def _stamped_time(signature: bytes, material: Certificates, trust: Trust) -> datetime | None:
    """Return the earliest trusted time of the signature, or None where the verifier trusts no timestamps.

    With trusted authorities, a signature without a timestamp of theirs proves no time, and each timestamp must be of
    it.
    """
    if not trust.timestamping:
        return None
    if not material.timestamps:
        raise UntrustedTimeError(
            "the signature carries no time stamp", hint="sign with --tsa, or trust no time stamping authority"
        )
    try:
        stamps = [timestamps.parse(raw) for raw in material.timestamps]
    except ValueError as error:
        raise MalformedError(f"a time stamp is malformed: {error}", subject="time stamp") from None
    times: list[datetime] = []
    doubt = UntrustedTimeError("no time stamp is of a trusted authority")
    for stamp in stamps:
        try:
            times.append(timestamps.verify(stamp, signature, trust.timestamping))
        except UntrustedTimeError as error:  # by another authority, which other verifiers may trust
            doubt = error
    if not times:
        raise doubt
    return min(times)


def _first_issued(
    candidates: list[CertificateSigner], leaf: x509.Certificate, others: list[x509.Certificate], at: datetime
) -> CertificateSigner:
    """Return the first candidate whose authority issued `leaf` for its purpose, or raise the last one's error."""
    doubt: UntrustedSignerError | UnfitCertificateError = UntrustedSignerError(
        "no trusted authority issued the certificate"
    )
    for signer in candidates:
        try:
            certificates.check_fitness(leaf, signer.purpose, at)
            certificates.check_path(leaf, [*others, *signer.intermediates], signer.authorities, signer.purpose, at)
        except (UntrustedSignerError, UnfitCertificateError) as error:
            doubt = error
        else:
            return signer
    raise doubt
