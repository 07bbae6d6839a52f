# SPDX-License-Identifier: Apache-2.0
"""Attach a signed statement to a bundle or image in memory, with what a verifier needs besides it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from packager.errors import UsageError
from packager.formats.dsse import Certificates, SignedStatement
from packager.formats.intoto import MODEL_SIGNING_PREDICATE

if TYPE_CHECKING:
    from cryptography import x509

MAX_STATEMENT = 1 << 20  # bytes of what is attached; admission controllers read no larger ones


class Holder(Protocol):
    """What statements are attached to in memory; each method returns another one."""

    def with_statement(self: Held, content: bytes, predicate_type: str) -> Held:
        """Return it with one more signed statement."""

    def with_certificates(self: Held, pem: bytes) -> Held:
        """Return it with certificates that lead from a signer's to its root."""


Held = TypeVar("Held", bound=Holder)


def with_signed(bundle: Held, signed: SignedStatement, predicate_type: str, content: bytes | None = None) -> Held:
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

        pem = "".join(certificates.encode_pem(certificates.parse_der(raw)) for raw in signed.material.chain[1:])
        bundle = bundle.with_certificates(pem.encode())
    return bundle


def with_chains(statement: SignedStatement, chains: Iterable[bytes]) -> SignedStatement:
    """Return a statement with those of the attached certificates (PEM) that lead from its signer's on."""
    if not isinstance(statement.material, Certificates):
        return statement
    from packager.trust import certificates

    pool: list[x509.Certificate] = []
    for pem in chains:
        with contextlib.suppress(ValueError):  # anyone can attach anything
            pool += certificates.parse_pem(pem)
    return certificates.with_path(statement, pool[: certificates.MAX_ATTACHED])
