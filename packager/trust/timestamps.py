# SPDX-License-Identifier: Apache-2.0
"""Request RFC 3161 timestamps, and verify them against trusted authorities.

Verification is the protocol's, and no part is optional: status granted; one signer; the signed attributes name the type
of content, its digest and the signer's certificate; the certificate is for timestamping only, and leads to a trusted
authority at the stated time; the timestamp is of exactly this message.
Sources: RFC 3161; RFC 5652 (CMS) §5; RFC 5816 (ESSCertIDv2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from packager.errors import BadSignatureError, UntrustedSignerError, UntrustedTimeError
from packager.formats import der
from packager.formats.der import Value
from packager.trust import certificates

MAX_RESPONSE = 64 << 10  # bytes
_SIGNED_DATA, _TST_INFO = der.write_oid("1.2.840.113549.1.7.2"), der.write_oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE, _MESSAGE_DIGEST = der.write_oid("1.2.840.113549.1.9.3"), der.write_oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE = der.write_oid("1.2.840.113549.1.9.16.2.12")  # names it by SHA-1
_SIGNING_CERTIFICATE_V2 = der.write_oid("1.2.840.113549.1.9.16.2.47")
_SHA256 = der.write_oid("2.16.840.1.101.3.4.2.1")
_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    _SHA256: hashes.SHA256(),
    der.write_oid("2.16.840.1.101.3.4.2.2"): hashes.SHA384(),
    der.write_oid("2.16.840.1.101.3.4.2.3"): hashes.SHA512(),
}
_MIN_RSA = 2048  # bits


def encode_request(message: bytes, nonce: int) -> bytes:
    """Return the query for a timestamp of `message`, with the authority's certificate."""
    imprint = der.encode(
        der.SEQUENCE,
        der.encode(der.SEQUENCE, _SHA256, der.encode(der.NULL)),
        der.encode(der.OCTETS, hashlib.sha256(message).digest()),
    )
    return der.encode(
        der.SEQUENCE, der.write_integer(1), imprint, der.write_integer(nonce), der.encode(der.BOOLEAN, b"\xff")
    )


@dataclass(frozen=True, slots=True)
class Stamp:
    """A parsed response, not yet verified."""

    content: bytes  # the TSTInfo that is signed
    digest: hashes.HashAlgorithm
    attributes: dict[bytes, Value]
    signed: bytes  # the attributes as they are signed
    signature: bytes
    issuer: bytes
    serial: int
    embedded: tuple[x509.Certificate, ...]
    imprint_digest: hashes.HashAlgorithm
    imprint: bytes
    time: datetime
    nonce: int | None


def parse(response: bytes) -> Stamp:
    """Parse a TimeStampResp. Raises ValueError for anything but a granted, well-formed response."""
    if len(response) > MAX_RESPONSE:
        raise ValueError(f"expected at most {MAX_RESPONSE} bytes, got {len(response)}")
    try:
        return _parse(response)
    except (IndexError, KeyError, OverflowError, UnicodeDecodeError):
        raise ValueError("not a time stamp as RFC 3161 describes it") from None


def _parse(response: bytes) -> Stamp:
    status, token = der.parse(response).of(der.SEQUENCE).parts()
    granted = status.of(der.SEQUENCE).parts()[0].of(der.INTEGER).content
    kind, wrapped = token.of(der.SEQUENCE).parts()
    if granted != b"\0" or kind.raw != _SIGNED_DATA:
        raise ValueError("the authority did not grant a time stamp")
    signed = der.parse(wrapped.of(0xA0).content).of(der.SEQUENCE).parts()
    inner_kind, inner = signed[2].of(der.SEQUENCE).parts()
    if inner_kind.raw != _TST_INFO:
        raise ValueError("the signed content is no time stamp")
    content = der.parse(inner.of(0xA0).content).of(der.OCTETS).content
    embedded = tuple(
        certificates.parse_der(item.raw) for value in signed[3:-1] if value.tag == 0xA0 for item in value.parts()
    )
    (signer,) = signed[-1].of(der.SET).parts()
    return _with_signer(signer.of(der.SEQUENCE).parts(), content, embedded)


def _with_signer(signer: list[Value], content: bytes, embedded: tuple[x509.Certificate, ...]) -> Stamp:
    _, name, digest, attributes, _, signature, *_ = signer
    issuer, serial = name.of(der.SEQUENCE).parts()
    rows = [row.of(der.SEQUENCE).parts() for row in attributes.of(0xA0).parts()]
    known = {kind.raw: values.of(der.SET).parts()[0] for kind, values in rows if len(values.parts()) == 1}
    if len(known) != len(rows):
        raise ValueError("a signed attribute is there twice")
    info = der.parse(content).of(der.SEQUENCE).parts()
    algorithm, imprint = info[2].of(der.SEQUENCE).parts()
    nonce = next((int.from_bytes(value.content) for value in info[5:] if value.tag == der.INTEGER), None)
    return Stamp(
        content=content,
        digest=_HASHES[digest.of(der.SEQUENCE).parts()[0].raw],
        attributes=known,
        signed=der.encode(der.SET, attributes.content),
        signature=signature.of(der.OCTETS).content,
        issuer=issuer.raw,
        serial=int.from_bytes(serial.of(der.INTEGER).content, signed=True),
        embedded=embedded,
        imprint_digest=_HASHES[algorithm.of(der.SEQUENCE).parts()[0].raw],
        imprint=imprint.of(der.OCTETS).content,
        time=_time(info[4].of(der.TIME).content.decode("ascii")),
        nonce=nonce,
    )


