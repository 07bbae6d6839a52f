# SPDX-License-Identifier: Apache-2.0
"""Attacks on signatures of four kinds over a bundle, an image and a directory; every one has to be refused.

A cell is one kind of signature over one thing. Its attacks are documents (Sigstore bundles), and for a directory also
files, that a verifier who trusts exactly one signer must not accept. What a group of attacks needs of a verifier:

    envelope   the signature over the bytes
    signer     who signed, and whether that certificate may
    statement  what was signed: the type, and of which thing it is
    files      the files of a directory
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sigstore.dsse import Statement as Payload

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.formats import intoto
from packager.formats.intoto import Statement
from packager.trust import keys
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Trust
from packager.trust.signers import Signer, keyless
from packager.types import Blob, Tree
from tests.attacks.stage import CI, Stage, log_entry, material, rewrite_payload, stamp_rows
from tests.sigstore import Sigstore
from tests.support import pki

KINDS = ("key", "p384", "certificate", "keyless")
THINGS = ("bundle", "image", "directory")
GROUPS = ("envelope", "signer", "statement", "files")
FILES = {"model.onnx": b"graph", "weights/a.bin": bytes(1000), "weights/b.bin": bytes(999), "config.json": b"{}"}
OTHER_FILES = {**FILES, "model.onnx": b"another graph"}
IMAGE, OTHER_IMAGE = "1" * 64, "2" * 64
_OTHER_CI = CI.replace("/acme/", "/other/")


@dataclass(frozen=True)
class Case:
    """One attack, or with the name `sound` what has to be accepted. `files` lie in the directory, if it is one."""

    thing: str
    kind: str
    name: str
    group: str
    document: bytes
    files: Mapping[str, bytes]


@dataclass
class Makers:
    """Signers of every kind on one stage: those who are trusted, and others who nearly are."""

    stage: Stage
    folder: Path
    image: str = IMAGE

    def __post_init__(self) -> None:
        self.wide, self.wide_stranger = keys.generate_key("p384"), keys.generate_key("p384")

    @cached_property
    def other_instance(self) -> Sigstore:
        """Another Sigstore instance, which issues to the same names. Ended by `close`."""
        (self.folder / "other").mkdir()
        return Sigstore(self.folder / "other").__enter__()

    def close(self) -> None:
        if "other_instance" in self.__dict__:
            self.other_instance.__exit__(None, None, None)

    def trusted(self, kind: str) -> Signer:
        stage = self.stage
        if kind == "keyless":
            return replace(stage.identity(), statement=_unchecked)  # type: ignore[type-var]
        return {"key": stage.key, "p384": self.wide}.get(kind) or stage.certificate()

    def stranger(self, kind: str) -> Signer:
        """Return a signer of the same kind whom nothing trusts."""
        if kind == "keyless":
            return self.stage.identity(_OTHER_CI)
        if kind == "certificate":
            root = pki.root("Stranger")
            middle = root.issue("Stranger Signing", ca=True)
            return self.stage.certificate(middle.signer(), chain=[middle])
        return self.stage.stranger if kind == "key" else self.wide_stranger

    def trust(self, kind: str) -> Trust:
        """Return the trust in the one signer of this kind."""
        stage = self.stage
        corp = CertificateSigner(
            "corp", (stage.corp.certificate,), pki.EMAIL, intermediates=(stage.middle.certificate,)
        )
        signers = {
            "key": KeySigner("release", stage.key.public),
            "p384": KeySigner("wide", self.wide.public),
            "certificate": corp,
            "keyless": KeylessSigner("ci", CI, stage.instance.url, "local"),
        }
        return stage.trusting(signers=(signers[kind],), name=None, serial=0)

    def elsewhere(self) -> Signer:
        """Return the trusted name with a certificate of another instance."""
        other = self.other_instance
        token = other.token(CI).encode()
        return keyless.open_signer(str(other.trust_config), lambda: token)


def _unchecked(payload: bytes) -> Any:
    """Return a payload for the client to sign that it would refuse to read: an attacker's client signs anything."""
    statement = object.__new__(Payload)
    statement._contents = payload
    return statement


