# SPDX-License-Identifier: Apache-2.0
"""Keys and envelopes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from packager import canonical
from packager.errors import UsageError
from packager.formats import dsse
from packager.trust import keys


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_sign_and_verify(curve: str, tmp_path: Path) -> None:
    key = keys.generate_key(curve)
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", b"secret")
    signed = keys.load_private(tmp_path / "k.pem", lambda: b"secret").sign(b"payload")
    assert keys.load_public(tmp_path / "k.pub").verifies(signed)
    assert not keys.generate_key(curve).public.verifies(signed)
    assert not key.public.verifies(dsse.SignedStatement(b"Payload", signed.signature, signed.material))
    assert key.sign(b"payload") == signed, "signatures are deterministic"
    assert dsse.parse(signed.to_bytes()) == signed


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_public_keys_are_written_and_read_as_by_the_library(curve: str) -> None:
    """The last of them has a coordinate that begins with a zero byte."""
    curve_of, scalars = keys.CURVES[curve], [1, 2, 2**200 + 1, *range(3, 2000)]
    found = (ec.derive_private_key(scalar, curve_of).public_key() for scalar in scalars)
    size = curve_of.key_size // 8
    for number, key in enumerate(found):
        short = key.public_numbers().x.bit_length() <= 8 * (size - 1)
        if number < 3 or short:
            ours = keys.PublicKey(key)
            kinds = (serialization.Encoding.PEM, serialization.Encoding.DER)
            theirs = [key.public_bytes(kind, serialization.PublicFormat.SubjectPublicKeyInfo) for kind in kinds]
            assert [ours.pem, ours.der] == theirs
            assert keys._parse_own(ours.pem) == ours == keys.parse_public(ours.pem.replace(b"\n", b"\r\n"))
        if short:
            return
    raise AssertionError("no short coordinate was tried")


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_a_point_off_the_curve_is_no_public_key(curve: str) -> None:
    der = bytearray(keys.generate_key(curve).public.der)
    der[-1] ^= 1
    pem = base64.encodebytes(der).replace(b"\n", b"")
    text = keys._BEGIN + b"".join(pem[at : at + 64] + b"\n" for at in range(0, len(pem), 64)) + keys._END
    assert keys._parse_own(text) is None
    with pytest.raises(ValueError, match="is no public key"):
        keys.parse_public(text)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    key = keys.generate_key("p256")
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    with pytest.raises(UsageError, match="exists"):
        keys.save(key, tmp_path / "k.pem", tmp_path / "other.pub", None)


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    others = (
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    )
    for key in others:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / "k.pem").write_bytes(pem)
        with pytest.raises(UsageError, match="another kind"):
            keys.load_private(tmp_path / "k.pem", lambda: None)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / "k.pub").write_bytes(public)
        with pytest.raises(UsageError, match="another kind"):
            keys.load_public(tmp_path / "k.pub")


@pytest.mark.parametrize("data", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_no_key_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "k").write_bytes(data)
    for load in (lambda: keys.load_private(tmp_path / "k", lambda: None), lambda: keys.load_public(tmp_path / "k")):
        with pytest.raises(UsageError) as caught:
            load()
        assert caught.value.hint


def good() -> dict[str, canonical.JSON]:
    document: dict[str, canonical.JSON] = json.loads(keys.generate_key("p256").sign(b"{}").to_bytes())
    return document


CHANGES = {
    "media type 0.1": lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
    "unknown field": lambda d: d.update(extra=1),
    "no material": lambda d: d.pop("verificationMaterial"),
    "log entries": lambda d: d["verificationMaterial"].update(tlogEntries=[{}]),
    "a certificate": lambda d: d["verificationMaterial"].update(certificate={}),
    "no hint": lambda d: d["verificationMaterial"].update(publicKey={}),
    "hint of another type": lambda d: d["verificationMaterial"]["publicKey"].update(hint=1),
    "payload type": lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
    "no signature": lambda d: d["dsseEnvelope"].update(signatures=[]),
    "two signatures": lambda d: d["dsseEnvelope"].update(signatures=d["dsseEnvelope"]["signatures"] * 2),
    "bad base64": lambda d: d["dsseEnvelope"].update(payload="e30"),
    "loose base64": lambda d: d["dsseEnvelope"].update(payload="e31="),
    "payload of another type": lambda d: d["dsseEnvelope"].update(payload=5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_envelopes_are_parsed_strictly(name: str) -> None:
    document = good()
    CHANGES[name](document)
    with pytest.raises(ValueError):
        dsse.parse(json.dumps(document).encode())


def test_the_encoding_that_is_signed_is_the_published_one() -> None:
    """Example of the DSSE specification, with our payload type."""
    payload = b"hello world"
    kind = dsse.IN_TOTO
    assert dsse.encode_payload(payload) == f"DSSEv1 {len(kind)} {kind} 11 hello world".encode()
    assert base64.b64decode(good()["dsseEnvelope"]["payload"]) == b"{}"
