# SPDX-License-Identifier: Apache-2.0
"""How each kind of signature is checked: bytes in, `Attested` out, an error of its own type otherwise.

A verifier raises BadSignature when something that claims to be by a trusted signer is forged: that ends everything.
It raises a NegativeAnswer (UntrustedSigner, UnfitCertificate, UntrustedTime) when the signature simply proves nothing
here. Which verifier is asked follows from the material in the signature, not from anything a bundle says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packager.formats.dsse import SignedStatement
from packager.trust.model import Trust


@dataclass(frozen=True, slots=True)
class Attested:
    """Somebody trusted signed `payload`."""

    payload: bytes
    signer: str  # the name in the trust file
    identity: str  # fingerprint of the key, or the name in the certificate
    time: datetime | None  # when, if a trusted authority says so
    key: str | None = None  # fingerprint, to be looked up among the revoked
    certificate: str | None = None  # serial number, likewise


class Verifier(Protocol):
    """What a file in this folder offers."""

    def verify(self, signed: SignedStatement, trust: Trust, now: datetime | None) -> Attested:
        """Return who signed, if it is somebody `trust` names. `now` is needed where no time stamp is demanded."""