@dataclass
class Cell:
    """One kind of signature over one thing."""

    makers: Makers
    thing: str
    kind: str

    @cached_property
    def statement(self) -> Statement:
        return self._about(self.makers.stage.bundle, self.makers.image, FILES)

    @cached_property
    def of_another(self) -> Statement:
        return self._about(self.makers.stage.other, OTHER_IMAGE, OTHER_FILES)

    def _about(self, bundle: Bundle, image: str, files: Mapping[str, bytes]) -> Statement:
        if self.thing == "directory":
            blobs = {name: Blob(canonical.sha256(data), len(data)) for name, data in files.items()}
            return intoto.model_signing_statement("model", "1", Tree.of(blobs))
        if self.thing == "bundle":
            return self.makers.stage.statement(bundle)
        made = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
        digest = "sha256:" + "1" * 64
        about = {"bundle": made, "knobs": digest, "part": "server", "files": 1, "setDigest": digest}
        return Statement(intoto.IMAGE_PREDICATE, "image", image, about)

    def document(self, payload: bytes, signer: Signer | None = None) -> Any:
        """Return a payload, signed as this kind does, as JSON."""
        signed = (signer or self.makers.trusted(self.kind)).sign(payload)
        return json.loads(signed.to_bytes(chain=self.thing == "directory"))

    @cached_property
    def _sound(self) -> Any:
        return self.document(self.statement.to_bytes())

    @cached_property
    def _other(self) -> Any:
        return self.document(self.of_another.to_bytes())

    @property
    def sound(self) -> Any:
        return copy.deepcopy(self._sound)

    @property
    def other(self) -> Any:
        return copy.deepcopy(self._other)

    def signed(self, change: Callable[[Any], object]) -> Any:
        """Return the trusted signer's signature of a changed statement."""
        value = json.loads(self.statement.to_bytes())
        change(value)
        return self.document(canonical.dump(value))

    def by(self, signer: Signer) -> Any:
        return self.document(self.statement.to_bytes(), signer)

    def certified(self, holder: pki.Holder, chain: list[pki.Holder] | None = None) -> Any:
        return self.by(self.makers.stage.certificate(holder, chain))

    def cases(self) -> Iterator[Case]:
        """Yield what has to be accepted, then every attack."""
        yield self._case("sound", "envelope", self.sound, FILES)
        for group, attacks in _attacks(self).items():
            for name, attack in attacks.items():
                made = attack(self)
                document, files = made if isinstance(made, tuple) else (made, FILES)
                yield self._case(name, group, document, files)

    def _case(self, name: str, group: str, document: Any, files: Mapping[str, bytes]) -> Case:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Case(self.thing, self.kind, name, group, data, files)


Attack = Callable[[Cell], Any]


def _attacks(cell: Cell) -> dict[str, dict[str, Attack]]:
    groups = {"envelope": dict(_ENVELOPE), "signer": dict(_SIGNER), "statement": dict(_STATEMENT)}
    if cell.kind == "certificate":
        groups["signer"] |= _CERTIFICATE
    if cell.kind == "keyless":
        groups["signer"] |= _IDENTITY
        groups["envelope"] |= _LOG
    if cell.thing == "directory":
        groups["files"] = _FILES
    return groups


def changed(change: Callable[[Any], object]) -> Attack:
    """Return an attack that changes the sound document."""

    def attack(cell: Cell) -> Any:
        document = cell.sound
        change(document)
        return document

    return attack


def envelope(**values: Any) -> Attack:
    return changed(lambda document: document["dsseEnvelope"].update(values))


def signature(change: Callable[[bytes], bytes | str]) -> Attack:
    def bend(document: Any) -> None:
        (row,) = document["dsseEnvelope"]["signatures"]
        made = change(base64.b64decode(row["sig"]))
        row["sig"] = made if isinstance(made, str) else base64.b64encode(made).decode()

    return changed(bend)


def _rewritten(cell: Cell) -> Any:
    """A signature of another thing, its statement rewritten to this one."""
    document = cell.other
    document["dsseEnvelope"]["payload"] = base64.b64encode(cell.statement.to_bytes()).decode()
    return document


def _two_wrong(cell: Cell) -> Any:
    """The signer's signature of another statement, and a stranger's of this one: each half of what is needed."""
    document, stranger = cell.sound, cell.by(cell.makers.stranger(cell.kind))
    signatures = [part["dsseEnvelope"]["signatures"][0] for part in (cell.other, stranger)]
    document["dsseEnvelope"]["signatures"] = signatures
    return document


def _message(cell: Cell) -> Any:
    """The right signature as one over plain bytes."""
    document = cell.sound
    row = document.pop("dsseEnvelope")
    digest = base64.b64encode(bytes.fromhex(cell.statement.subject_sha256)).decode()
    document["messageSignature"] = {
        "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
        "signature": row["signatures"][0]["sig"],
    }
    return document


def _under_our_name(cell: Cell) -> Any:
    """A stranger's signature with the trusted signer's key or certificate."""
    document = cell.by(cell.makers.stranger(cell.kind))
    document["verificationMaterial"] = cell.sound["verificationMaterial"]
    return document


