# SPDX-License-Identifier: Apache-2.0
"""Signers, one file each, chosen by the scheme of a URI (`key:release.pem`).

A signer is a module with `open_signer(location, secret) -> Signer`; `secret()` returns a passphrase or None and is
called only when one is needed, because it may prompt. A signer with `check_time(now)`, such as one with a certificate
that expires, is checked before it signs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, runtime_checkable

from packager import plugins
from packager.errors import UsageError
from packager.formats.dsse import SignedStatement

Secret = Callable[[], bytes | None]


class Signer(Protocol):
    """Signs in-toto payloads."""

    def sign(self, payload: bytes) -> SignedStatement:
        """Return the payload with a signature of its pre-authentication encoding."""


@runtime_checkable
class Repeating(Protocol):
    """A signer that recognises what it signed before."""

    def repeats(self, old: SignedStatement, new: SignedStatement) -> bool:
        """Return whether `old` proves what `new`, just made over the same payload, proves.

        It must be sound: anyone may have attached it, to keep a better one away.
        """


class SignerModule(Protocol):
    """The interface of a signer module."""

    def open_signer(self, location: str, secret: Secret) -> Signer:
        """Open the signer that `location`, the part of the URI after the scheme, names."""


def open_signer(uri: str, secret: Secret, now: datetime) -> Signer:
    """Open the signer that a URI names. Raises UsageError, also for a certificate that no verifier would accept now."""
    scheme, colon, location = uri.partition(":")
    if not colon or not (location or scheme == "keyless"):
        raise UsageError(f"signer `{uri}` is not a URI", hint="write for example `key:release.pem`")
    signer: Signer = plugins.load("signers", scheme.replace("+", "-")).open_signer(location, secret)
    if hasattr(signer, "check_time"):
        signer.check_time(now)
    return signer
