# SPDX-License-Identifier: Apache-2.0
"""Every attack on signatures, trust and manifests that docs/security.md lists: what is shown, and why it must fail.

Each function makes one hostile situation in a fresh folder; its docstring says why it must fail, its decorator with
which type of error. `python -m tests.attacks.hostile FOLDER` writes all of them out, to try other verifiers on them.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from packager import canonical, keys, timestamps, transport, trustedit, trustfile
from packager.errors import (
    BadSignature,
    ForbiddenFormat,
    Malformed,
    MissingStatement,
    PackagerError,
    Revoked,
    RolledBack,
    Stale,
    TooLarge,
    TrustFileError,
    UnfitCertificate,
    Unsigned,
    UntrustedSigner,
    UntrustedTime,
    WrongContent,
    WrongSubject,
)
from packager.formats import dsse, intoto
from packager.media import blob_path
from packager.seen import NOTHING
from packager.trust import Requirement
from packager.trust import Revoked as RevokedList
from packager.trustfile import Remembered, TrustFile
from packager.types import Tree
from tests import pki
from tests.attacks.stage import CI, JSON, Attempt, Stage, log_entry, material, put, rewrite_payload, stamp_rows
from tests.sigstore import Sigstore
from tests.sigstore.stamping import StampingAuthority, crafted


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    error: type[PackagerError]
    make: Callable[[Stage, Path], Attempt]

    @property
    def why(self) -> str:
        return (self.make.__doc__ or "").strip()


ATTACKS: dict[str, Attack] = {}


def fails_with(
    error: type[PackagerError],
) -> Callable[[Callable[[Stage, Path], Attempt]], Callable[[Stage, Path], Attempt]]:
    def register(make: Callable[[Stage, Path], Attempt]) -> Callable[[Stage, Path], Attempt]:
        ATTACKS[make.__name__] = Attack(make.__name__, error, make)
        return make

    return register


def variants(error: type[PackagerError], why: str, **changes: Callable[[Stage, Path], Attempt]) -> None:
    """Register several attacks that differ in one value only."""
    for name, make in changes.items():
        make.__name__, make.__doc__ = name, why
        fails_with(error)(make)


# stripping and downgrade


@fails_with(Unsigned)
def unsigned(stage: Stage, folder: Path) -> Attempt:
    """Nobody vouches for it."""
    return stage.attempt(stage.bundle, folder)


@fails_with(Unsigned)
def stripped(stage: Stage, folder: Path) -> Attempt:
    """The signatures were removed from the index: absence proves nothing."""
    transport.save(stage.signed(), folder / "layout")
    path = folder / "layout/index.json"
    index = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**index, "manifests": index["manifests"][:1]}).encode())
    return stage.shown(folder / "layout")


@fails_with(MissingStatement)
def only_the_interoperable_statement(stage: Stage, folder: Path) -> Attempt:
    """Downgrade: an OMS statement's subject does not bind file names, so it cannot stand for the bundle statement."""
    statement = intoto.model_signing_statement(stage.bundle.name, stage.bundle.version, stage.bundle.tree)
    return stage.attempt(stage.stated(statement.to_bytes()), folder)


def _predicate(stage: Stage, predicate_type: str) -> bytes:
    return replace(stage.statement(stage.bundle), predicate_type=predicate_type).to_bytes()


@fails_with(MissingStatement)
def predicate_of_an_older_version(stage: Stage, folder: Path) -> Attempt:
    """Downgrade: a statement of another version may mean something else."""
    return stage.attempt(stage.stated(_predicate(stage, "urn:packager:bundle:v0.1")), folder)


@fails_with(MissingStatement)
def predicate_nobody_knows(stage: Stage, folder: Path) -> Attempt:
    """A signed statement of an unknown kind says nothing about trust."""
    return stage.attempt(stage.stated(_predicate(stage, "https://evil.example/v1")), folder)


@fails_with(MissingStatement)
def required_statement_missing(stage: Stage, folder: Path) -> Attempt:
    """The trust file asks for a scan result, and there is none."""
    required = (*stage.trusting().required, Requirement("https://scans.example/v1"))
    return stage.attempt(stage.signed(), folder, stage.trusting(required=required))


@fails_with(MissingStatement)
def required_statement_by_the_wrong_signer(stage: Stage, folder: Path) -> Attempt:
    """The release key may sign bundles, but the scan result must be the CI's."""
    required = (*stage.trusting().required, Requirement("https://scans.example/v1", frozenset({"ci"})))
    scan = _predicate(stage, "https://scans.example/v1")
    return stage.attempt(
        stage.stated(scan, stage.statement(stage.bundle).to_bytes()), folder, stage.trusting(required=required)
    )


@fails_with(MissingStatement)
def required_statement_says_no(stage: Stage, folder: Path) -> Attempt:
    """A verification summary that FAILED does not become a pass by being signed."""
    kind = "https://slsa.dev/verification_summary/v1"
    said = replace(stage.statement(stage.bundle), predicate_type=kind, predicate={"verificationResult": "FAILED"})
    required = (*stage.trusting().required, Requirement(kind, predicate={"verificationResult": "PASSED"}))
    return stage.attempt(
        stage.stated(said.to_bytes(), stage.statement(stage.bundle).to_bytes()),
        folder,
        stage.trusting(required=required),
    )


