# SPDX-License-Identifier: Apache-2.0
"""Generate, load and use ECDSA keys: P-256 and P-384, as PEM files.

Signatures are deterministic (RFC 6979), so signing the same bundle twice with one key attaches one statement. Public
keys as `keygen` writes them are read and written here, because `cryptography` reads keys by modules that take 5 ms to
import, a twentieth of verifying a small bundle.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from packager.errors import UsageError
from packager.files import write_atomically
from packager.formats.dsse import Key, SignedStatement, encode, encode_payload
from packager.records import dataclass

CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
_HASHES: dict[str, hashes.HashAlgorithm] = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}
_SPKI = {  # a SubjectPublicKeyInfo up to its point (RFC 5480, 2): nothing in it varies but the point
    "secp256r1": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    "secp384r1": bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
}
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n"
MAX_KEY = 64 << 10  # bytes of a key file


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key. `fingerprint` is the SHA-256 of its PEM, the key hint in signatures."""

    key: ec.EllipticCurvePublicKey

    @property
    def pem(self) -> bytes:
        """The key as PEM (SubjectPublicKeyInfo)."""
        text = base64.b64encode(self.der)
        return b"".join([_BEGIN, *(text[at : at + 64] + b"\n" for at in range(0, len(text), 64)), _END])

    @property
    def der(self) -> bytes:
        """The key as DER (SubjectPublicKeyInfo)."""
        point, size = self.key.public_numbers(), (self.key.key_size + 7) // 8
        coordinates = point.x.to_bytes(size, "big") + point.y.to_bytes(size, "big")
        return _SPKI[self.key.curve.name] + b"\x04" + coordinates  # uncompressed (SEC 1, 2.3.3)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the PEM, in hexadecimal."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def hints(self) -> frozenset[str]:
        """What selects this key in signatures: our fingerprint, and Sigstore's, base64 of the SHA-256 of the DER."""
        return frozenset({self.fingerprint, encode(hashlib.sha256(self.der).digest())})

    def verifies(self, statement: SignedStatement) -> bool:
        """Return whether this key signed the statement's original bytes."""
        return self.signed(statement.signature, encode_payload(statement.payload))

    def made(self, statement: SignedStatement) -> bool:
        """Return whether this key, named as such, signed the statement."""
        material = statement.material
        return isinstance(material, Key) and material.hint in self.hints and self.verifies(statement)

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Return whether `signature` is this key's, of `message`."""
        try:
            self.key.verify(signature, message, ec.ECDSA(_HASHES[self.key.curve.name]))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A signing key held in memory."""

    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.key.public_key())

    def sign(self, payload: bytes) -> SignedStatement:
        """Sign an in-toto payload."""
        return SignedStatement(payload, self.sign_bytes(encode_payload(payload)), Key(self.public.fingerprint))

    def repeats(self, old: SignedStatement, new: SignedStatement) -> bool:
        """Return whether `old` is a signature by this key."""
        return self.public.made(old)

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the DER signature of `message`; equal messages give equal signatures."""
        return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.name], deterministic_signing=True))


def generate_key(curve: str) -> PrivateKey:
    """Generate a key on `p256` or `p384`."""
    return PrivateKey(ec.generate_private_key(CURVES[curve]))


