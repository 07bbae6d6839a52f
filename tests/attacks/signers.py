# SPDX-License-Identifier: Apache-2.0
"""Who signed: certificates and identities that are nearly the trusted ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa

from packager.errors import (
    BadSignatureError,
    UnfitCertificateError,
    UntrustedSignerError,
)
from packager.formats import dsse
from tests.attacks.registry import fails_with, variants
from tests.attacks.stage import CI, Attempt, Stage, material
from tests.sigstore import Sigstore
from tests.support import pki

# who: enterprise certificates


variants(
    UnfitCertificateError,
    "The certificate was not valid when it signed.",
    certificate_expired=lambda stage, folder: stage.certified(
        folder, stage.middle.signer(start=pki.NOW - 1000 * pki.DAY, end=pki.NOW - 900 * pki.DAY)
    ),
    certificate_not_yet_valid=lambda stage, folder: stage.certified(
        folder, stage.middle.signer(start=pki.NOW + 100 * pki.DAY, end=pki.NOW + 200 * pki.DAY)
    ),
)
variants(
    UnfitCertificateError,
    "The authority issued it for something else.",
    certificate_without_purpose=lambda stage, folder: stage.certified(folder, stage.middle.signer(purposes=[])),
    certificate_for_servers=lambda stage, folder: stage.certified(folder, stage.middle.signer(purposes=[pki.SERVER])),
    certificate_not_for_signatures=lambda stage, folder: stage.certified(folder, stage.middle.signer(signs=False)),
    authority_signs_itself=lambda stage, folder: stage.certified(folder, stage.middle.signer(ca=True)),
)
variants(
    UntrustedSignerError,
    "The name must be exactly the trusted one; prefixes, other cases and look-alikes are other people.",
    certificate_of_a_colleague=lambda stage, folder: stage.certified(
        folder, stage.middle.signer(names=[x509.RFC822Name("intern@corp.example")])
    ),
    look_alike_suffix=lambda stage, folder: stage.certified(
        folder, stage.middle.signer(names=[x509.RFC822Name(f"{pki.EMAIL}.evil")])
    ),
    look_alike_case=lambda stage, folder: stage.certified(
        folder, stage.middle.signer(names=[x509.RFC822Name("Release@corp.example")])
    ),
    certificate_without_names=lambda stage, folder: stage.certified(folder, stage.middle.signer(names=[])),
)


@fails_with(UntrustedSignerError)
def name_alike_root(stage: Stage, folder: Path) -> Attempt:
    """A root that only has the same name is another root."""
    fake = pki.root()
    return stage.certified(folder, fake.signer(), chain=[fake])


@fails_with(UntrustedSignerError)
def leaf_as_authority(stage: Stage, folder: Path) -> Attempt:
    """A release certificate does not issue others."""
    return stage.certified(folder, stage.leaf.signer(), chain=[stage.leaf, stage.middle])


@fails_with(UntrustedSignerError)
def chain_too_long(stage: Stage, folder: Path) -> Attempt:
    """The authority may not have authorities below it."""
    short = stage.corp.issue("Short", ca=True, length=0)
    below = short.issue("Below", ca=True)
    return stage.certified(folder, below.signer(), chain=[below, short])


@fails_with(UntrustedSignerError)
def authority_for_servers_only(stage: Stage, folder: Path) -> Attempt:
    """An authority that may only issue server certificates cannot make a signer."""
    web = stage.corp.issue("Web", ca=True, purposes=[pki.SERVER])
    return stage.certified(folder, web.signer(), chain=[web])


@fails_with(BadSignatureError)
def certificate_of_another_key(stage: Stage, folder: Path) -> Attempt:
    """Anybody can attach a certificate; its key must have signed."""
    document = json.loads(stage.document(stage.certificate(stage.middle.signer(), stamp=lambda s: [])))
    material(document)["certificate"]["rawBytes"] = base64.b64encode(stage.leaf.der).decode()
    return stage.attempt(stage.with_documents(stage.bundle, [json.dumps(document).encode()]), folder)


def _foreign_key(stage: Stage, folder: Path, key: object, sign: Callable[[bytes], bytes]) -> Attempt:
    builder = x509.CertificateBuilder(
        stage.middle.certificate.subject,
        pki.name("Release"),
        key,
        7,
        pki.NOW - pki.DAY,
        pki.NOW + pki.DAY,  # type: ignore[arg-type]
    ).add_extension(x509.SubjectAlternativeName([x509.RFC822Name(pki.EMAIL)]), False)
    der = builder.sign(stage.middle.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    payload = stage.statement(stage.bundle).to_bytes()
    signature = sign(dsse.encode_payload(payload))
    chain = dsse.Certificates((der, stage.middle.der), tuple(stage.stamps(signature)))
    return stage.attempt(
        stage.with_documents(stage.bundle, [dsse.SignedStatement(payload, signature, chain).to_bytes()]), folder
    )


def _rsa(stage: Stage, folder: Path) -> Attempt:
    key = rsa.generate_private_key(65537, 1024)
    return _foreign_key(stage, folder, key.public_key(), lambda m: key.sign(m, padding.PKCS1v15(), hashes.SHA256()))


def _ed448(stage: Stage, folder: Path) -> Attempt:
    key = ed448.Ed448PrivateKey.generate()
    return _foreign_key(stage, folder, key.public_key(), key.sign)


def _p192(stage: Stage, folder: Path) -> Attempt:
    key = ec.generate_private_key(ec.SECP192R1())
    return _foreign_key(stage, folder, key.public_key(), lambda m: key.sign(m, ec.ECDSA(hashes.SHA256())))


variants(
    UnfitCertificateError,
    "Keys are ECDSA on P-256 or P-384; weaker and other kinds do not sign here.",
    weak_rsa_key=_rsa,
    unsupported_kind_of_key=_ed448,
    weak_curve=_p192,
)


# who: identities


@fails_with(UntrustedSignerError)
def identity_with_a_suffix(stage: Stage, folder: Path) -> Attempt:
    """`…/v1.evil` is not `…/v1`."""
    return stage.attempt(stage.signed(stage.identity(CI + ".evil")), folder)


@fails_with(UntrustedSignerError)
def identity_of_another_organisation(stage: Stage, folder: Path) -> Attempt:
    """`acme-evil` is not `acme`."""
    return stage.attempt(stage.signed(stage.identity(CI.replace("/acme/", "/acme-evil/"))), folder)


@fails_with(UntrustedSignerError)
def identity_of_another_issuer(stage: Stage, folder: Path) -> Attempt:
    """The same subject at another issuer is another identity."""
    ci = stage.trusting().signers[2]
    return stage.attempt(
        stage.signed(stage.identity()),
        folder,
        stage.trusting(signers=(replace(ci, issuer="https://accounts.example"),)),
    )


@fails_with(UnfitCertificateError)
def identity_of_another_instance(stage: Stage, folder: Path) -> Attempt:
    """An instance that issues to the same names, but is not the pinned one, has no say."""
    (folder / "other").mkdir()
    with Sigstore(folder / "other") as other:
        root = other.trusted_root.read_bytes()
    value = json.loads(root)
    value["timestampAuthorities"] = json.loads(stage.instance.trusted_root.read_bytes())["timestampAuthorities"]
    believed = stage.trusting(instances={"local": json.dumps(value).encode()})
    return stage.attempt(stage.signed(stage.identity()), folder, believed)