def _bent(change: Callable[[JSON], object]) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.attempt(stage.bent(change), folder)


variants(
    Malformed,
    "Downgrade: a bundle of another version has other rules.",
    media_type_v01=_bent(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1")),
    media_type_v04=_bent(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json")),
)
variants(
    Malformed,
    "The type of the payload is signed; another type is read by other rules.",
    payload_type_changed=_bent(lambda d: d["dsseEnvelope"].update(payloadType="application/json")),
)


@fails_with(BadSignature)
def algorithm_downgraded(stage: Stage, folder: Path) -> Attempt:
    """SHA-1 under a P-256 signature: the key fixes the algorithm, nothing in the file chooses it."""

    def weaken(document: JSON) -> None:
        payload = base64.b64decode(document["dsseEnvelope"]["payload"])
        weak = stage.key.key.sign(dsse.pae(payload), ec.ECDSA(hashes.SHA1()))
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(weak).decode()

    return stage.attempt(stage.bent(weaken), folder)


@fails_with(BadSignature)
def old_encoding_signed(stage: Stage, folder: Path) -> Attempt:
    """The faulty encoding that early tools signed is ambiguous; nothing falls back to it."""

    def old(document: JSON) -> None:
        payload = base64.b64decode(document["dsseEnvelope"]["payload"])
        text = f"DSSEV1 {len(dsse.IN_TOTO)} {dsse.IN_TOTO} {len(payload)} {payload!r}".encode()
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(stage.key.sign_bytes(text)).decode()

    return stage.attempt(stage.bent(old), folder)


# envelopes

variants(
    Malformed,
    "There is exactly one signature in an envelope.",
    no_signature_in_the_envelope=_bent(lambda d: d["dsseEnvelope"].update(signatures=[])),
    two_signatures_in_the_envelope=_bent(
        lambda d: d["dsseEnvelope"].update(signatures=[{"sig": "AAAA", "keyid": ""}, *d["dsseEnvelope"]["signatures"]])
    ),
)
variants(
    Malformed,
    "An unknown field may be critical to whoever wrote it.",
    unknown_field=_bent(lambda d: d.update(extra=1)),
    unknown_field_in_the_material=_bent(lambda d: material(d).update(extra=1)),
)
variants(
    Malformed,
    "Two readers of this JSON may read two things.",
    duplicate_key_in_a_signature=_bent(lambda d: json.dumps(d).encode().replace(b"{", b'{"mediaType":"x",', 1)),
    nan_in_a_signature=_bent(lambda d: json.dumps(d).encode().replace(b'"tlogEntries": []', b'"tlogEntries": [NaN]')),
    deep_nesting_in_a_signature=_bent(lambda d: b"[" * 10_000 + b"]" * 10_000),
)
variants(
    BadSignature,
    "The payload is not what was signed.",
    payload_changed=_bent(lambda d: rewrite_payload(d, lambda p: p["predicate"].update(version="9.9.9"))),
)


@fails_with(BadSignature)
def two_statements_the_first_bad(stage: Stage, folder: Path) -> Attempt:
    """A forgery in a trusted name ends everything, even beside a sound signature."""
    sound = stage.document(stage.key)
    forged = json.loads(sound)
    rewrite_payload(forged, lambda p: p["subject"][0].update(name="first"))
    bundle = stage.with_documents(stage.bundle, [json.dumps(forged).encode(), sound])
    return stage.attempt(bundle, folder)


@fails_with(UntrustedSigner)
def signed_by_a_stranger(stage: Stage, folder: Path) -> Attempt:
    """The signature is sound, and of nobody trusted."""
    return stage.attempt(stage.signed(stage.stranger), folder)


@fails_with(BadSignature)
def hint_of_a_trusted_key(stage: Stage, folder: Path) -> Attempt:
    """A stranger who claims to be the trusted key is a forger."""
    document = json.loads(stage.document(stage.stranger))
    material(document)["publicKey"]["hint"] = stage.key.public.fingerprint
    return stage.attempt(stage.with_documents(stage.bundle, [json.dumps(document).encode()]), folder)


# about what


@fails_with(WrongSubject)
def signature_of_another_bundle(stage: Stage, folder: Path) -> Attempt:
    """Swap: a sound signature, moved to another bundle."""
    document = stage.document(stage.key, stage.other)
    return stage.attempt(stage.with_documents(stage.bundle, [document]), folder)


@fails_with(WrongSubject)
def right_name_wrong_digest(stage: Stage, folder: Path) -> Attempt:
    """The name is not the identity; the digest is."""
    return stage.attempt(
        stage.stated(replace(stage.statement(stage.bundle), subject_sha256="0" * 64).to_bytes()), folder
    )


@fails_with(WrongSubject)
def attestation_of_another_bundle(stage: Stage, folder: Path) -> Attempt:
    """Swap: the scan result of a harmless bundle, beside a sound signature."""
    said = replace(stage.statement(stage.other), predicate_type="https://scans.example/v1").to_bytes()
    return stage.attempt(stage.stated(stage.statement(stage.bundle).to_bytes(), said), folder)


def _model_signing(stage: Stage, folder: Path, change: Callable[[JSON], object]) -> Attempt:
    statement = intoto.model_signing_statement(stage.bundle.name, stage.bundle.version, stage.bundle.tree)
    change(statement.predicate)
    return stage.attempt(stage.stated(stage.statement(stage.bundle).to_bytes(), statement.to_bytes()), folder)


variants(
    WrongSubject,
    "An ignored path is a place to put files that nobody signed.",
    ignored_paths_swallow_files=lambda stage, folder: _model_signing(
        stage, folder, lambda p: p["serialization"].update(ignore_paths=["model", "*.onnx", "../"])
    ),
)
variants(
    WrongSubject,
    "A link can lead anywhere after it was signed.",
    links_allowed=lambda stage, folder: _model_signing(
        stage, folder, lambda p: p["serialization"].update(allow_symlinks=True)
    ),
)


@fails_with(WrongSubject)
def same_bytes_under_other_names(stage: Stage, folder: Path) -> Attempt:
    """OMS root digests do not bind names; the same contents as `payload.txt` and `model.onnx` are another bundle."""
    one = stage.make(files={"a.txt": b"first", "b.txt": b"second"})
    two = stage.make(files={"a.txt": b"second", "b.txt": b"first"})
    return stage.attempt(stage.with_documents(two, [stage.document(stage.key, one)]), folder)


# who: enterprise certificates


def _certificate(stage: Stage, folder: Path, holder: pki.Holder | None = None, **rest: object) -> Attempt:
    return stage.attempt(stage.signed(stage.certificate(holder, **rest)), folder)  # type: ignore[arg-type]


variants(
    UnfitCertificate,
    "The certificate was not valid when it signed.",
    certificate_expired=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(start=pki.NOW - 1000 * pki.DAY, end=pki.NOW - 900 * pki.DAY)
    ),
    certificate_not_yet_valid=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(start=pki.NOW + 100 * pki.DAY, end=pki.NOW + 200 * pki.DAY)
    ),
)
variants(
    UnfitCertificate,
    "The authority issued it for something else.",
    certificate_without_purpose=lambda stage, folder: _certificate(stage, folder, stage.middle.signer(purposes=[])),
    certificate_for_servers=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(purposes=[pki.SERVER])
    ),
    certificate_not_for_signatures=lambda stage, folder: _certificate(stage, folder, stage.middle.signer(signs=False)),
    authority_signs_itself=lambda stage, folder: _certificate(stage, folder, stage.middle.signer(ca=True)),
)
variants(
    UntrustedSigner,
    "The name must be exactly the trusted one; prefixes, other cases and look-alikes are other people.",
    certificate_of_a_colleague=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(names=[x509.RFC822Name("intern@corp.example")])
    ),
    look_alike_suffix=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(names=[x509.RFC822Name(f"{pki.EMAIL}.evil")])
    ),
    look_alike_case=lambda stage, folder: _certificate(
        stage, folder, stage.middle.signer(names=[x509.RFC822Name("Release@corp.example")])
    ),
    certificate_without_names=lambda stage, folder: _certificate(stage, folder, stage.middle.signer(names=[])),
)


