# SPDX-License-Identifier: Apache-2.0
"""Verifiers, one file per kind of signature: bytes in, `Attested` or an error out.

A verifier raises BadSignatureError when a signature in a trusted signer's name is forged: that ends verification. It
raises a NegativeAnswerError (UntrustedSignerError, UnfitCertificateError, UntrustedTimeError) when the signature proves
nothing to this verifier. The material in the signature determines the verifier, nothing else in a bundle does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from packager.formats.dsse import SignedStatement
from packager.records import dataclass
from packager.trust.model import Trust


@dataclass(frozen=True, slots=True)
class Attested:
    """A payload with its trusted signer."""

    payload: bytes
    signer: str  # the name in the trust file
    identity: str  # fingerprint of the key, or the name in the certificate
    time: datetime | None  # of signing, if a trusted authority states it
    key: str | None = None  # fingerprint, compared with revocations
    certificate: str | None = None  # serial number, likewise


class Verifier(Protocol):
    """The interface of a verifier module."""

    def verify(self, signed: SignedStatement, trust: Trust, now: datetime | None) -> Attested:
        """Return the signer, if `trust` names it. `now` is needed where no timestamp is required."""
