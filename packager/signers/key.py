# SPDX-License-Identifier: Apache-2.0
"""Sign with an ECDSA key in a PEM file: `key:PATH`."""

from __future__ import annotations

from pathlib import Path

from packager.signers import Secret, Signer
from packager.trust import keys


def open_signer(location: str, secret: Secret) -> Signer:
    """Load the private key at `location`; `secret` supplies its passphrase, if there is one."""
    return keys.load_private(Path(location), secret)
