# SPDX-License-Identifier: Apache-2.0
"""Read and write in-toto statements v1: our bundle statement, and the OpenSSF Model Signing statement.

Sources: in-toto attestation spec v1 (statement.md); OpenSSF Model Signing v1.0; cosign 3, whose `sign` states a digest
and nothing else (`COSIGN_SIGN_PREDICATE`). The subject of a bundle statement is the manifest digest. The subject digest
of a Model Signing statement does not bind file names, so it is never used as an identity: its resource list is compared
with the manifest's files instead.
"""

from __future__ import annotations

import base64
import hashlib

from packager import canonical
from packager.canonical import JSON
from packager.records import dataclass
from packager.types import Tree, set_digest

STATEMENT = "https://in-toto.io/Statement/v1"
_STATEMENT_0_1 = "https://in-toto.io/Statement/v0.1"  # what `cosign attest` writes; the same members
BUNDLE_PREDICATE = "urn:packager:bundle:v1"
IMAGE_PREDICATE = "urn:packager:image:v1"
MODEL_SIGNING_PREDICATE = "https://model_signing/signature/v1.0"
COSIGN_SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
METADATA_DIRECTORY = ".packager"
# The Model Signing spec excludes git's files; our verifier refuses them as unlisted, whatever this list says.
IGNORED = (METADATA_DIRECTORY, ".git", ".gitattributes", ".github", ".gitignore")


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement about exactly one subject."""

    predicate_type: str
    subject_name: str
    subject_sha256: str
    predicate: JSON

    def to_bytes(self) -> bytes:
        """Return the statement as canonical JSON, the bytes that are signed."""
        subject = {"name": self.subject_name, "digest": {"sha256": self.subject_sha256}}
        value = {
            "_type": STATEMENT,
            "subject": [subject],
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }
        return canonical.dump(value)


def parse(payload: bytes, *, limit: int) -> Statement:
    """Parse a statement strictly. Raises ValueError."""
    value = canonical.load(payload, limit=limit)
    if not isinstance(value, dict) or set(value) != {"_type", "subject", "predicateType", "predicate"}:
        raise ValueError("expected an in-toto statement with `_type`, `subject`, `predicateType` and `predicate`")
    if value["_type"] not in (STATEMENT, _STATEMENT_0_1) or not isinstance(value["predicateType"], str):
        raise ValueError(f"expected statement type {STATEMENT}, got {value['_type']!s:.100}")
    subjects = value["subject"]
    try:
        (subject,) = subjects
        name, sha256 = subject.get("name", ""), subject["digest"]["sha256"]  # cosign gives the digest alone
    except (AttributeError, TypeError, KeyError, ValueError):
        raise ValueError("expected exactly one subject with a sha256 digest") from None
    if not isinstance(name, str) or not isinstance(sha256, str):
        raise ValueError("the subject's name and digest must be strings")
    return Statement(value["predicateType"], name, sha256, value["predicate"])


def bundle_statement(name: str, version: str, manifest_digest: str, tree: Tree) -> Statement:
    """Return the statement that manifest `manifest_digest` is bundle `name` `version` with the files of `tree`."""
    predicate = {"name": name, "version": version, "setDigest": set_digest(tree), "files": len(tree.files)}
    hexadecimal = manifest_digest.removeprefix("sha256:")
    return Statement(BUNDLE_PREDICATE, f"{name}:{version}", hexadecimal, predicate)


def model_signing_statement(name: str, version: str, tree: Tree) -> Statement:
    """Return the statement of the files of `tree` that OpenSSF `model_signing verify` reads."""
    rows = sorted((path, blob.digest.removeprefix("sha256:")) for path, blob in tree)
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in rows)).hexdigest()
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": list(IGNORED),
        },
        "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in rows],
    }
    return Statement(MODEL_SIGNING_PREDICATE, f"{name}-{version}", root, predicate)


def describe_resource(
    name: str, digest: str | None = None, *, uri: str | None = None, kind: str | None = None, **annotations: JSON
) -> dict[str, JSON]:
    """Return a resource descriptor (resource_descriptor.md); `digest` is `sha256:…`, `kind` a media type."""
    value = {
        "name": name,
        "uri": uri,
        "digest": digest and {"sha256": digest.removeprefix("sha256:")},
        "mediaType": kind,
        "annotations": annotations or None,
    }
    return {key: member for key, member in value.items() if member is not None}


def embed_resource(name: str, data: bytes, kind: str = "application/json") -> dict[str, JSON]:
    """Return a resource descriptor with the resource's content."""
    content = base64.b64encode(data).decode()
    return {**describe_resource(name, canonical.sha256(data), kind=kind), "content": content}
