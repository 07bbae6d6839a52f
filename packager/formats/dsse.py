# SPDX-License-Identifier: Apache-2.0
"""Read and write DSSE envelopes inside Sigstore bundles v0.3, in the three kinds that this program supports.

    Key           `publicKey.hint`, the SHA-256 of the PEM of the public key
    Certificates  `certificate` of an enterprise authority without a log entry, with RFC 3161 timestamps
    Logged        `certificate` of a Sigstore instance, one transparency log entry, RFC 3161 timestamps

Version 0.3 allows one certificate: those between it and the root travel beside the bundle or in trust files. A chain
inside (`x509CertificateChain`), as OpenSSF Model Signing has it and this program wrote it before, is read. Unknown
fields, other media types, several signatures and non-canonical base64 are refused. Variants of other tools are read:
protobuf's JSON omits empty members, OpenSSF Model Signing 0.x wrote the key itself and no key id.
Sources: secure-systems-lab/dsse v1.0 (protocol.md, envelope.md); sigstore protobuf-specs, bundle v0.3; OpenSSF Model
Signing v1.0 for the hint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TypeAlias

from packager import canonical
from packager.canonical import JSON
from packager.records import dataclass

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
MAX_BUNDLE = 16 << 20  # bytes
MAX_CERTIFICATES = 8
MAX_TIMESTAMPS = 32  # as sigstore's clients allow
_STAMPS = "timestampVerificationData"


@dataclass(frozen=True, slots=True)
class Key:
    """Signed by a plain key; `hint` is the SHA-256 of its PEM, or what another tool writes to select a key."""

    hint: str

    @property
    def claim(self) -> str:
        return f"key {self.hint[:16]}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Signed by the key of the first certificate (DER); `timestamps` are RFC 3161 responses for the signature.

    The others lead to the root; version 0.3 has no place for them.
    """

    chain: tuple[bytes, ...]
    timestamps: tuple[bytes, ...] = ()

    @property
    def claim(self) -> str:
        return f"certificate {canonical.sha256(self.chain[0])[7:23]}"


@dataclass(frozen=True, slots=True)
class Logged:
    """Signed with a short-lived certificate of a Sigstore instance; `document` is the whole bundle as received."""

    certificate: bytes
    timestamps: tuple[bytes, ...]
    document: bytes

    @property
    def claim(self) -> str:
        return f"certificate {canonical.sha256(self.certificate)[7:23]}"


Material: TypeAlias = Key | Certificates | Logged


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """An envelope as received: the payload keeps its original bytes, because those were signed."""

    payload: bytes
    signature: bytes
    material: Material

    def to_bytes(self, *, chain: bool = False) -> bytes:
        """Return the Sigstore bundle; with `chain` it holds all certificates, as OpenSSF Model Signing wants it."""
        if isinstance(self.material, Logged):
            return self.material.document
        value = {
            "mediaType": BUNDLE,
            "verificationMaterial": _material_json(self.material, chain=chain),
            "dsseEnvelope": {
                "payload": encode(self.payload),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": encode(self.signature), "keyid": ""}],
            },
        }
        return canonical.dump(value)


def _material_json(material: Key | Certificates, *, chain: bool) -> JSON:
    if isinstance(material, Key):
        return {"publicKey": {"hint": material.hint}, "tlogEntries": []}
    rows = [{"rawBytes": encode(certificate)} for certificate in material.chain]
    value: JSON = {"x509CertificateChain": {"certificates": rows}} if chain else {"certificate": rows[0]}
    value["tlogEntries"] = []
    if material.timestamps:
        value[_STAMPS] = {"rfc3161Timestamps": [{"signedTimestamp": encode(stamp)} for stamp in material.timestamps]}
    return value