_ENVELOPE: dict[str, Attack] = {
    "statement-rewritten": _rewritten,
    "predicate-changed": changed(lambda d: rewrite_payload(d, lambda s: s["predicate"].update(more="x"))),
    "subject-name-changed": changed(lambda d: rewrite_payload(d, lambda s: s["subject"][0].update(name="x"))),
    "signature-bit": signature(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "signatures-of-others": _two_wrong,
    "signature-empty": signature(lambda data: ""),
    "signature-zeros": signature(lambda data: bytes.fromhex("3006020100020100")),
    "signature-cut": signature(lambda data: data[: len(data) // 2]),
    "signatures-none": envelope(signatures=[]),
    "payload-type-changed": envelope(payloadType="application/json"),
    "payload-empty": envelope(payload=""),
    "message-instead": _message,
    "document-cut": lambda cell: json.dumps(cell.sound).encode()[:-40],
    "no-document": lambda cell: b"\x89PNG\r\n",
    "unknown-version": changed(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v9.9+json")),
    "material-none": changed(lambda d: d.update(verificationMaterial={})),
}
_SIGNER: dict[str, Attack] = {
    "stranger": lambda cell: cell.by(cell.makers.stranger(cell.kind)),
    "stranger-under-the-name": _under_our_name,
}
_STATEMENT: dict[str, Attack] = {
    "of-another": lambda cell: cell.other,
    "subject-none": lambda cell: cell.signed(lambda s: s.update(subject=[])),
    "subject-of-another-digest": lambda cell: cell.signed(
        lambda s: s["subject"][0].update(digest={"sha512": cell.statement.subject_sha256})
    ),
    "another-type": lambda cell: cell.document(replace(cell.statement, predicate_type="urn:x:other").to_bytes()),
    "no-statement": lambda cell: cell.document(b'{"hello": "world"}'),
}
_FILES: dict[str, Attack] = {
    "file-changed": lambda cell: (cell.sound, {**FILES, "weights/a.bin": b"\1" + bytes(999)}),
    "file-longer": lambda cell: (cell.sound, {**FILES, "config.json": b"{} "}),
    "file-missing": lambda cell: (cell.sound, {n: d for n, d in FILES.items() if n != "weights/b.bin"}),
    "file-more": lambda cell: (cell.sound, {**FILES, "modeling.py": b"import os"}),
    "file-hidden": lambda cell: (cell.sound, {**FILES, ".config": b"x"}),
    "files-swapped": lambda cell: (
        cell.sound,
        {**FILES, "weights/a.bin": FILES["weights/b.bin"], "weights/b.bin": FILES["weights/a.bin"]},
    ),
    "file-renamed": lambda cell: (
        cell.sound,
        {("Config.json" if n == "config.json" else n): d for n, d in FILES.items()},
    ),
}


def _of_corp(**changes: Any) -> Attack:
    return lambda cell: cell.certified(cell.makers.stage.middle.signer(**changes))


def _named(name: str) -> Attack:
    return lambda cell: cell.certified(cell.makers.stage.middle.signer(names=[pki.x509.RFC822Name(name)]))


def _name_alike(cell: Cell) -> Any:
    fake = pki.root()
    middle = fake.issue("Corp Signing", ca=True)
    return cell.certified(middle.signer(), [middle])


def _below_leaf(cell: Cell) -> Any:
    stage = cell.makers.stage
    return cell.certified(stage.leaf.signer(), [stage.leaf, stage.middle])


_CERTIFICATE: dict[str, Attack] = {
    "certificate-expired": _of_corp(start=pki.NOW - 1000 * pki.DAY, end=pki.NOW - 900 * pki.DAY),
    "certificate-not-yet-valid": _of_corp(start=pki.NOW + 100 * pki.DAY, end=pki.NOW + 200 * pki.DAY),
    "certificate-for-servers": _of_corp(purposes=[pki.SERVER]),
    "certificate-of-a-colleague": _named("intern@corp.example"),
    "certificate-name-with-a-suffix": _named(f"{pki.EMAIL}.evil"),
    "certificate-without-names": _of_corp(names=[]),
    "root-of-the-same-name": _name_alike,
    "leaf-as-authority": _below_leaf,
}
_IDENTITY: dict[str, Attack] = {
    "identity-with-a-suffix": lambda cell: cell.by(cell.makers.stage.identity(CI + ".evil")),
    "identity-of-another-organisation": lambda cell: cell.by(
        cell.makers.stage.identity(CI.replace("/acme/", "/acme-evil/"))
    ),
    "identity-of-another-instance": lambda cell: cell.by(cell.makers.elsewhere()),
}


def _swapped_log(cell: Cell) -> Any:
    document = cell.sound
    material(document)["tlogEntries"] = material(cell.other)["tlogEntries"]
    return document


def _swapped_stamp(cell: Cell) -> Any:
    document = cell.sound
    stamp_rows(document)[:] = stamp_rows(cell.other)
    return document


def _bent_proof(document: Any) -> None:
    log_entry(document)["inclusionProof"]["hashes"] = [base64.b64encode(bytes(32)).decode()]


def _bent_checkpoint(document: Any) -> None:
    checkpoint = log_entry(document)["inclusionProof"]["checkpoint"]
    origin, size, _, *rest = checkpoint["envelope"].split("\n")
    checkpoint["envelope"] = "\n".join((origin, size, base64.b64encode(bytes(32)).decode(), *rest))


_LOG: dict[str, Attack] = {
    "log-entry-none": changed(lambda d: material(d).update(tlogEntries=[])),
    "log-entry-of-another": _swapped_log,
    "log-proof-changed": changed(_bent_proof),
    "log-checkpoint-changed": changed(_bent_checkpoint),
    "stamp-none": changed(lambda d: material(d).pop("timestampVerificationData")),
    "stamp-of-another": _swapped_stamp,
}
