# SPDX-License-Identifier: Apache-2.0
"""Add a signature in cosign's first form to a bundle in a registry; see `formats.simple_signing`."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.errors import UsageError
from packager.files import ignore_count
from packager.formats import oci, simple_signing
from packager.transport.registry import reference
from packager.transport.registry.reference import SCHEME
from packager.transport.registry.repository import Repository
from packager.transport.registry.upload import upload
from packager.transport.registry.wire import Settings
from packager.trust.signers import Signer
from packager.types import Blob


@runtime_checkable
class RawSigner(Protocol):
    """A signer that signs bytes as they are."""

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the DER signature of `message`."""


def prepare(address: str, signer: Signer, settings: Callable[[], Settings]) -> Callable[[Bundle], str]:
    """Return what signs a bundle at `address` and returns the tag. Raises UsageError before anything is signed."""
    if not address.startswith(SCHEME):
        raise UsageError(
            "cosign's first form names the repository that the bundle is in",
            hint="push the bundle, then sign it there: packager sign oci://HOST/NAME:TAG --key … --also cosign-legacy",
        )
    raw, repository = check_signer(signer), Repository(reference.parse(address), settings())
    return lambda bundle: add_legacy(bundle.digest, repository, raw)


def check_signer(signer: Signer) -> RawSigner:
    """Return `signer` if it can make this form. Raises UsageError for a certificate or an identity."""
    if not isinstance(signer, RawSigner):
        raise UsageError(
            "the form `cosign-legacy` is made with a key",
            hint="give --key; certificates and identities make Sigstore bundles, which cosign 3 reads without a flag",
        )
    return signer


def add_legacy(digest: str, repository: Repository, signer: RawSigner) -> str:
    """Sign the digest of a bundle or image for `repository`, and return the tag; signatures that are there stay."""
    name, tag = f"{repository.reference.host}/{repository.reference.name}", simple_signing.name_tag(digest)
    document = simple_signing.write_payload(name, digest)
    ours = simple_signing.describe_layer(document, signer.sign_bytes(document))
    there = repository.manifest(tag)
    present = simple_signing.list_layers(there, subject=tag) if there else []
    if ours in present:
        return tag
    manifest, config = simple_signing.write_manifest([*present, ours])
    for content in (document, config):
        _push(repository, content)
    repository.put_manifest(tag, manifest, oci.MANIFEST)
    return tag


def _push(repository: Repository, content: bytes) -> None:
    blob = Blob(canonical.sha256(content), len(content))
    if not repository.has(blob, push=True):
        upload(repository, blob, lambda: io.BytesIO(content), ignore_count)
