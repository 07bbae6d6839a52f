# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle: state what it is, state its files in the form that strangers' tools verify, or state anything else."""

from __future__ import annotations

import re
from pathlib import Path

from packager import canonical
from packager.bundle import Bundle
from packager.canonical import JSON
from packager.errors import UsageError
from packager.formats import dsse
from packager.formats.intoto import (
    BUNDLE_PREDICATE,
    MODEL_SIGNING_PREDICATE,
    Statement,
    bundle_statement,
    model_signing_statement,
)
from packager.media import StoredBundle
from packager.signers import Signer

_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,1000}")
MAX_PREDICATE = dsse.MAX_BUNDLE // 2  # bytes; base64 and a certificate chain come on top


def sign(bundle: Bundle, signer: Signer) -> Bundle:
    """Return `bundle` with signed statements attached: two, and what its build left to be signed.

    One binds name, version, files and manifest digest and is what `verify` asks for; the other is an OpenSSF Model
    Signing statement over the same files, so that `model_signing verify` accepts the unpacked bundle. In the store
    where it was built, a bundle also has provenance, its SBOM and reference outputs (`drafts`).
    """
    for statement in (
        bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree),
        model_signing_statement(bundle.name, bundle.version, bundle.tree),
    ):
        bundle = _attach(bundle, statement, signer)
    for kind, predicate in drafts(bundle).items():
        bundle = attest(bundle, kind, predicate, signer)
    return bundle


def drafts(bundle: Bundle) -> dict[str, JSON]:
    """Return the predicates that the build of `bundle` left to be signed, by type; none if it was built elsewhere."""
    medium = bundle.medium
    if not isinstance(medium, StoredBundle):
        return {}
    left = sorted(medium.entry.drafts.items())
    return {kind: canonical.load(medium.store.get(digest), limit=MAX_PREDICATE) for kind, digest in left}


def attest(bundle: Bundle, predicate_type: str, predicate: JSON, signer: Signer) -> Bundle:
    """Return `bundle` with one more signed statement about its manifest. Raises UsageError for a type of our own."""
    if not _URI.fullmatch(predicate_type):
        raise UsageError(f"`{predicate_type:.80}` is no predicate type", hint="expected a URI, as in-toto defines them")
    if predicate_type in (BUNDLE_PREDICATE, MODEL_SIGNING_PREDICATE):
        raise UsageError(f"`{predicate_type}` is what `packager sign` states", hint="use `packager sign`")
    subject = bundle.digest.removeprefix("sha256:")
    return _attach(bundle, Statement(predicate_type, f"{bundle.name}:{bundle.version}", subject, predicate), signer)


def _attach(bundle: Bundle, statement: Statement, signer: Signer) -> Bundle:
    return bundle.with_statement(signer.sign(statement.to_bytes()).to_bytes(), statement.predicate_type)


def read_predicate(path: Path) -> JSON:
    """Read the JSON object of a predicate strictly. Raises UsageError."""
    try:
        with path.open("rb") as file:
            value = canonical.load(file.read(MAX_PREDICATE + 1), limit=MAX_PREDICATE)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"`{path}` is not acceptable JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"`{path}` holds no JSON object", hint="a predicate is an object; its type is given by --type")
    return value
