# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: an authority issues any certificate, valid or not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)
CODE_SIGNING, SERVER, STAMPING = (
    ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.TIME_STAMPING,
)
EMAIL = "release@corp.example"


def name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Corp"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


@dataclass(frozen=True)
class Holder:
    """A private key and the certificate that says whose it is."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def save(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write `<stem>.key` and `<stem>.pem`; return both paths."""
        private, public = folder / f"{stem}.key", folder / f"{stem}.pem"
        private.write_bytes(private_pem(self.key))
        public.write_bytes(self.pem)
        return private, public

    def issue(
        self,
        common: str,
        *,
        ca: bool = False,
        names: Sequence[x509.GeneralName] = (),
        purposes: Sequence[x509.ObjectIdentifier] = (),
        critical: bool = False,
        start: dt.datetime = NOW - DAY,
        end: dt.datetime = NOW + 3650 * DAY,
        key: ec.EllipticCurvePrivateKey | None = None,
        signs: bool = True,
        length: int | None = None,
    ) -> Holder:
        """Issue a certificate; the defaults are sound, each argument may make it unsound."""
        private = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(common, self.certificate.subject, private.public_key(), start, end, ca, signs, length)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(identifier, False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical)
        return Holder(private, builder.sign(self.key, hashes.SHA256()))

    def certify(self, public: object) -> bytes:
        """Return a certificate (PEM) for a key that stays where it is."""
        assert isinstance(public, ec.EllipticCurvePublicKey)
        start, end = NOW - DAY, NOW + 365 * DAY
        builder = _builder("Token", self.certificate.subject, public, start, end, False, True, None)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(EMAIL)]), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([CODE_SIGNING]), False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def signer(self, **changes: object) -> Holder:
        """Issue what signs bundles: for `EMAIL`, for code signing; with changes."""
        wishes: dict[str, object] = {"names": [x509.RFC822Name(EMAIL)], "purposes": [CODE_SIGNING], **changes}
        return self.issue("Release", **wishes)  # type: ignore[arg-type]


def root(common: str = "Corp Root") -> Holder:
    """Make a self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(common, name(common), key.public_key(), NOW - 3650 * DAY, NOW + 3650 * DAY, True, True, None)
    return Holder(key, builder.sign(key, hashes.SHA256()))


def _builder(
    common: str,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    start: dt.datetime,
    end: dt.datetime,
    ca: bool,
    signs: bool,
    length: int | None,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(signs and not ca, False, False, False, not signs, ca, ca, False, False)
    return (
        x509.CertificateBuilder(issuer, name(common), public, x509.random_serial_number(), start, end)
        .add_extension(x509.BasicConstraints(ca, length if ca else None), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
