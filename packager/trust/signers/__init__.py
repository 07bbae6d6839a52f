# SPDX-License-Identifier: Apache-2.0
"""Who can sign, one file each, chosen by the scheme of a URI (`key:release.pem`).

A signer is a module with `open_signer(location, secret) -> Signer`; `secret()` returns a passphrase or None and is
only called when one is needed: whoever gives it may have to ask a person. A signer with `check_time(now)` is asked
before it signs whether it may: a certificate has an end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from packager.formats.dsse import SignedStatement

Secret = Callable[[], bytes | None]


class Signer(Protocol):
    """Something that signs in-toto payloads."""

    def sign(self, payload: bytes) -> SignedStatement:
        """Return the payload with a signature over its pre-authentication encoding."""


class SignerModule(Protocol):
    """What a file in this folder offers."""

    def open_signer(self, location: str, secret: Secret) -> Signer:
        """Open the signer that `location`, the part of the URI after the scheme, names."""
