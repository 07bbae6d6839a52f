# SPDX-License-Identifier: Apache-2.0
"""Transparency: an RFC 6962 tree with signed checkpoints (C2SP tlog-checkpoint), and signed certificate timestamps."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from packager.formats import der

JSON = dict[str, object]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def root_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1."""
    if len(leaves) == 1:
        return leaves[0]
    cut = 1 << ((len(leaves) - 1).bit_length() - 1)
    return _hash(b"\1", root_hash(leaves[:cut]), root_hash(leaves[cut:]))


def inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    cut = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < cut:
        return [*inclusion(index, leaves[:cut]), root_hash(leaves[cut:])]
    return [*inclusion(index - cut, leaves[cut:]), root_hash(leaves[:cut])]


@dataclass
class Rekor:
    """Rekor v2 with one entry type, hashedrekord 0.0.2."""

    origin: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    leaves: list[bytes] = field(default_factory=list)

    def add(self, request: JSON) -> JSON:
        """Log an entry whose signature holds, and return it with its proof."""
        wish = request["hashedRekordRequestV002"]
        signature, digest = wish["signature"], wish["digest"]  # type: ignore[index]
        certificate = x509.load_der_x509_certificate(
            base64.b64decode(signature["verifier"]["x509Certificate"]["rawBytes"])
        )
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(
            base64.b64decode(signature["content"]), base64.b64decode(digest), ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        )
        record = {
            "data": {"algorithm": "SHA2_256", "digest": digest},
            "signature": {"content": signature["content"], "verifier": signature["verifier"]},
        }
        body = rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}})
        self.leaves.append(_hash(b"\0", body))
        return self._entry(len(self.leaves) - 1, body)

    def _entry(self, index: int, body: bytes) -> JSON:
        root, size = root_hash(self.leaves), len(self.leaves)
        note = f"{self.origin}\n{size}\n{b64(root)}\n"
        signature = self.key.sign(note.encode(), ec.ECDSA(hashes.SHA256()))
        identity = key_id(self.key.public_key())
        checkpoint = f"{note}\n\u2014 {self.origin} {b64(identity[:4] + signature)}\n"
        proof = {
            "logIndex": str(index),
            "rootHash": b64(root),
            "treeSize": str(size),
            "hashes": [b64(item) for item in inclusion(index, self.leaves)],
            "checkpoint": {"envelope": checkpoint},
        }
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(identity)},
            "integratedTime": "0",
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": proof,
            "canonicalizedBody": b64(body),
        }


@dataclass(frozen=True)
class CertificateLog:
    """A CT log that promises to log a certificate (RFC 6962 §3)."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def promise(
        self, issuer: ec.EllipticCurvePublicKey, precertificate: bytes, milliseconds: int
    ) -> x509.UnrecognizedExtension:
        """Return the extension that holds the signed promise for a precertificate's content."""
        identity = key_id(self.key.public_key())
        length = len(precertificate).to_bytes(3)
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + key_id(issuer) + length + precertificate + b"\0\0"
        signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        promise = (
            b"\0"
            + identity
            + struct.pack("!QH", milliseconds, 0)
            + b"\4\3"
            + struct.pack("!H", len(signature))
            + signature
        )
        listed = struct.pack("!HH", len(promise) + 2, len(promise)) + promise
        return x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), der.encode(der.OCTETS, listed)
        )
