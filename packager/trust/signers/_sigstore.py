# SPDX-License-Identifier: Apache-2.0
"""Find the errors of sigstore's clients; the only module that uses private members of sigstore.

They do not derive from `sigstore.errors.Error`, and no public module has them.
tests/unit/test_private_members.py fails when one is gone.
"""

from __future__ import annotations

import importlib


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the clients of Fulcio and Rekor."""
    fulcio = importlib.import_module("sigstore._internal.fulcio.client")
    rekor = importlib.import_module("sigstore._internal.rekor")
    return fulcio.FulcioClientError, fulcio.ExpiredCertificate, rekor.RekorClientError
