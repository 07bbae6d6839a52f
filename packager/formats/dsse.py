# SPDX-License-Identifier: Apache-2.0
"""DSSE envelopes inside Sigstore bundles v0.3, for signatures made with plain keys.

Sources: secure-systems-lab/dsse v1.0 (protocol.md, envelope.md); sigstore protobuf-specs, bundle v0.3; OpenSSF
Model Signing v1.0 for the `publicKey.hint`, which is the SHA-256 of the PEM of the public key.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
MAX_BUNDLE = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """An envelope as received: the payload keeps its original bytes, because they are what was signed."""

    payload: bytes
    signature: bytes
    key_hint: str

    def to_bytes(self) -> bytes:
        value = {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": self.key_hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": base64.b64encode(self.signature).decode(), "keyid": ""}],
            },
        }
        return canonical.dump(value)


def pae(payload: bytes) -> bytes:
    """Return the pre-authentication encoding of an in-toto payload: the bytes that get signed."""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)


def parse(data: bytes) -> SignedStatement:
    """Parse a Sigstore bundle made with a key. Raises ValueError for any other shape; there is no tolerance."""
    value = canonical.load(data, limit=MAX_BUNDLE)
    bundle = _object(value, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "bundle")
    if bundle["mediaType"] != BUNDLE:
        raise ValueError(f"expected media type {BUNDLE}, got {bundle['mediaType']!s:.100}")
    material = _object(bundle["verificationMaterial"], {"publicKey", "tlogEntries"}, "verification material")
    hint = _object(material["publicKey"], {"hint"}, "public key")["hint"]
    envelope = _object(bundle["dsseEnvelope"], {"payload", "payloadType", "signatures"}, "envelope")
    if envelope["payloadType"] != IN_TOTO:
        raise ValueError(f"expected payload type {IN_TOTO}, got {envelope['payloadType']!s:.100}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1 or material["tlogEntries"] != []:
        raise ValueError("expected one signature and no log entries")
    signature = _object(signatures[0], {"sig", "keyid"}, "signature")
    if not isinstance(hint, str):
        raise ValueError("the public key hint is not a string")
    return SignedStatement(_decode(envelope["payload"]), _decode(signature["sig"]), hint)


def _object(value: JSON, keys: set[str], what: str) -> dict[str, JSON]:
    if not isinstance(value, dict) or set(value) != keys:
        raise ValueError(f"the {what} must have exactly the fields {', '.join(sorted(keys))}")
    return value


def _decode(value: JSON) -> bytes:
    if not isinstance(value, str):
        raise ValueError("expected base64 text")
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"bad base64: {error}") from None
    if base64.b64encode(data).decode() != value:  # one value, one spelling: unused bits must be zero
        raise ValueError("bad base64: not in its canonical form")
    return data