@fails_with(UntrustedSigner)
def name_alike_root(stage: Stage, folder: Path) -> Attempt:
    """A root that only has the same name is another root."""
    fake = pki.root()
    return _certificate(stage, folder, fake.signer(), chain=[fake])


@fails_with(UntrustedSigner)
def leaf_as_authority(stage: Stage, folder: Path) -> Attempt:
    """A release certificate does not issue others."""
    return _certificate(stage, folder, stage.leaf.signer(), chain=[stage.leaf, stage.middle])


@fails_with(UntrustedSigner)
def chain_too_long(stage: Stage, folder: Path) -> Attempt:
    """The authority may not have authorities below it."""
    short = stage.corp.issue("Short", ca=True, length=0)
    below = short.issue("Below", ca=True)
    return _certificate(stage, folder, below.signer(), chain=[below, short])


@fails_with(UntrustedSigner)
def authority_for_servers_only(stage: Stage, folder: Path) -> Attempt:
    """An authority that may only issue server certificates cannot make a signer."""
    web = stage.corp.issue("Web", ca=True, purposes=[pki.SERVER])
    return _certificate(stage, folder, web.signer(), chain=[web])


@fails_with(BadSignature)
def certificate_of_another_key(stage: Stage, folder: Path) -> Attempt:
    """Anybody can attach a certificate; its key must have signed."""
    document = json.loads(stage.document(stage.certificate(stage.middle.signer(), stamp=lambda s: [])))
    material(document)["x509CertificateChain"]["certificates"][0]["rawBytes"] = base64.b64encode(
        stage.leaf.der
    ).decode()
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
    signature = sign(dsse.pae(payload))
    chain = dsse.Certificates((der, stage.middle.der), tuple(stage.stamps(signature)))
    return stage.attempt(
        stage.with_documents(stage.bundle, [dsse.SignedStatement(payload, signature, chain).to_bytes()]), folder
    )