def encode_payload(payload: bytes, kind: str = IN_TOTO) -> bytes:
    """Return the pre-authentication encoding of a payload: the bytes that are signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def parse(data: bytes) -> SignedStatement:
    """Parse a Sigstore bundle strictly. Raises ValueError for any form but the three above."""
    bundle = read_members(
        canonical.load(data, limit=MAX_BUNDLE), "bundle", "mediaType verificationMaterial dsseEnvelope"
    )
    if bundle["mediaType"] != BUNDLE:
        raise ValueError(f"expected media type {BUNDLE}, got {bundle['mediaType']!s:.100}")
    envelope = read_members(bundle["dsseEnvelope"], "envelope", "payload payloadType signatures")
    if envelope["payloadType"] != IN_TOTO:
        raise ValueError(f"expected payload type {IN_TOTO}, got {envelope['payloadType']!s:.100}")
    (signature,) = read_items(envelope["signatures"], "signatures", 1, 1)
    bare = read_members(signature, "signature", "sig", "keyid")
    if not isinstance(bare.get("keyid", ""), str | None):
        raise ValueError("the key id of the signature is no text")
    return SignedStatement(
        decode(envelope["payload"]), decode(bare["sig"]), _material(bundle["verificationMaterial"], data)
    )


def _material(value: JSON, data: bytes) -> Material:
    if not isinstance(value, dict):
        raise ValueError("the verification material is not an object")
    if "publicKey" in value:
        return _key(read_members(value, "verification material", "publicKey", "tlogEntries"))
    if "x509CertificateChain" in value:
        return _certificates(
            read_members(value, "verification material", "x509CertificateChain", f"tlogEntries {_STAMPS}")
        )
    fields = read_members(value, "verification material", "certificate", f"tlogEntries {_STAMPS}")
    if fields.get("tlogEntries"):
        return _logged(fields, data)
    read_items(fields.get("tlogEntries", []), "log entries", 0, 0)
    return Certificates((_raw(fields["certificate"]),), _timestamps(fields))


def _key(value: dict[str, JSON]) -> Key:
    read_items(value.get("tlogEntries", []), "log entries", 0, 0)
    if isinstance(value["publicKey"], dict) and "rawBytes" in value["publicKey"]:
        raw = read_members(value["publicKey"], "public key", "rawBytes", "keyDetails")["rawBytes"]
        return Key(hashlib.sha256(decode(raw)).hexdigest())
    hint = read_members(value["publicKey"], "public key", "hint")["hint"]
    if not isinstance(hint, str):
        raise ValueError("the public key hint is not a string")
    return Key(hint)


def _certificates(value: dict[str, JSON]) -> Certificates:
    read_items(value.get("tlogEntries", []), "log entries", 0, 0)
    chain = read_members(value["x509CertificateChain"], "certificate chain", "certificates")["certificates"]
    return Certificates(
        tuple(_raw(item) for item in read_items(chain, "certificates", 1, MAX_CERTIFICATES)), _timestamps(value)
    )


def _logged(value: dict[str, JSON], data: bytes) -> Logged:
    read_items(value["tlogEntries"], "log entries", 1, 1)  # sigstore's strict models read its content
    return Logged(_raw(value["certificate"]), _timestamps(value), data)


def _raw(value: JSON) -> bytes:
    return decode(read_members(value, "certificate", "rawBytes")["rawBytes"])


def _timestamps(value: dict[str, JSON]) -> tuple[bytes, ...]:
    if _STAMPS not in value:
        return ()
    listed = read_members(value[_STAMPS], "time stamp data", "", "rfc3161Timestamps").get("rfc3161Timestamps", [])
    rows = read_items(listed, "time stamps", 0, MAX_TIMESTAMPS)
    stamps = tuple(decode(read_members(row, "time stamp", "signedTimestamp")["signedTimestamp"]) for row in rows)
    if len(set(stamps)) != len(stamps):
        raise ValueError("the same time stamp is there twice")
    return stamps


def read_members(value: JSON, what: str, required: str, optional: str = "") -> dict[str, JSON]:
    """Return `value` if it is an object with these space-separated members and no others. Raises ValueError."""
    need, may = set(required.split()), set(optional.split())
    if not isinstance(value, dict) or not need <= set(value) <= need | may:
        raise ValueError(f"the {what} must have exactly the fields {', '.join(sorted(need | may))}")
    return value


def read_items(value: JSON, what: str, least: int, most: int) -> list[JSON]:
    """Return `value` if it is a list of an allowed length. Raises ValueError."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"expected {wanted} {what}, got {len(value) if isinstance(value, list) else 'no list'}")
    return value


def encode(data: bytes) -> str:
    """Return the canonical base64 of `data`."""
    return base64.b64encode(data).decode()


def decode(value: JSON) -> bytes:
    """Decode canonical base64. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("expected base64 text")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"bad base64: {error}") from None
    if encode(data) != value:  # unused bits must be zero
        raise ValueError("bad base64: not in its canonical form")
    return data
