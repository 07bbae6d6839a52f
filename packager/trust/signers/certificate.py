# SPDX-License-Identifier: Apache-2.0
"""Sign with a certificate of an enterprise authority: `certificate:LEAF.pem?key=KEY&chain=CHAIN.pem&tsa=URL`.

`purpose` is the extended key usage that the trust file requires, by default code signing.

`key` is the private key: a PEM file, or the URI of another signer that holds it (`key+pkcs11:…`), percent-encoded.
`chain` holds the certificates between the leaf and the root. With `tsa` every signature gets an RFC 3161 time stamp;
without one it verifies only as long as the certificate is valid.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl

import urllib3
from cryptography import x509

from packager import plugins
from packager.errors import BadSignatureError, PackagerError, SourceError, UnfitCertificateError, UsageError
from packager.formats.dsse import Certificates, SignedStatement
from packager.trust import certificates, keys, timestamps
from packager.trust.model import CODE_SIGNING
from packager.trust.signers import Secret, Signer

_TIMEOUT = urllib3.Timeout(connect=10, read=30)  # seconds
_EXAMPLE = "write for example `certificate:leaf.pem?key=leaf.key&chain=chain.pem&tsa=https://tsa.example.com`"


@dataclass(frozen=True, slots=True)
class CertificateHolder:
    """A key with the certificates that identify its owner."""

    key: Signer
    chain: tuple[x509.Certificate, ...]
    tsa: str | None
    purpose: str = CODE_SIGNING

    def check_time(self, now: datetime) -> None:
        """Raise UsageError unless the certificate is valid now and for this purpose, as verifiers require."""
        try:
            certificates.check_fitness(self.chain[0], self.purpose, now)
        except UnfitCertificateError as error:
            raise UsageError(
                f"{error.message}, so no verifier would accept what it signs",
                hint="get one from its authority that is valid now, with the extended key usage code signing "
                f"({CODE_SIGNING})",
            ) from None

    def sign(self, payload: bytes) -> SignedStatement:
        """Sign an in-toto payload and get a timestamp of the signature."""
        signed = self.key.sign(payload)
        public = keys.public_key(self.chain[0].public_key())
        if not public.verifies(signed):
            raise UsageError("the certificate is not of this key", hint=_EXAMPLE)
        stamps = (_stamp(self.tsa, signed.signature),) if self.tsa else ()
        chain = tuple(certificates.encode_der(certificate) for certificate in self.chain)
        return SignedStatement(payload, signed.signature, Certificates(chain, stamps))

    def repeats(self, old: SignedStatement, new: SignedStatement) -> bool:
        """Return whether `old` is a signature with this certificate, stamped by the same authority as `new`."""
        made, again = old.material, new.material
        if not isinstance(made, Certificates) or not isinstance(again, Certificates) or made.chain[0] != again.chain[0]:
            return False
        if not keys.public_key(self.chain[0].public_key()).verifies(old):
            return False
        return all(_is_stamped(old.signature, made.timestamps, raw, new.signature) for raw in again.timestamps)


def _is_stamped(old: bytes, stamps: tuple[bytes, ...], raw: bytes, signature: bytes) -> bool:
    """Return whether one of `stamps`, of the signature `old`, is by the authority that made `raw` for `signature`."""
    authority = timestamps.verify_own(timestamps.parse(raw), signature)
    for stamp in stamps:
        try:
            timestamps.verify(timestamps.parse(stamp), old, [authority])
        except (ValueError, PackagerError):
            continue
        return True
    return False


def open_signer(location: str, secret: Secret) -> Signer:
    """Load certificates and key."""
    path, _, query = location.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not path or "key" not in options or set(options) - {"key", "chain", "tsa", "purpose"}:
        raise UsageError("a certificate signs with its key", hint=_EXAMPLE)
    leaf, *more = certificates.load(Path(path))
    chain = certificates.load(Path(options["chain"])) if "chain" in options else []
    try:
        keys.public_key(leaf.public_key())
    except ValueError as error:
        raise UsageError(f"certificate `{path}` {error}", hint="expected ECDSA P-256 or P-384") from None
    rest = [certificate for certificate in (*more, *chain) if certificate.issuer != certificate.subject]
    purpose = options.get("purpose", CODE_SIGNING)
    if not certificates.is_purpose(purpose):
        raise UsageError(f"purpose `{purpose:.80}` is no object identifier", hint=_EXAMPLE)
    return CertificateHolder(_key(options["key"], secret), (leaf, *rest), options.get("tsa"), purpose)


def _key(uri: str, secret: Secret) -> Signer:
    scheme, colon, location = uri.partition(":")
    if not colon:
        scheme, location = "key", uri
    signer: Signer = plugins.load("signers", scheme.replace("+", "-")).open_signer(location, secret)
    return signer


def _stamp(url: str, signature: bytes) -> bytes:
    """Request a timestamp of `signature` from the authority at `url`, and check that it is of that signature."""
    nonce = secrets.randbits(63)
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        with urllib3.PoolManager(timeout=_TIMEOUT, retries=urllib3.Retry(2, redirect=0)) as pool:
            answer = pool.request(
                "POST", url, body=timestamps.encode_request(signature, nonce), headers=headers, preload_content=False
            )
            data = answer.read(timestamps.MAX_RESPONSE + 1)
    except urllib3.exceptions.HTTPError as error:
        raise SourceError(f"the time stamping authority `{url}` does not answer: {error}") from error
    if answer.status not in (200, 201):  # Sigstore's authority answers 201
        raise SourceError(f"the time stamping authority `{url}` refused: HTTP {answer.status}")
    try:
        stamp = timestamps.parse(data)
        if stamp.nonce != nonce:
            raise BadSignatureError("the nonce differs", subject=url)
        timestamps.verify_own(stamp, signature)
    except (ValueError, BadSignatureError) as error:
        raise SourceError(f"the time stamping authority `{url}` sent no usable time stamp: {error}") from error
    return data
