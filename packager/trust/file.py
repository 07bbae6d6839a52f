# SPDX-License-Identifier: Apache-2.0
"""Read, sign and accept trust files: the signed form, and the rule by which one may follow another.

A trust file is a DSSE envelope (`securesystemslib` reads it) around the content that `trust.model` describes, signed by
root keys. It is accepted if a threshold of its own root keys signed it; one that follows another must also be signed by
a threshold of the *former* root keys and have a higher serial. So an old file, or one signed by keys that were rotated
out, is refused. Bytes in, records out: the time and the file accepted before are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError, OutdatedError, RolledBackError, TrustFileError
from packager.formats.dsse import decode, encode, encode_payload, read_items, read_members
from packager.records import dataclass
from packager.trust import model
from packager.trust.keys import PrivateKey, PublicKey, parse_public
from packager.trust.model import MAX_TRUST, Roots, Trust

PAYLOAD_TYPE = "application/vnd.packager.trust.v1+json"
MAX_FILE = 2 * MAX_TRUST  # bytes


@dataclass(frozen=True, slots=True)
class TrustFile:
    """A parsed trust file: its content, and unverified signatures by fingerprint."""

    trust: Trust
    payload: bytes
    signatures: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """Digest of the signed content, `sha256:…`."""
        return canonical.sha256(self.payload)

    @property
    def content(self) -> dict[str, JSON]:
        """The signed content as JSON."""
        value: dict[str, JSON] = canonical.load(self.payload, limit=MAX_TRUST)
        return value

    def to_bytes(self) -> bytes:
        """Return the file's bytes; signatures are sorted, so that the order of signing does not matter."""
        value = {
            "payload": encode(self.payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": k, "sig": encode(self.signatures[k])} for k in sorted(self.signatures)],
        }
        return canonical.dump(value) + b"\n"

    def signed_by(self, keys: Sequence[PublicKey]) -> int:
        """Return how many of `keys` made a valid signature over this content."""
        message = encode_payload(self.payload, PAYLOAD_TYPE)
        found = ((key, self.signatures.get(key.fingerprint)) for key in keys)
        return sum(signature is not None and key.signed(signature, message) for key, signature in found)


@dataclass(frozen=True, slots=True)
class AcceptedFile:
    """The record of the last trust file that was accepted under one name."""

    serial: int
    digest: str
    roots: Roots

    def to_json(self) -> JSON:
        keys = [key.pem.decode() for key in self.roots.keys]
        return {"serial": self.serial, "digest": self.digest, "roots": keys, "threshold": self.roots.threshold}

    @staticmethod
    def from_json(value: JSON) -> AcceptedFile:
        """Read what `to_json` wrote. Raises ValueError."""
        entry = read_members(value, "remembered trust file", "serial digest roots threshold")
        if not isinstance(entry["serial"], int) or not isinstance(entry["threshold"], int):
            raise ValueError("serial and threshold must be numbers")
        keys = tuple(parse_public(str(pem).encode()) for pem in read_items(entry["roots"], "root keys", 1, 32))
        return AcceptedFile(entry["serial"], str(entry["digest"]), Roots(keys, entry["threshold"]))


def parse(data: bytes, subject: str) -> TrustFile:
    """Read a trust file strictly, without verifying it. Raises MalformedError about `subject`."""
    try:
        value = read_members(canonical.load(data, limit=MAX_FILE), "trust file", "payload payloadType signatures")
        if value["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"expected payload type {PAYLOAD_TYPE}, got {value['payloadType']!s:.100}")
        rows = [
            read_members(row, "signature", "keyid sig") for row in read_items(value["signatures"], "signatures", 1, 32)
        ]
        signatures = {str(row["keyid"]): decode(row["sig"]) for row in rows}
        if len(signatures) != len(rows):
            raise ValueError("the same key signed twice")
        payload = decode(value["payload"])
        return TrustFile(model.parse(payload), payload, signatures)
    except ValueError as error:
        raise MalformedError(
            f"trust file `{subject}` is malformed: {error}",
            subject=subject,
            hint="`packager trust init` makes one; `packager schema trust` prints what its content may be",
        ) from None


def write(content: Mapping[str, JSON], signers: Sequence[PrivateKey]) -> TrustFile:
    """Make a trust file from its content. Raises ValueError if the content is not acceptable."""
    payload = canonical.dump(content)
    return add_signatures(TrustFile(model.parse(payload), payload, {}), signers)


def add_signatures(file: TrustFile, signers: Sequence[PrivateKey]) -> TrustFile:
    """Return the file with more signatures; a threshold above one is usually reached by several people."""
    message = encode_payload(file.payload, PAYLOAD_TYPE)
    added = {signer.public.fingerprint: signer.sign_bytes(message) for signer in signers}
    return TrustFile(file.trust, file.payload, {**file.signatures, **added})


def accept(file: TrustFile, before: AcceptedFile | None, now: datetime) -> Trust:
    """Return the trust that `file` states, if it may follow what was accepted `before`.

    Raises TrustFileError when too few root keys signed, RolledBackError for a lower serial or another file with the
    same one, OutdatedError when it expired.
    """
    new, label = file.trust, f"trust file `{file.trust.name}` (serial {file.trust.serial})"
    if before is not None and file.digest != before.digest and new.serial <= before.serial:
        raise RolledBackError(
            f"{label} is not newer than the one seen: expected a serial above {before.serial}",
            hint="fetch the current trust file from its maintainer",
        )
    for roots, whose in ((new.roots, "its own"), *(((before.roots, "the former"),) if before else ())):
        if (count := file.signed_by(roots.keys)) < roots.threshold:
            raise TrustFileError(
                f"{label} is not signed by enough of {whose} root keys: expected {roots.threshold}, got {count}",
                hint="holders of root keys add their signatures with `packager trust sign`",
            )
    if new.expires is not None and now > new.expires:
        raise OutdatedError(
            f"{label} expired: expected a time before {new.expires:%Y-%m-%dT%H:%M:%SZ}, got {now:%Y-%m-%dT%H:%M:%SZ}",
            hint="get the current one; if there is none, an attacker may be withholding it",
        )
    return new


def remember(file: TrustFile) -> AcceptedFile:
    """Return the record of an accepted file."""
    return AcceptedFile(file.trust.serial, file.digest, file.trust.roots)
