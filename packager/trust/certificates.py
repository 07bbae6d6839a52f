# SPDX-License-Identifier: Apache-2.0
"""Read X.509 certificates for signing, and prove that one leads to a trusted authority.

`cryptography` builds and checks paths (RFC 5280). Differences from the web's rules are here: the purpose is an extended
key usage that the caller names, and key identifiers, which private authorities often omit, are not required. No clock,
no files: bytes and the time are passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from packager.errors import UnfitCertificateError, UntrustedSignerError, UsageError
from packager.formats.dsse import Certificates, SignedStatement

TIME_STAMPING = ExtendedKeyUsageOID.TIME_STAMPING.dotted_string
Extension = TypeVar("Extension", bound=x509.ExtensionType)
MAX_PEM = 1 << 20  # bytes of a file of certificates
MAX_ATTACHED = 4096  # certificates that others may have attached
_MAX_CANDIDATES = 64
_MAX_DEPTH = 4  # intermediates between a leaf and its root


def load(path: Path) -> list[x509.Certificate]:
    """Read a PEM file with one or more certificates. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return parse_pem(file.read(MAX_PEM + 1))
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}", hint=_EXPECTED) from None
    except ValueError as error:
        raise UsageError(f"`{path}` {error}", hint=_EXPECTED) from None


_EXPECTED = "expected a PEM file with one or more certificates"


def parse_pem(data: bytes) -> list[x509.Certificate]:
    """Read certificates from PEM text. Raises ValueError, whose message continues a sentence about the file."""
    try:
        found = x509.load_pem_x509_certificates(data) if len(data) <= MAX_PEM else []
    except ValueError:
        raise ValueError("holds no certificate") from None
    if not found:
        raise ValueError("holds no certificate, or too many")
    return found


def parse_der(data: bytes) -> x509.Certificate:
    """Read one certificate, including every part that is used later. Raises ValueError."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
        (certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc)  # noqa: B018
        list_names(certificate)
    except (x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm, TypeError) as error:
        raise ValueError(str(error)) from None
    return certificate


def is_purpose(text: str) -> bool:
    """Return whether `text` is an object identifier, as extended key usages are."""
    try:
        x509.ObjectIdentifier(text)
    except ValueError:
        return False
    return True


def encode_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def encode_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def format_serial(certificate: x509.Certificate) -> str:
    """Return the serial number as lower-case hexadecimal without leading zeros, as trust files write it."""
    return f"{certificate.serial_number:x}"


def list_names(certificate: x509.Certificate) -> frozenset[str]:
    """Return the e-mail addresses, URIs and DNS names a certificate is issued to; they compare as exact strings.

    Raises ValueError if an extension cannot be read or appears twice.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return frozenset(name for kind in kinds for name in extension.value.get_values_for_type(kind))


def check_fitness(leaf: x509.Certificate, purpose: str, at: datetime) -> None:
    """Raise UnfitCertificateError unless `leaf` was valid at that time and is for signing with `purpose` (an OID)."""
    subject = leaf.subject.rfc4514_string() or "without a subject"
    if at < leaf.not_valid_before_utc:
        raise UnfitCertificateError(
            f"the certificate `{subject}` was not yet valid: expected {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"or later, got {at:%Y-%m-%dT%H:%M:%SZ}"
        )
    if at > leaf.not_valid_after_utc:
        raise UnfitCertificateError(
            f"the certificate `{subject}` had expired: expected {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ} or "
            f"earlier, got {at:%Y-%m-%dT%H:%M:%SZ}",
            hint="a time stamp of a trusted authority, made when it was signed, keeps a signature valid for ever",
        )
    if problem := _unfit(leaf, purpose):
        raise UnfitCertificateError(f"the certificate `{subject}` {problem}")


def _unfit(leaf: x509.Certificate, purpose: str) -> str | None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return "is one of an authority, and authorities do not sign bundles"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        return "is not one for digital signatures"
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is None or x509.ObjectIdentifier(purpose) not in extended:
        got = "none" if extended is None else ", ".join(oid.dotted_string for oid in extended)
        return f"is for another purpose: expected {purpose}, got {got}"
    return None


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def check_path(
    leaf: x509.Certificate,
    others: Iterable[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    purpose: str,
    at: datetime,
) -> None:
    """Raise UntrustedSignerError unless a path of valid certificates leads from `leaf` to one of `authorities`."""
    verifier = (
        PolicyBuilder()
        .store(Store(list(authorities)))
        .time(at.astimezone(UTC).replace(tzinfo=None))  # the library takes naive UTC
        .max_chain_depth(_MAX_DEPTH)
        .extension_policies(ca_policy=_authority_policy(purpose), ee_policy=_leaf_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, list(others))
    except (VerificationError, ValueError, x509.UnsupportedGeneralNameType) as error:
        reason = str(error).partition(" (encountered")[0]
        raise UntrustedSignerError(
            f"the certificate `{leaf.subject.rfc4514_string()}` does not lead to a trusted authority: {reason}"
        ) from None


def with_path(signed: SignedStatement, pool: Sequence[x509.Certificate]) -> SignedStatement:
    """Return a statement with those certificates of `pool` that signed its own, one after the other.

    That they did keeps the number small, whatever others attach; whether they may sign is decided by `check_path`.
    """
    material = signed.material
    if not isinstance(material, Certificates) or len(material.chain) != 1:
        return signed
    try:
        found = _issuers(parse_der(material.chain[0]), pool)
    except ValueError:
        return signed  # the verifier reports it
    return replace(signed, material=replace(material, chain=(material.chain[0], *map(encode_der, found))))


def _issuers(leaf: x509.Certificate, pool: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    level = [leaf]
    for _ in range(_MAX_DEPTH):
        level = [
            issuer
            for issuer in pool
            if issuer not in found and any(_issued(issuer, certificate) for certificate in level)
        ]
        found += level
    return found[:_MAX_CANDIDATES]


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer or issuer == certificate:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _leaf_policy() -> ExtensionPolicy:
    """Return the policy of the leaf; `check_fitness` and the caller check its names and purpose with own messages."""
    policy = ExtensionPolicy.webpki_defaults_ee()
    for kind in (
        x509.ExtendedKeyUsage,
        x509.AuthorityKeyIdentifier,
        x509.SubjectAlternativeName,
        x509.BasicConstraints,
        x509.KeyUsage,
    ):
        policy = policy.may_be_present(kind, Criticality.AGNOSTIC, None)
    return policy


def _authority_policy(purpose: str) -> ExtensionPolicy:
    def nested(policy: Policy, authority: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
        allowed = {x509.ObjectIdentifier(purpose), ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if usage is not None and not allowed & set(usage):
            raise ValueError("the authority may not issue certificates for this purpose")

    return (
        ExtensionPolicy.webpki_defaults_ca()
        .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
        .may_be_present(x509.SubjectKeyIdentifier, Criticality.AGNOSTIC, None)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, nested)
    )
