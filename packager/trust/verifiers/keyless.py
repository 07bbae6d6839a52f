# SPDX-License-Identifier: Apache-2.0
"""Verify a signature made through a Sigstore instance, with the `sigstore` package and a pinned trusted root. Offline.

In order: the certificate names exactly a trusted identity and issuer; timestamps are by the instance's authority and of
this signature; the package verifies chain, certificate transparency, inclusion in the log and the signature.
"""

from __future__ import annotations

import functools
import importlib
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from packager import canonical
from packager.errors import (
    BadSignatureError,
    MalformedError,
    MissingToolError,
    UnfitCertificateError,
    UntrustedSignerError,
    UntrustedTimeError,
    UsageError,
)
from packager.formats import dsse
from packager.formats.dsse import Logged, SignedStatement
from packager.trust import timestamps
from packager.trust.model import KeylessSigner, Trust
from packager.trust.verifiers import Attested


def verify(signed: SignedStatement, trust: Trust, now: datetime | None) -> Attested:
    """Return the signer, if a trusted Sigstore instance certifies a trusted identity."""
    material = signed.material
    if not isinstance(material, Logged):
        raise UntrustedSignerError("this is no signature of a Sigstore identity")
    signers = [signer for signer in trust.signers if isinstance(signer, KeylessSigner)]
    if not signers:
        raise UntrustedSignerError("an identity signed, and no identity is trusted here")
    promised = _promised_time(material)
    if promised is None and not material.timestamps:
        raise UntrustedTimeError("the signature carries no time stamp")
    sigstore = import_sigstore()
    try:
        bundle = sigstore.models.Bundle.from_json(material.document)
    except (ValueError, sigstore.errors.Error) as error:
        raise MalformedError(f"the signature is no Sigstore bundle: {_line(error)}", subject="bundle") from None
    signer, policy = _named(sigstore, signers, bundle.signing_certificate)
    root = _root(trust.instances[signer.instance] if signer.instance else None)
    stamped = _stamped_time(root, signed.signature, material) or promised
    _prove(sigstore, root, bundle, policy, signed, signer)
    serial = f"{bundle.signing_certificate.serial_number:x}"
    return Attested(signed.payload, signer.name, signer.identity, stamped, certificate=serial)


def import_sigstore() -> Any:
    """Return the parts of the `sigstore` package that are used. Raises MissingToolError."""
    try:
        for part in ("errors", "models", "verify", "verify.policy"):
            importlib.import_module(f"sigstore.{part}")
        return importlib.import_module("sigstore")
    except ImportError as error:
        raise MissingToolError("sigstore", "keyless") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _promised_time(material: Logged) -> datetime | None:
    """Return the log's time, which is valid only with its signed entry timestamp (Rekor v1); `_prove` checks that."""
    entry = canonical.load(material.document, limit=dsse.MAX_BUNDLE)["verificationMaterial"]["tlogEntries"][0]
    if not isinstance(entry, dict) or not entry.get("inclusionPromise"):
        return None
    text = str(entry.get("integratedTime", ""))
    return datetime.fromtimestamp(int(text), UTC) if text.isdecimal() and 0 < len(text) < 11 and int(text) else None


def _named(sigstore: Any, signers: list[KeylessSigner], certificate: x509.Certificate) -> tuple[KeylessSigner, Any]:
    """Return the signer whose identity and issuer the certificate names, as exact strings."""
    doubt = ""
    for signer in signers:
        policy = sigstore.verify.policy.Identity(identity=signer.identity, issuer=signer.issuer)
        try:
            policy.verify(certificate)
        except (sigstore.errors.VerificationError, x509.ExtensionNotFound, ValueError) as error:
            doubt = _line(error)
        else:
            return signer, policy
    raise UntrustedSignerError(f"the certificate names no trusted identity: {doubt}")


@functools.lru_cache(maxsize=8)
def _root(pinned: bytes | None) -> Any:
    """Return a trusted root: the pinned one, or the public instance's that is part of the package. No network."""
    sigstore = import_sigstore()
    try:
        if pinned is None:
            return sigstore.models.ClientTrustConfig.production(offline=True).trusted_root
        models = importlib.import_module("sigstore_models.trustroot.v1")
        return sigstore.models.TrustedRoot(models.TrustedRoot.from_json(pinned))
    except (ValueError, sigstore.errors.Error) as error:
        raise UsageError(f"the pinned trusted root is not acceptable: {_line(error)}") from None


def _stamped_time(root: Any, signature: bytes, material: Logged) -> datetime | None:
    """Return the earliest time that the instance's authority states; every timestamp must be of this signature."""
    authorities = [c for entry in root.get_timestamp_authorities() for c in entry.certificates(allow_expired=True)]
    times, doubt = [], None
    for raw in material.timestamps:
        try:
            times.append(timestamps.verify(timestamps.parse(raw), signature, authorities))
        except UntrustedTimeError as error:
            doubt = error
        except ValueError as error:
            raise MalformedError(f"a time stamp is malformed: {error}", subject="time stamp") from None
    if doubt is not None and not times:
        raise doubt
    return min(times, default=None)


def _prove(sigstore: Any, root: Any, bundle: Any, policy: Any, signed: SignedStatement, signer: KeylessSigner) -> None:
    try:
        kind, payload = sigstore.verify.Verifier(trusted_root=root).verify_dsse(bundle, policy)
    except sigstore.errors.CertValidationError as error:
        raise UnfitCertificateError(f"the certificate does not hold: {_line(error)}") from None
    except (sigstore.errors.VerificationError, ValueError) as error:
        raise BadSignatureError(f"the signature does not hold: {_line(error)}", subject=signer.name) from None
    if kind != dsse.IN_TOTO or payload != signed.payload:
        raise BadSignatureError("the signature is over another payload", subject=signer.name)