def _rsa(stage: Stage, folder: Path) -> Attempt:
    from cryptography.hazmat.primitives.asymmetric import padding

    key = rsa.generate_private_key(65537, 1024)
    return _foreign_key(stage, folder, key.public_key(), lambda m: key.sign(m, padding.PKCS1v15(), hashes.SHA256()))


def _ed448(stage: Stage, folder: Path) -> Attempt:
    key = ed448.Ed448PrivateKey.generate()
    return _foreign_key(stage, folder, key.public_key(), key.sign)


def _p192(stage: Stage, folder: Path) -> Attempt:
    key = ec.generate_private_key(ec.SECP192R1())
    return _foreign_key(stage, folder, key.public_key(), lambda m: key.sign(m, ec.ECDSA(hashes.SHA256())))


variants(
    UnfitCertificate,
    "Keys are ECDSA on P-256 or P-384; weaker and other kinds do not sign here.",
    weak_rsa_key=_rsa,
    unsupported_kind_of_key=_ed448,
    weak_curve=_p192,
)


# who: identities


@fails_with(UntrustedSigner)
def identity_with_a_suffix(stage: Stage, folder: Path) -> Attempt:
    """`…/v1.evil` is not `…/v1`."""
    return stage.attempt(stage.signed(stage.identity(CI + ".evil")), folder)


@fails_with(UntrustedSigner)
def identity_of_another_organisation(stage: Stage, folder: Path) -> Attempt:
    """`acme-evil` is not `acme`."""
    return stage.attempt(stage.signed(stage.identity(CI.replace("/acme/", "/acme-evil/"))), folder)


@fails_with(UntrustedSigner)
def identity_of_another_issuer(stage: Stage, folder: Path) -> Attempt:
    """The same subject at another issuer is somebody else."""
    ci = stage.trusting().signers[2]
    return stage.attempt(
        stage.signed(stage.identity()),
        folder,
        stage.trusting(signers=(replace(ci, issuer="https://accounts.example"),)),
    )


@fails_with(UnfitCertificate)
def identity_of_another_instance(stage: Stage, folder: Path) -> Attempt:
    """An instance that issues to the same names, but is not the pinned one, has no say."""
    (folder / "other").mkdir()
    with Sigstore(folder / "other") as other:
        root = other.trusted_root.read_bytes()
    value = json.loads(root)
    value["timestampAuthorities"] = json.loads(stage.instance.trusted_root.read_bytes())["timestampAuthorities"]
    believed = stage.trusting(instances={"local": json.dumps(value).encode()})
    return stage.attempt(stage.signed(stage.identity()), folder, believed)


# when


def _without_stamps(document: JSON) -> None:
    stamp_rows(document).clear()


def _stamped_again(stage: Stage, folder: Path, change: Callable[[JSON], object], *, kind: str = "identity") -> Attempt:
    signer = stage.identity() if kind == "identity" else stage.certificate()
    return stage.attempt(stage.bent(change, signer), folder)


variants(
    UntrustedTime,
    "Without a time stamp nobody says that the certificate was valid when it signed.",
    certificate_without_a_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, _without_stamps, kind="certificate"
    ),
    identity_without_a_time_stamp=lambda stage, folder: _stamped_again(stage, folder, _without_stamps),
)
variants(
    Malformed,
    "The same time stamp twice pretends to be two authorities.",
    certificate_with_a_duplicate_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, lambda d: stamp_rows(d).append(stamp_rows(d)[0]), kind="certificate"
    ),
    identity_with_a_duplicate_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, lambda d: stamp_rows(d).append(stamp_rows(d)[0])
    ),
)


@fails_with(Malformed)
def too_many_time_stamps(stage: Stage, folder: Path) -> Attempt:
    """Thirty-three time stamps are work for the verifier, not proof."""

    def many(document: JSON) -> None:
        rows = stamp_rows(document)
        rows += [{"signedTimestamp": base64.b64encode(bytes([number])).decode()} for number in range(32)]

    return _stamped_again(stage, folder, many)


def _stamp_of_another(stage: Stage) -> Callable[[JSON], object]:
    row = {"signedTimestamp": base64.b64encode(stage.stamps(b"another signature")[0]).decode()}
    return lambda document: stamp_rows(document).__setitem__(slice(None), [row])


variants(
    BadSignature,
    "The time stamp is about another signature.",
    certificate_with_a_foreign_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, _stamp_of_another(stage), kind="certificate"
    ),
    identity_with_a_foreign_time_stamp=lambda stage, folder: _stamped_again(stage, folder, _stamp_of_another(stage)),
)


def _stamped_by(stage: Stage, folder: Path, holder: pki.Holder) -> Attempt:
    authority = StampingAuthority(holder, folder / "tsa")
    return _certificate(stage, folder, stamp=lambda signature: [authority.answer(timestamps.request(signature, 1))])


@fails_with(UntrustedTime)
def time_stamp_of_a_stranger(stage: Stage, folder: Path) -> Attempt:
    """Anybody can run an authority; only the pinned one counts."""
    fake = pki.root("tsa-root")
    return _stamped_by(stage, folder, fake.issue("tsa", purposes=[pki.STAMPING], critical=True))


