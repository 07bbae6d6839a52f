# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle: state what it is, and state its files in the form that strangers' tools verify."""

from __future__ import annotations

from packager.bundle import Bundle
from packager.formats.intoto import bundle_statement, model_signing_statement
from packager.signers import Signer


def sign(bundle: Bundle, signer: Signer) -> Bundle:
    """Return `bundle` with two signed statements attached.

    One binds name, version, files and manifest digest and is what `verify` asks for; the other is an OpenSSF Model
    Signing statement over the same files, so that `model_signing verify` accepts the unpacked bundle.
    """
    for statement in (
        bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree),
        model_signing_statement(bundle.name, bundle.version, bundle.tree),
    ):
        bundle = bundle.with_statement(signer.sign(statement.to_bytes()).to_bytes(), statement.predicate_type)
    return bundle
