# SPDX-License-Identifier: Apache-2.0
"""Write cosign's first form of a signature: an image manifest at the tag `sha256-<hex>.sig`, one layer per signature.

The layer is a "simple signing" document, signed as it is. Tools that know no Sigstore bundles read it: containers'
`policy.json` (skopeo, podman, CRI-O), policy-controller for keys, ratify. It states the digest and nothing else.
Sources: sigstore/cosign specs/SIGNATURE_SPEC.md; containers/image docs/containers-signature.5.md.
"""

from __future__ import annotations

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError
from packager.formats import dsse, oci
from packager.formats.oci import Descriptor
from packager.types import Blob

LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
MAX_SIGNATURES = 256


def name_tag(digest: str) -> str:
    """Return the tag under which the signatures of manifest `digest` lie."""
    return f"{digest.replace(':', '-')}.sig"


def write_payload(repository: str, digest: str) -> bytes:
    """Return the document to sign: that `digest` is an image of `repository` (`host/name`)."""
    identity = {"docker-reference": repository}
    critical = {"identity": identity, "image": {"docker-manifest-digest": digest}, "type": TYPE}
    return canonical.dump({"critical": critical, "optional": None})


def describe_layer(document: bytes, signature: bytes) -> Descriptor:
    """Describe a signed document; the signature is DER."""
    blob = Blob(canonical.sha256(document), len(document))
    return Descriptor(LAYER, blob, {SIGNATURE: dsse.encode(signature)})


def write_manifest(layers: list[Descriptor]) -> tuple[bytes, bytes]:
    """Return (manifest, config) of an image with these signatures."""
    config = canonical.dump(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [item.blob.digest for item in layers]},
        }
    )
    value = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": Descriptor(CONFIG, Blob(canonical.sha256(config), len(config))).to_json(),
        "layers": [item.to_json() for item in layers],
    }
    return canonical.dump(value), config


def list_layers(data: bytes, *, subject: str) -> list[Descriptor]:
    """Return the signatures of such a manifest. Raises MalformedError."""
    try:
        rows: JSON = canonical.load(data, limit=oci.MAX_MANIFEST)["layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"`{subject}` holds no signatures: {error}", subject=subject) from None
    if not isinstance(rows, list) or len(rows) > MAX_SIGNATURES:
        raise MalformedError(f"`{subject}` holds more than {MAX_SIGNATURES} signatures", subject=subject)
    return [oci.parse_descriptor(row, subject) for row in rows]