@fails_with(UntrustedTime)
def time_stamp_of_an_expired_authority(stage: Stage, folder: Path) -> Attempt:
    """The authority's own certificate was not valid at the time it states."""
    start, end = pki.NOW - 90 * pki.DAY, pki.NOW - 60 * pki.DAY
    late = stage.instance.stamping[1].issue("tsa", purposes=[pki.STAMPING], critical=True, start=start, end=end)
    return _stamped_by(stage, folder, late)


def _crafted(stage: Stage, folder: Path, **certificate: object) -> Attempt:
    holder = stage.instance.stamping[1].issue("tsa", **certificate)  # type: ignore[arg-type]
    return _certificate(stage, folder, stamp=lambda signature: [crafted(holder, signature, stage.now)])


variants(
    UntrustedTime,
    "A time stamping certificate is for that, and for nothing else (RFC 3161 §2.3).",
    time_stamp_with_a_certificate_for_more=lambda stage, folder: _crafted(
        stage, folder, purposes=[pki.STAMPING, pki.CODE_SIGNING], critical=True
    ),
    time_stamp_with_a_certificate_for_signing=lambda stage, folder: _crafted(
        stage, folder, purposes=[pki.CODE_SIGNING], critical=True
    ),
    time_stamp_with_an_optional_purpose=lambda stage, folder: _crafted(stage, folder, purposes=[pki.STAMPING]),
)


@fails_with(BadSignature)
def time_stamp_changed(stage: Stage, folder: Path) -> Attempt:
    """One digit of the time was changed after the authority signed it."""

    def later(document: JSON) -> None:
        data = base64.b64decode(stamp_rows(document)[0]["signedTimestamp"])
        year = f"{stage.now:%Y}".encode()
        place = data.index(year)
        stamp_rows(document)[0]["signedTimestamp"] = base64.b64encode(
            data[:place] + f"{int(year) - 1}".encode() + data[place + 4 :]
        ).decode()

    return _stamped_again(stage, folder, later, kind="certificate")