def _time(text: str) -> datetime:
    """Read a GeneralizedTime in UTC, with or without a fraction of a second."""
    if not text.endswith("Z"):
        raise ValueError("a time stamp's time is not in UTC")
    whole, point, fraction = text[:-1].partition(".")
    moment = datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return moment.replace(microsecond=int(f"{fraction[:6]:0<6}")) if point else moment


def verify(stamp: Stamp, message: bytes, authorities: Sequence[x509.Certificate]) -> datetime:
    """Return the time that a trusted authority states for `message`.

    `authorities` are roots, or the authority's own certificate. Raises BadSignatureError when the timestamp does not
    belong to the message or is forged, UntrustedTimeError when no trusted authority made it.
    """
    leaf = verify_own(stamp, message, authorities)
    if not _for_time_stamping(leaf):
        raise UntrustedTimeError("a time stamp was made with a certificate that is not one for time stamping only")
    if leaf in authorities and leaf.not_valid_before_utc <= stamp.time <= leaf.not_valid_after_utc:
        return stamp.time  # pinned itself
    try:
        certificates.check_path(leaf, stamp.embedded, authorities, certificates.TIME_STAMPING, stamp.time)
    except UntrustedSignerError as error:
        raise UntrustedTimeError(f"a time stamp was not made by a trusted authority: {error.message}") from None
    return stamp.time


def verify_own(stamp: Stamp, message: bytes, known: Sequence[x509.Certificate] = ()) -> x509.Certificate:
    """Check a timestamp of `message` without trust in its authority; return the certificate that it names."""
    if _hash(stamp.imprint_digest, message) != stamp.imprint:
        raise BadSignatureError("a time stamp is about another signature", subject="time stamp")
    leaf = _leaf(stamp, known)
    _check_signature(stamp, leaf)
    return leaf


def _leaf(stamp: Stamp, authorities: Sequence[x509.Certificate]) -> x509.Certificate:
    for certificate in (*stamp.embedded, *authorities):
        if (certificate.issuer.public_bytes(), certificate.serial_number) == (stamp.issuer, stamp.serial):
            return certificate
    raise UntrustedTimeError(
        "a time stamp does not carry the certificate of the authority that made it",
        hint="add that certificate to `timestamping` in the trust file",
    )


def _check_signature(stamp: Stamp, leaf: x509.Certificate) -> None:
    """Check that the attributes cover the content and name the certificate, and that its key signed them."""
    covered = (
        stamp.attributes.get(_CONTENT_TYPE) == der.parse(_TST_INFO)
        and _MESSAGE_DIGEST in stamp.attributes
        and stamp.attributes[_MESSAGE_DIGEST].content == _hash(stamp.digest, stamp.content)
        and _names(stamp, certificates.encode_der(leaf))
    )
    if not covered or not _signed_by(leaf.public_key(), stamp):
        raise BadSignatureError("the signature of a time stamp does not match it", subject="time stamp")


def _names(stamp: Stamp, leaf: bytes) -> bool:
    """Return whether the signed attributes name this certificate as the signer's."""
    try:
        if value := stamp.attributes.get(_SIGNING_CERTIFICATE_V2):
            first = value.of(der.SEQUENCE).parts()[0].of(der.SEQUENCE).parts()[0].of(der.SEQUENCE).parts()
            named = first[0].tag == der.SEQUENCE
            algorithm = _HASHES[first[0].parts()[0].raw] if named else hashes.SHA256()
            return first[1 if named else 0].of(der.OCTETS).content == _hash(algorithm, leaf)
        value = stamp.attributes[_SIGNING_CERTIFICATE]
        first = value.of(der.SEQUENCE).parts()[0].of(der.SEQUENCE).parts()[0].of(der.SEQUENCE).parts()
        return first[0].of(der.OCTETS).content == hashlib.sha1(leaf, usedforsecurity=False).digest()
    except (IndexError, KeyError, ValueError):
        return False


def _signed_by(key: object, stamp: Stamp) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(stamp.signature, stamp.signed, ec.ECDSA(stamp.digest))
            return True
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA:
            key.verify(stamp.signature, stamp.signed, padding.PKCS1v15(), stamp.digest)
            return True
    except InvalidSignature:
        return False
    return False


def _for_time_stamping(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return usage.critical and [oid.dotted_string for oid in usage.value] == [certificates.TIME_STAMPING]


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    return hashlib.new(algorithm.name, data).digest()