def save(key: PrivateKey, private: Path, public: Path, passphrase: bytes | None) -> None:
    """Write both halves; the private file gets mode 0600, and an existing file is never replaced."""
    from cryptography.hazmat.primitives import serialization

    for path in (private, public):
        if path.exists():
            raise UsageError(f"`{path}` exists already", hint="give another name; a key is never overwritten")
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        write_atomically(private, pem, mode=0o600)
        write_atomically(public, key.public.pem)
    except BaseException:  # one file of the pair would block the next attempt
        private.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A new key on disk: the files of both halves, and the fingerprint."""

    private: Path
    public: Path
    fingerprint: str


def create_key_pair(path: Path, curve: str = "p256", passphrase: bytes | None = None) -> KeyPair:
    """Make a key and write `PATH.pem` (mode 0600, encrypted with a passphrase) and `PATH.pub`.

    `curve` is `p256` or `p384`. An existing file is never replaced. Raises UsageError.
    """
    private, public = path.with_name(path.name + ".pem"), path.with_name(path.name + ".pub")
    key = generate_key(curve)
    private.parent.mkdir(parents=True, exist_ok=True)
    save(key, private, public, passphrase)
    return KeyPair(private, public, key.public.fingerprint)


def load_private(path: Path, secret: Callable[[], bytes | None]) -> PrivateKey:
    """Read a PEM private key; `secret` is called for a passphrase if the key is encrypted.

    Raises UsageError for a missing or wrong passphrase, another kind of key, or a file without one.
    """
    from cryptography.hazmat.primitives import serialization

    data = _read(path)
    encrypted = any(mark in data for mark in _ENCRYPTED)
    passphrase = secret() if encrypted else None
    if encrypted and not passphrase:
        raise UsageError(f"key `{path}` is encrypted", hint="use --passphrase-file, or PACKAGER_PASSPHRASE")
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        doubt = _doubt_passphrase(error) if encrypted else None
        if doubt is not None:
            hint = "it is the first line of --passphrase-file, or PACKAGER_PASSPHRASE"
            raise UsageError(f"the passphrase of key `{path}` is wrong{doubt}", hint=hint) from None
        raise UsageError(f"`{path}` is no private key", hint=_EXPECTED) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise UsageError(f"`{path}` holds another kind of key", hint=_EXPECTED)
    return PrivateKey(key)


def is_encrypted(path: Path) -> bool:
    """Return whether a private key needs a passphrase. Raises UsageError for a file that cannot be read."""
    data = _read(path)
    return any(mark in data for mark in _ENCRYPTED)


_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


def _doubt_passphrase(error: Exception) -> str | None:
    """Return how a sentence about a wrong passphrase ends, by the text of an error; None for another fault.

    One wrong passphrase of 256 decrypts to noise with a valid end (PKCS #7 padding): damage looks the same then.
    """
    if re.search(r"password|could not decrypt", str(error), re.IGNORECASE):
        return ""
    return ", or the file is damaged" if "could not deserialize" in str(error).lower() else None


def load_public(path: Path) -> PublicKey:
    """Read a PEM public key. Raises UsageError for anything else."""
    try:
        return parse_public(_read(path))
    except ValueError as error:
        raise UsageError(f"`{path}` {error}", hint=_EXPECTED) from error


def parse_public(pem: bytes) -> PublicKey:
    """Read a PEM public key. Raises ValueError for anything else; its message continues a sentence about the key."""
    known = _parse_own(pem)
    if known is not None:
        return known
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no public key") from None
    return public_key(key)


def _parse_own(pem: bytes) -> PublicKey | None:
    """Return a key whose PEM is, byte for byte, what `pem` of it is; None for every other text."""
    try:
        der = base64.b64decode(pem.removeprefix(_BEGIN).removesuffix(_END))
        for curve in CURVES.values():
            if der.startswith(_SPKI[curve.name]):
                key = ec.EllipticCurvePublicKey.from_encoded_point(curve, der.removeprefix(_SPKI[curve.name]))
                found = PublicKey(key)
                return found if found.pem == pem else None
    except ValueError:  # also for a point that is not on the curve
        return None
    return None


def public_key(key: object) -> PublicKey:
    """Return `key` if it is on a supported curve. Raises ValueError."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ValueError("holds another kind of key")
    return PublicKey(key)


def digest_message(key: PublicKey, message: bytes) -> bytes:
    """Return the digest of `message` that a signature of `key` covers, for tokens that sign digests only."""
    return hashlib.new(_HASHES[key.key.curve.name].name, message).digest()


_EXPECTED = "expected a PEM file with an ECDSA P-256 or P-384 key, as `packager keygen` writes it"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY)
    except OSError as error:
        raise UsageError(f"cannot read key `{path}`: {error.strerror}", hint=_EXPECTED) from error
