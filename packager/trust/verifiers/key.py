# SPDX-License-Identifier: Apache-2.0
"""Verify a signature made with a plain ECDSA key."""

from __future__ import annotations

from datetime import datetime

from packager.errors import BadSignatureError, UntrustedSignerError
from packager.formats.dsse import Key, SignedStatement
from packager.trust.model import KeySigner, Trust
from packager.trust.verifiers import Attested


def verify(signed: SignedStatement, trust: Trust, now: datetime | None) -> Attested:
    """Return the signer, if its key is trusted. The hint only selects the key; the signature is checked with it."""
    material = signed.material
    if not isinstance(material, Key):
        raise UntrustedSignerError("this is no signature of a plain key")
    for signer in trust.signers:
        if isinstance(signer, KeySigner) and material.hint in signer.key.hints:
            if not signer.key.verifies(signed):
                raise BadSignatureError("the signature does not match its statement", subject=signer.name)
            fingerprint = signer.key.fingerprint
            return Attested(signed.payload, signer.name, fingerprint, None, key=fingerprint)
    raise UntrustedSignerError(f"no trusted key signed: got {material.hint[:16]:.16}")
