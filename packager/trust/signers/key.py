# SPDX-License-Identifier: Apache-2.0
"""Sign with an ECDSA key in a PEM file: `key:PATH`."""

from __future__ import annotations

from pathlib import Path

from packager.trust import keys
from packager.trust.signers import Secret, Signer


def open_signer(location: str, secret: Secret) -> Signer:
    """Load the private key at `location`; `secret` returns its passphrase, if there is one."""
    return keys.load_private(Path(location), secret)
