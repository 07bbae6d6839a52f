# SPDX-License-Identifier: Apache-2.0
"""Read the signed statements that are attached to any manifest, and hold new ones until they are pushed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from packager import canonical
from packager.bundle.bundle import CHAIN, Referrer
from packager.bundle.readers import Medium, read_record
from packager.errors import IntegrityError
from packager.formats import dsse, oci
from packager.types import Blob

_STATEMENTS, _STATEMENT = 1000, 1 << 20  # number, and bytes of each


def read_attached(medium: Medium, rows: Iterable[oci.Descriptor], about: str) -> tuple[dict[str, bytes], list[bytes]]:
    """Return the statements about manifest `about` among the manifests `rows`, by digest, and certificates (PEM).

    What cannot be read is left out. Anyone may attach anything: who made it is for the caller to check.
    """
    statements: dict[str, bytes] = {}
    chains: dict[str, bytes] = {}
    kinds = {dsse.BUNDLE: statements, CHAIN: chains}
    for item in rows:
        with contextlib.suppress(IntegrityError):
            manifest = oci.parse_manifest(read_record(medium, item.blob.digest), subject=item.blob.digest)
            found = kinds.get(manifest.artifact_type)
            if found is None or manifest.subject is None or manifest.subject.blob.digest != about:
                continue
            content = manifest.layers[0].blob
            if len(found) < _STATEMENTS and content.size <= _STATEMENT:
                found[content.digest] = read_record(medium, content.digest, limit=_STATEMENT)
    return statements, list(chains.values())


@dataclass(frozen=True, slots=True)
class PendingStatements:
    """Statements about a manifest that is in a registry, made in memory; `publish.push_referrers` writes them."""

    subject: oci.Descriptor
    referrers: tuple[Referrer, ...] = ()
    records: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the digest of the manifest that they are about."""
        return self.subject.blob.digest

    def with_statement(self, content: bytes, predicate_type: str) -> PendingStatements:
        """Return these with one more signed statement."""
        notes = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate_type}
        return self._with(dsse.BUNDLE, content, notes)

    def with_certificates(self, pem: bytes) -> PendingStatements:
        """Return these with the certificates that lead from a signer's to its root."""
        return self._with(CHAIN, pem, {})

    def _with(self, kind: str, content: bytes, notes: Mapping[str, str]) -> PendingStatements:
        layer = oci.Descriptor(kind, _blob(content))
        manifest = oci.build_referrer(kind, layer, self.subject, notes).to_bytes()
        added = Referrer(_blob(manifest), kind, layer.blob)
        records = {**self.records, added.manifest.digest: manifest, added.content.digest: content}
        return replace(self, referrers=tuple({*self.referrers, added}), records=records)

    def record_bytes(self, digest: str) -> bytes:
        """Return the bytes of a manifest or blob of a referrer."""
        return self.records[digest]

    def referrers_index(self) -> bytes:
        """Return the list of the tag schema."""
        rows = sorted(self.referrers, key=lambda referrer: referrer.manifest.digest)
        return oci.write_index([oci.Descriptor(oci.MANIFEST, row.manifest, {}, row.artifact_type) for row in rows])


def _blob(data: bytes) -> Blob:
    return Blob(canonical.sha256(data), len(data))