@fails_with(Malformed)
def time_stamp_garbled(stage: Stage, folder: Path) -> Attempt:
    """Half a time stamp is none."""

    def cut(document: JSON) -> None:
        data = base64.b64decode(stamp_rows(document)[0]["signedTimestamp"])
        stamp_rows(document)[0]["signedTimestamp"] = base64.b64encode(data[: len(data) // 2]).decode()

    return _stamped_again(stage, folder, cut, kind="certificate")


@fails_with(UntrustedTime)
def age_without_a_time(stage: Stage, folder: Path) -> Attempt:
    """A plain key proves no time, so it cannot show that a statement is young enough."""
    required = (replace(stage.trusting().required[0], maximum_age=timedelta(days=30)),)
    return stage.attempt(stage.signed(), folder, stage.trusting(required=required))


# the log


def _logged(change: Callable[[Stage, JSON], object]) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.attempt(stage.bent(lambda d: change(stage, d), stage.identity()), folder)


def _other_entry(stage: Stage) -> JSON:
    return log_entry(json.loads(stage.document(stage.identity(), stage.other)))


variants(
    BadSignature,
    "The log vouches for another signature.",
    log_entry_of_another_bundle=_logged(lambda stage, d: material(d).update(tlogEntries=[_other_entry(stage)])),
    checkpoint_of_another_entry=_logged(
        lambda stage, d: log_entry(d)["inclusionProof"].update(
            checkpoint=_other_entry(stage)["inclusionProof"]["checkpoint"]
        )
    ),
    wrong_root_hash=_logged(
        lambda stage, d: log_entry(d)["inclusionProof"].update(rootHash=base64.b64encode(bytes(32)).decode())
    ),
    log_body_of_another_entry=_logged(
        lambda stage, d: log_entry(d).update(canonicalizedBody=_other_entry(stage)["canonicalizedBody"])
    ),
)
variants(
    Malformed,
    "Without its parts a proof of inclusion proves nothing.",
    no_log_entry=_logged(lambda stage, d: material(d).update(tlogEntries=[])),
    two_log_entries=_logged(lambda stage, d: material(d).update(tlogEntries=[log_entry(d)] * 2)),
    no_inclusion_proof=_logged(lambda stage, d: log_entry(d).pop("inclusionProof")),
    negative_log_index=_logged(lambda stage, d: log_entry(d).update(logIndex="-1")),
)


@fails_with(BadSignature)
def payload_changed_under_a_log_entry(stage: Stage, folder: Path) -> Attempt:
    """The certificate's key did not sign this payload, whatever the log says."""
    change: Callable[[JSON], object] = lambda d: rewrite_payload(d, lambda p: p["subject"][0].update(name="x"))  # noqa: E731
    return stage.attempt(stage.bent(change, stage.identity()), folder)


# revoked, older, stale


def _revoked(signer: str, **what: object) -> Callable[[Stage, Path], Attempt]:
    def make(stage: Stage, folder: Path) -> Attempt:
        who = {"key": stage.key, "certificate": stage.certificate(), "identity": stage.identity()}[signer]
        listed = {field: value(stage) if callable(value) else value for field, value in what.items()}
        return stage.attempt(stage.signed(who), folder, stage.trusting(revoked=RevokedList(**listed)))

    return make


variants(
    Revoked,
    "Whoever maintains the trust file has withdrawn it.",
    key_revoked=_revoked("key", keys=lambda s: frozenset({s.key.public.fingerprint})),
    certificate_key_revoked=_revoked(
        "certificate", keys=lambda s: frozenset({keys.public_key(s.leaf.key.public_key()).fingerprint})
    ),
    certificate_name_revoked=_revoked("certificate", identities=frozenset({pki.EMAIL})),
    certificate_serial_revoked=_revoked(
        "certificate", certificates=lambda s: frozenset({f"{s.leaf.certificate.serial_number:x}"})
    ),
    identity_revoked=_revoked("identity", identities=frozenset({CI})),
    bundle_revoked=_revoked("key", bundles=lambda s: frozenset({s.bundle.digest})),
    version_revoked=_revoked("key", versions={"tiny": ">=0.9.0,<1.0.1"}),
)


@fails_with(RolledBack)
def older_bundle(stage: Stage, folder: Path) -> Attempt:
    """Rollback: a sound, signed bundle, older than one that was seen here."""
    seen = NOTHING.with_bundle("tiny", "1.0.1", stage.other.digest)
    return stage.attempt(stage.signed(), folder, seen=seen)


@fails_with(RolledBack)
def pre_release_of_what_was_seen(stage: Stage, folder: Path) -> Attempt:
    """Rollback: `1.0.1-rc.1` comes before `1.0.1`, whatever a text comparison says."""
    seen = NOTHING.with_bundle("tiny", "1.0.1", stage.other.digest)
    return stage.attempt(stage.signed(bundle=stage.make(version="1.0.1-rc.1")), folder, seen=seen)


@fails_with(RolledBack)
def same_version_with_another_digest(stage: Stage, folder: Path) -> Attempt:
    """A version is published once; a second 1.0.0 is a replacement."""
    seen = NOTHING.with_bundle("tiny", "1.0.0", stage.other.digest)
    return stage.attempt(stage.signed(), folder, seen=seen)


@fails_with(RolledBack)
def below_the_minimum(stage: Stage, folder: Path) -> Attempt:
    """The trust file demands a higher version, also of a verifier that has seen nothing."""
    return stage.attempt(stage.signed(), folder, stage.trusting(minimum={"tiny": "1.0.1"}))


@fails_with(Stale)
def trust_file_expired(stage: Stage, folder: Path) -> Attempt:
    """Freeze: whoever keeps newer trust files away wins time only until this one expires."""
    return stage.attempt(stage.signed(), folder, stage.trusting(expires=stage.now - timedelta(seconds=1)))


@fails_with(Stale)
def statement_too_old(stage: Stage, folder: Path) -> Attempt:
    """Freeze: the statement is sound, and older than the trust file allows."""
    required = (replace(stage.trusting().required[0], maximum_age=timedelta(days=30)),)
    attempt = stage.attempt(
        stage.signed(stage.certificate()), folder, stage.trusting(required=required, expires=stage.now + 99 * pki.DAY)
    )
    return replace(attempt, now=stage.now + 31 * pki.DAY)


@fails_with(Stale)
def signer_not_trusted_any_more(stage: Stage, folder: Path) -> Attempt:
    """The key was trusted until yesterday."""
    release = replace(stage.trusting().signers[0], period=_until(stage))
    return stage.attempt(stage.signed(), folder, stage.trusting(signers=(release,)))


def _until(stage: Stage) -> object:
    from packager.trust import Period

    return Period(end=stage.now - pki.DAY)


# trust files


def _trust_file(
    stage: Stage, serial: int = 3, signers: list[keys.PrivateKey] | None = None, **changes: JSON
) -> TrustFile:
    content = trustedit.new("acme", [stage.rootkey.public], 1, stage.now + 30 * pki.DAY)
    return trustfile.write({**content, "serial": serial, **changes}, signers or [stage.rootkey])


def _accepting(stage: Stage, folder: Path, data: bytes, before: Remembered | None = None) -> Attempt:
    """The bundle is sound; what is judged is the trust file it is judged by."""
    (folder / "acme.trust").write_bytes(data)

    def show() -> object:
        return trustfile.accept(trustfile.parse((folder / "acme.trust").read_bytes(), "acme.trust"), before, stage.now)

    return Attempt(show, stage.trusting(), stage.now)  # type: ignore[arg-type]


@fails_with(RolledBack)
def trust_file_with_a_lower_serial(stage: Stage, folder: Path) -> Attempt:
    """An old trust file knows no recent revocations."""
    before = trustfile.remember(_trust_file(stage, 4))
    return _accepting(stage, folder, _trust_file(stage, 3).to_bytes(), before)


@fails_with(RolledBack)
def trust_file_with_the_same_serial(stage: Stage, folder: Path) -> Attempt:
    """Two trust files with one serial: one of them was not meant for us."""
    before = trustfile.remember(_trust_file(stage, 3))
    return _accepting(stage, folder, _trust_file(stage, 3, minimum={"tiny": "0.0.1"}).to_bytes(), before)


@fails_with(TrustFileError)
def trust_file_of_other_roots(stage: Stage, folder: Path) -> Attempt:
    """A higher serial and roots of its own do not help: the former roots must sign the step."""
    content = trustedit.new("acme", [stage.stranger.public], 1, stage.now + 30 * pki.DAY)
    file = trustfile.write({**content, "serial": 9}, [stage.stranger])
    return _accepting(stage, folder, file.to_bytes(), trustfile.remember(_trust_file(stage)))


@fails_with(TrustFileError)
def trust_file_below_its_threshold(stage: Stage, folder: Path) -> Attempt:
    """Two of two roots must sign; one thief with one key is not enough."""
    second = keys.generate("p256")
    roots = {"keys": [stage.rootkey.public.pem.decode(), second.public.pem.decode()], "threshold": 2}
    return _accepting(stage, folder, _trust_file(stage, roots=roots).to_bytes())


@fails_with(TrustFileError)
def trust_file_changed(stage: Stage, folder: Path) -> Attempt:
    """A signer was added after the root key signed."""
    envelope = json.loads(_trust_file(stage).to_bytes())
    content = json.loads(base64.b64decode(envelope["payload"]))
    content["signers"]["evil"] = {"key": stage.stranger.public.pem.decode()}
    envelope["payload"] = base64.b64encode(canonical.dump(content)).decode()
    return _accepting(stage, folder, json.dumps(envelope).encode())


@fails_with(Stale)
def trust_file_expired_on_arrival(stage: Stage, folder: Path) -> Attempt:
    """Freeze: an expired trust file is refused when it is read, too."""
    past = trustedit.moment(stage.now - pki.DAY)
    return _accepting(stage, folder, _trust_file(stage, expires=past).to_bytes())


@fails_with(Malformed)
def trust_file_with_a_weak_root(stage: Stage, folder: Path) -> Attempt:
    """A P-192 key signs nothing here, a root least of all."""
    public = ec.generate_private_key(ec.SECP192R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    envelope = json.loads(_trust_file(stage).to_bytes())
    content = json.loads(base64.b64decode(envelope["payload"]))
    content["roots"]["keys"] = [pem]
    envelope["payload"] = base64.b64encode(canonical.dump(content)).decode()
    return _accepting(stage, folder, json.dumps(envelope).encode())


# too much


@fails_with(TooLarge)
def signature_file_of_a_gigabyte(stage: Stage, folder: Path) -> Attempt:
    """A signature is read up to its cap, not into the last byte of memory."""
    transport.save(stage.signed(), folder / "layout")
    path = folder / "layout" / blob_path(next(iter(stage.signed().referrers)).content.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    return stage.shown(folder / "layout")


@fails_with(TooLarge)
def signature_that_admits_a_gigabyte(stage: Stage, folder: Path) -> Attempt:
    """A size that is declared honestly is refused before anything is read."""
    bundle = stage.signed()
    grown = tuple(replace(r, content=replace(r.content, size=1 << 30)) for r in bundle.referrers)
    attempt = stage.attempt(bundle, folder)
    return replace(attempt, show=lambda: replace(stage.shown(folder / "layout").show(), referrers=grown))


@fails_with(TooLarge)
def ten_thousand_signature_files(stage: Stage, folder: Path) -> Attempt:
    """Each would be parsed and checked; their number has a cap as well."""
    transport.save(stage.signed(), folder / "layout")
    path = folder / "layout/index.json"
    index = json.loads(path.read_bytes())
    row = index["manifests"][1]
    for number in range(10_000):
        digest = put(folder / "layout", f'{{"number":{number}}}'.encode())
        index["manifests"].append({**row, "digest": digest, "size": 12})
    path.write_bytes(json.dumps(index).encode())
    return stage.shown(folder / "layout")


# manifests


def _manifest(change: Callable[[JSON], object], *, follow: bool = False) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.rewritten(folder, change, follow=follow)


def _layer(**changes: object) -> Callable[[JSON], object]:
    return lambda manifest: manifest["layers"][0].update(changes)


variants(
    Malformed,
    "Two readers of this JSON may read two things.",
    duplicate_key_in_the_manifest=_manifest(lambda m: json.dumps(m).encode().replace(b"{", b'{"schemaVersion":1,', 1)),
    nan_in_the_manifest=_manifest(lambda m: json.dumps(m | {"annotations": {"x": float("nan")}}).encode()),
    infinite_number_in_the_manifest=_manifest(
        lambda m: json.dumps(m).encode().replace(b'"schemaVersion": 2', b'"schemaVersion": 1e999')
    ),
    deep_nesting_in_the_manifest=_manifest(lambda m: b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
)
variants(
    Malformed,
    "A size is a whole number of bytes that every reader can hold.",
    size_of_two_to_the_63=_manifest(_layer(size=2**63)),
    negative_size=_manifest(_layer(size=-1)),
    size_that_is_text=_manifest(_layer(size="1")),
)
variants(
    Malformed,
    "A digest is SHA-256 in 64 lower-case digits; nothing else names a blob.",
    digest_md5=_manifest(_layer(digest="md5:" + "0" * 32)),
    digest_empty=_manifest(_layer(digest="")),
    digest_upper_case=_manifest(_layer(digest="sha256:" + "A" * 64)),
    digest_short=_manifest(_layer(digest="sha256:" + "0" * 63)),
)
variants(
    Malformed,
    "What is not understood may be critical.",
    unknown_field_in_the_manifest=_manifest(lambda m: m.update(critical=True)),
    unknown_schema_version=_manifest(lambda m: m.update(schemaVersion=3)),
)
variants(
    WrongSubject,
    "Equal meaning is not equal bytes; the identity is of the bytes.",
    spelled_differently=_manifest(lambda m: json.dumps(m, indent=1).encode()),
    spelled_differently_and_repointed=_manifest(lambda m: json.dumps(m, indent=1).encode(), follow=True),
)


@fails_with(Malformed)
def unknown_format_version(stage: Stage, folder: Path) -> Attempt:
    """A bundle of a later format has rules that this reader does not know."""
    from packager.bundle import RECORD

    record = canonical.dump({**json.loads(stage.bundle.read(RECORD)), "format": 2})

    def change(manifest: JSON) -> None:
        for layer in manifest["layers"]:
            if layer["annotations"]["org.cncf.model.filepath"] == RECORD:
                text = layer["annotations"]["org.cncf.model.file.metadata+json"]
                layer["annotations"]["org.cncf.model.file.metadata+json"] = text.replace(
                    f'"size":{layer["size"]}', f'"size":{len(record)}'
                )
                layer |= {"digest": canonical.sha256(record), "size": len(record)}

    attempt = stage.rewritten(folder, change)
    index = json.loads((folder / "layout/index.json").read_bytes())
    (folder / "layout/index.json").write_bytes(json.dumps({**index, "manifests": index["manifests"][:1]}).encode())
    put(folder / "layout", record)
    return attempt


# files


def _tree(stage: Stage, folder: Path, change: Callable[[Path], object]) -> Attempt:
    transport.unpack(stage.signed(), folder / "tree")
    change(folder / "tree")
    return stage.shown(folder / "tree")


def _extra(name: str) -> Callable[[Stage, Path], Attempt]:
    def add(tree: Path) -> None:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"x")

    return lambda stage, folder: _tree(stage, folder, add)


variants(
    WrongContent,
    "A file that no signature covers must not be there, whatever its name.",
    extra_file=_extra("model/extra.py"),
    extra_git_folder=_extra(".git/config"),
    extra_git_attributes=_extra(".gitattributes"),
    extra_cache=_extra("__pycache__/model.pyc"),
    extra_desktop_file=_extra(".DS_Store"),
)


def _link(tree: Path) -> None:
    copy = tree.parent / "aside"
    shutil.move(tree / "model/model.onnx", copy)
    (tree / "model/model.onnx").symlink_to(copy)


variants(
    WrongContent,
    "What was signed is a regular file of mode 0644 with these bytes, in exactly these folders.",
    file_missing=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").unlink()),
    file_changed=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").write_bytes(b"grapH")),
    file_renamed=lambda stage, folder: _tree(
        stage, folder, lambda t: (t / "model/model.onnx").rename(t / "model/Model.onnx")
    ),
    mode_changed=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").chmod(0o777)),
    set_user_id=lambda stage, folder: _tree(stage, folder, lambda t: (t / "model/model.onnx").chmod(0o4644)),
    file_became_a_link=lambda stage, folder: _tree(stage, folder, _link),
    empty_folder_added=lambda stage, folder: _tree(stage, folder, lambda t: (t / "empty").mkdir()),
)


@fails_with(ForbiddenFormat)
def program_inside(stage: Stage, folder: Path) -> Attempt:
    """Even a trusted signer cannot put a pickle into a bundle."""
    return stage.attempt(stage.signed(bundle=stage.make(files={"model/model.pkl": b"cos\nsystem\n."})), folder)


@fails_with(WrongContent)
def swapped_after_the_check(stage: Stage, folder: Path) -> Attempt:
    """Time of check, time of use: the copy that is used is hashed while it is made, so the swap is seen."""
    transport.save(stage.signed(), folder / "layout")

    def show() -> object:
        from packager.verify import require_signature

        bundle = stage.shown(folder / "layout").show()
        require_signature(bundle, stage.trusting(), now=stage.now)
        path = folder / "layout" / blob_path(dict(Tree.of(dict(bundle.tree)).files)["model/model.onnx"].digest)
        path.chmod(0o644)
        path.write_bytes(b"grapH")
        transport.unpack(bundle, folder / "tree")
        return bundle

    return Attempt(show, stage.trusting(), stage.now)  # type: ignore[arg-type]


def main(target: Path) -> None:
    """Write every attack that is a bundle below `target`, each with the reason why it must fail."""
    with tempfile.TemporaryDirectory() as name, Sigstore(Path(name)) as instance:
        stage = Stage(Path(name), instance)
        for attack in ATTACKS.values():
            folder = target / f"{attack.name}_fail"
            folder.mkdir(parents=True)
            attack.make(stage, folder)
            (folder / "README").write_text(f"{attack.why}\nexpected: {attack.error.__name__}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
