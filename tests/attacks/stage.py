# SPDX-License-Identifier: Apache-2.0
"""Where attacks happen: signers of every kind whom a verifier trusts, and tools to bend what they made."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from packager import canonical
from packager.bundle.bundle import Bundle, open_bundle
from packager.bundle.readers import blob_path
from packager.formats import dsse, intoto
from packager.formats.dsse import Certificates, SignedStatement
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys, timestamps
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Trust
from packager.trust.seen import NOTHING, Seen
from packager.trust.signers import Signer, keyless
from tests.sigstore import Sigstore
from tests.support import bundles, pki
from tests.support.tampering import no_store

CI = "https://git.example/acme/models/.ci/release.yml@refs/tags/v1"
JSON = Any


@dataclass(frozen=True)
class Attempt:
    """What a verifier is shown, and what it believes."""

    show: Callable[[], Bundle]
    trust: Trust
    now: dt.datetime
    seen: Seen = NOTHING


@dataclass
class CertificateKey:
    """Signs with a certificate and stamps through an authority, neither of which has to be sound."""

    holder: pki.Holder
    chain: Sequence[pki.Holder]
    stamp: Callable[[bytes], Sequence[bytes]]

    def sign(self, payload: bytes) -> SignedStatement:
        key = self.holder.key
        algorithm = hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
        signature = key.sign(dsse.encode_payload(payload), ec.ECDSA(algorithm))
        chain = (self.holder.der, *(item.der for item in self.chain))
        return SignedStatement(payload, signature, Certificates(chain, tuple(self.stamp(signature))))


@dataclass
class Stage:
    """Everything there is. `folder` is for what lasts, each attack gets a fresh one of its own."""

    folder: Path
    instance: Sigstore
    key: keys.PrivateKey = field(default_factory=lambda: keys.generate_key("p256"))
    stranger: keys.PrivateKey = field(default_factory=lambda: keys.generate_key("p256"))
    corp: pki.Holder = field(default_factory=pki.root)
    rootkey: keys.PrivateKey = field(default_factory=lambda: keys.generate_key("p256"))

    def __post_init__(self) -> None:
        self.middle = self.corp.issue("Corp Signing", ca=True, start=pki.NOW - 3000 * pki.DAY)
        self.leaf = self.middle.signer()
        self._identities: dict[str, Signer] = {}
        self._count = 0
        self.bundle = self.make()
        self.other = self.make(version="1.0.1", files={"model/model.onnx": b"another graph"})

    # what is made

    def make(self, *, version: str = "1.0.0", files: dict[str, bytes] | None = None) -> Bundle:
        return bundles.make(Store(self.folder / "store"), files, version=version)

    def stamps(self, signature: bytes) -> list[bytes]:
        """Return a sound time stamp over a signature."""
        self._count += 1
        return [self.instance.stamp(timestamps.encode_request(signature, self._count))]

    def certificate(
        self,
        holder: pki.Holder | None = None,
        chain: Sequence[pki.Holder] | None = None,
        stamp: Callable[[bytes], Sequence[bytes]] | None = None,
    ) -> CertificateKey:
        return CertificateKey(holder or self.leaf, [self.middle] if chain is None else chain, stamp or self.stamps)

    def identity(self, who: str = CI) -> Signer:
        """Return a signer with a certificate of the instance."""
        if who not in self._identities:
            token = self.instance.token(who).encode()
            self._identities[who] = keyless.open_signer(str(self.instance.trust_config), lambda: token)
        return self._identities[who]

    # what is believed

    def trusting(self, **changes: object) -> Trust:
        """Return a trust in the key, the corporation's release address and the CI identity, as one trust file says."""
        believed = Trust(
            (
                KeySigner("release", self.key.public),
                CertificateSigner("corp", (self.corp.certificate,), pki.EMAIL),
                KeylessSigner("ci", CI, self.instance.url, "local"),
            ),
            name="acme",
            serial=3,
            expires=self.now + 30 * pki.DAY,
            timestamping=(self.instance.stamping[1].certificate,),
            instances={"local": self.instance.trusted_root.read_bytes()},
        )
        return replace(believed, **changes)  # type: ignore[arg-type]

    @property
    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    # what is shown

    def attempt(self, bundle: Bundle, folder: Path, believed: Trust | None = None, seen: Seen = NOTHING) -> Attempt:
        """Publish `bundle` as a layout, and let it be judged."""
        copy.save(bundle, folder / "layout")
        return self.shown(folder / "layout", believed, seen)

    def shown(self, path: Path, believed: Trust | None = None, seen: Seen = NOTHING) -> Attempt:
        return Attempt(lambda: open_bundle(str(path), no_store), believed or self.trusting(), self.now, seen)

    def certified(self, folder: Path, holder: pki.Holder | None = None, **rest: Any) -> Attempt:
        """Publish the bundle signed with a certificate that need not be sound."""
        return self.attempt(self.signed(self.certificate(holder, **rest)), folder)

    def signed(self, signer: Signer | None = None, bundle: Bundle | None = None) -> Bundle:
        return sign(bundle or self.bundle, signer or self.key)

    def with_documents(self, bundle: Bundle, documents: Iterable[bytes]) -> Bundle:
        """Attach signature files as they are, and the certificate that those of a certificate need."""
        for document in documents:
            bundle = bundle.with_statement(document, "any")
        return bundle.with_certificates(self.middle.pem)

    def bent(self, change: Callable[[JSON], object], signer: Signer | None = None) -> Bundle:
        """Sign soundly, then change the signature file of the statement about the manifest."""
        document = json.loads(self.document(signer or self.key))
        changed = change(document)
        data = changed if isinstance(changed, bytes) else json.dumps(document).encode()
        return self.with_documents(self.bundle, [data])

    def document(self, signer: Signer, bundle: Bundle | None = None) -> bytes:
        """Return a sound signature file about a manifest."""
        return signer.sign(self.statement(bundle or self.bundle).to_bytes()).to_bytes()

    def statement(self, bundle: Bundle) -> intoto.Statement:
        return intoto.bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree)

    def stated(self, *payloads: bytes) -> Bundle:
        """Let the trusted key sign any payloads."""
        return self.with_documents(self.bundle, [self.key.sign(payload).to_bytes() for payload in payloads])

    def rewritten(self, folder: Path, change: Callable[[JSON], object], *, follow: bool = False) -> Attempt:
        """Publish a signed layout whose manifest was rewritten; with `follow` the signatures point at the new one."""
        copy.save(self.signed(), folder / "layout")
        layout = folder / "layout"
        index = json.loads((layout / "index.json").read_bytes())
        manifest = json.loads((layout / blob_path(self.bundle.digest)).read_bytes())
        changed = change(manifest)
        data = changed if isinstance(changed, bytes) else json.dumps(manifest).encode()
        digest = put(layout, data)
        index["manifests"][0] |= {"digest": digest, "size": len(data)}
        if follow:
            for row in index["manifests"][1:-1]:
                attached = json.loads((layout / blob_path(row["digest"])).read_bytes())
                attached["subject"] |= {"digest": digest, "size": len(data)}
                content = canonical.dump(attached)
                row |= {"digest": put(layout, content), "size": len(content)}
        index["manifests"] = index["manifests"][:-1]
        (layout / "index.json").write_bytes(json.dumps(index).encode())
        return self.shown(layout)


def put(layout: Path, data: bytes) -> str:
    """Add a blob to a layout and return its digest."""
    digest = canonical.sha256(data)
    (layout / blob_path(digest)).write_bytes(data)
    return digest


def material(document: JSON) -> JSON:
    return document["verificationMaterial"]


def stamp_rows(document: JSON) -> list[JSON]:
    rows: list[JSON] = material(document)["timestampVerificationData"]["rfc3161Timestamps"]
    return rows


def log_entry(document: JSON) -> JSON:
    return material(document)["tlogEntries"][0]


def rewrite_payload(document: JSON, change: Callable[[JSON], object]) -> None:
    """Change the statement inside a signature file without signing it again."""
    payload = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    change(payload)
    document["dsseEnvelope"]["payload"] = base64.b64encode(canonical.dump(payload)).decode()
