# SPDX-License-Identifier: Apache-2.0
"""Read and write the OCI image layout 1.1: descriptors, manifests, referrers and the index of a layout.

Source: OCI image-spec v1.1 (manifest.md, image-layout.md) and distribution-spec v1.1 (referrers tag schema).
Parsing is strict where bytes are covered by a digest, and lenient in `index.json`, which no digest covers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import field

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError
from packager.records import dataclass
from packager.types import DIGEST, Blob, check_digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"
LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
MAX_MANIFEST = 4 << 20  # bytes; what registries commonly accept
_MANIFEST_KEYS = {"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"}
_DESCRIPTOR_KEYS = {"mediaType", "digest", "size", "annotations", "artifactType", "data", "urls", "platform"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed reference to a blob."""

    media_type: str
    blob: Blob
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    def to_json(self) -> JSON:
        value: JSON = {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """An OCI image manifest used as an artifact."""

    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None

    def to_bytes(self) -> bytes:
        value: JSON = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self.artifact_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.subject:
            value["subject"] = self.subject.to_json()
        return canonical.dump(value)


_NO_BUNDLE = "container images and their indexes are no bundles; take what `packager build` or `push` wrote"


def parse_manifest(data: bytes, *, subject: str) -> Manifest:
    """Parse a manifest strictly. Raises IntegrityError about `subject`."""
    value = _load(data, subject)
    _only(value, _MANIFEST_KEYS, subject)
    if value.get("schemaVersion") != 2 or value.get("mediaType") != MANIFEST:
        raise MalformedError(f"`{subject}` is not an OCI image manifest", subject=subject, hint=_NO_BUNDLE)
    artifact_type, layers = value.get("artifactType"), value.get("layers")
    if not isinstance(artifact_type, str) or not isinstance(layers, list) or not layers:
        raise MalformedError(f"manifest `{subject}` lacks `artifactType` or `layers`", subject=subject, hint=_NO_BUNDLE)
    return Manifest(
        artifact_type,
        parse_descriptor(value.get("config"), subject),
        tuple(parse_descriptor(layer, subject) for layer in layers),
        _annotations(value.get("annotations"), subject),
        parse_descriptor(value["subject"], subject) if "subject" in value else None,
    )


def parse_descriptor(value: JSON, subject: str) -> Descriptor:
    """Parse one descriptor strictly."""
    if not isinstance(value, dict):
        raise MalformedError(f"`{subject}` holds a descriptor that is not an object", subject=subject)
    _only(value, _DESCRIPTOR_KEYS, subject)
    media_type, size = value.get("mediaType"), value.get("size")
    if not isinstance(media_type, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedError(f"`{subject}` holds a descriptor without type or size", subject=subject)
    artifact_type = value.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise MalformedError(f"`{subject}` holds a malformed `artifactType`", subject=subject)
    digest = check_digest(value.get("digest"), subject=subject)
    return Descriptor(media_type, Blob(digest, size), _annotations(value.get("annotations"), subject), artifact_type)


def build_referrer(
    artifact_type: str, layer: Descriptor, subject: Descriptor, annotations: Mapping[str, str]
) -> Manifest:
    """Build a manifest that attaches one blob to `subject`."""
    empty = Descriptor(EMPTY, Blob(canonical.sha256(EMPTY_BYTES), len(EMPTY_BYTES)))
    bare = Descriptor(subject.media_type, subject.blob)
    return Manifest(artifact_type, empty, (layer,), annotations, bare)


def write_index(manifests: Sequence[Descriptor]) -> bytes:
    """Serialise an image index, the form of `index.json` and of the referrers tag schema."""
    return canonical.dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [m.to_json() for m in manifests]})


def parse_index(data: bytes, *, subject: str) -> tuple[Descriptor, ...]:
    """Read the descriptors of an index; unknown members are ignored, because this file is not signed."""
    manifests = _load(data, subject).get("manifests")
    if not isinstance(manifests, list):
        raise MalformedError(f"`{subject}` lists no manifests", subject=subject)
    known = [{k: v for k, v in m.items() if k in _DESCRIPTOR_KEYS} if isinstance(m, dict) else m for m in manifests]
    return tuple(parse_descriptor(value, subject) for value in known)


def parse_listing(data: bytes, *, subject: str) -> tuple[Descriptor, ...]:
    """Read the descriptors of a list that everyone may extend: malformed rows are skipped."""
    manifests = _load(data, subject).get("manifests")
    found: list[Descriptor] = []
    for row in manifests if isinstance(manifests, list) else ():
        with contextlib.suppress(MalformedError):
            found += parse_index(canonical.dump({"manifests": [row]}), subject=subject)
    return tuple(found)


def is_index(data: bytes) -> bool:
    """Return whether these are the bytes of an image index, by themselves: who names them may call them otherwise."""
    try:
        value = canonical.load(data, limit=MAX_MANIFEST)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("mediaType") == INDEX


def named_blobs(data: bytes) -> frozenset[str]:
    """Return the digests that a manifest or index of any tool names as its content; empty for anything else."""
    try:
        value = canonical.load(data, limit=MAX_MANIFEST)
    except ValueError:
        return frozenset()
    table = value if isinstance(value, dict) else {}
    rows = [table.get("config"), *(row for key in ("layers", "blobs", "manifests") for row in _rows(table.get(key)))]
    named = (row.get("digest") for row in rows if isinstance(row, dict))
    return frozenset(digest for digest in named if isinstance(digest, str) and DIGEST.fullmatch(digest))


def _rows(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def referrers_tag(digest: str) -> str:
    """Return the tag under which registries without the referrers API keep the list (distribution-spec 1.1)."""
    return digest.replace(":", "-")


def _load(data: bytes, subject: str) -> dict[str, JSON]:
    try:
        value = canonical.load(data, limit=MAX_MANIFEST)
    except ValueError as error:
        raise MalformedError(f"`{subject}` is not acceptable JSON: {error}", subject=subject) from None
    if not isinstance(value, dict):
        raise MalformedError(f"`{subject}` is not a JSON object", subject=subject)
    return value


def _only(value: Mapping[str, JSON], known: set[str], subject: str) -> None:
    if unknown := sorted(set(value) - known):
        raise MalformedError(f"`{subject}` holds the unknown field `{unknown[0]}`", subject=subject)


def _annotations(value: JSON, subject: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise MalformedError(f"`{subject}` holds malformed annotations", subject=subject)
    return value
