# SPDX-License-Identifier: Apache-2.0
"""Attach a signed statement to a bundle in memory, with what a verifier needs besides it."""

from __future__ import annotations

from packager.bundle.bundle import Bundle
from packager.errors import UsageError
from packager.formats.dsse import Certificates, SignedStatement
from packager.formats.intoto import MODEL_SIGNING_PREDICATE

MAX_STATEMENT = 1 << 20  # bytes of what is attached; admission controllers read no larger ones


def with_signed(bundle: Bundle, signed: SignedStatement, predicate_type: str, content: bytes | None = None) -> Bundle:
    """Return `bundle` with a signed statement attached, and the certificates between its signer's and the root.

    `content` is that of an equivalent statement, which is attached instead. Raises UsageError for a statement that is
    larger than other tools read.
    """
    content = content or signed.to_bytes(chain=predicate_type == MODEL_SIGNING_PREDICATE)
    if len(content) > MAX_STATEMENT:
        raise UsageError(
            f"the statement `{predicate_type:.80}` is too large: expected at most {MAX_STATEMENT} bytes, "
            f"got {len(content)}",
            hint="name what is large by its digest, and keep it elsewhere",
        )
    bundle = bundle.with_statement(content, predicate_type)
    if isinstance(signed.material, Certificates) and signed.material.chain[1:]:
        from packager.trust import certificates

        pem = "".join(certificates.pem(certificates.parse_der(raw)) for raw in signed.material.chain[1:])
        bundle = bundle.with_certificates(pem.encode())
    return bundle
