# SPDX-License-Identifier: Apache-2.0
"""What is said about a bundle, and in which envelope: stripped, downgraded, bent, moved to another bundle."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from packager.bundle.bundle import Bundle, open_bundle
from packager.errors import (
    BadSignatureError,
    MalformedError,
    MissingStatementError,
    OutdatedError,
    UnsignedError,
    UntrustedSignerError,
    UntrustedTimeError,
    WrongSubjectError,
)
from packager.formats import dsse, intoto, vsa
from packager.transport import copy
from packager.trust.model import Requirement, Trust
from packager.trust.signers import Signer
from tests.attacks.registry import fails_with, variants
from tests.attacks.stage import JSON, Attempt, Stage, material, rewrite_payload
from tests.support.tampering import no_store

# stripping and downgrade


@fails_with(UnsignedError)
def unsigned(stage: Stage, folder: Path) -> Attempt:
    """Nobody vouches for it."""
    return stage.attempt(stage.bundle, folder)


@fails_with(UnsignedError)
def stripped(stage: Stage, folder: Path) -> Attempt:
    """The signatures were removed from the index: absence proves nothing."""
    copy.save(stage.signed(), folder / "layout")
    path = folder / "layout/index.json"
    index = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**index, "manifests": index["manifests"][:1]}).encode())
    return stage.shown(folder / "layout")


@fails_with(MissingStatementError)
def only_the_interoperable_statement(stage: Stage, folder: Path) -> Attempt:
    """Downgrade: an OMS statement's subject does not bind file names, so it cannot stand for the bundle statement."""
    statement = intoto.model_signing_statement(stage.bundle.name, stage.bundle.version, stage.bundle.tree)
    return stage.attempt(stage.stated(statement.to_bytes()), folder)


def _predicate(stage: Stage, predicate_type: str) -> bytes:
    return replace(stage.statement(stage.bundle), predicate_type=predicate_type).to_bytes()


@fails_with(MissingStatementError)
def predicate_of_an_older_version(stage: Stage, folder: Path) -> Attempt:
    """Downgrade: a statement of another version may mean something else."""
    return stage.attempt(stage.stated(_predicate(stage, "urn:packager:bundle:v0.1")), folder)


@fails_with(MissingStatementError)
def unknown_predicate(stage: Stage, folder: Path) -> Attempt:
    """A signed statement of an unknown kind says nothing about trust."""
    return stage.attempt(stage.stated(_predicate(stage, "https://evil.example/v1")), folder)


@fails_with(MissingStatementError)
def required_statement_missing(stage: Stage, folder: Path) -> Attempt:
    """The trust file asks for a scan result, and there is none."""
    required = (*stage.trusting().required, Requirement("https://scans.example/v1"))
    return stage.attempt(stage.signed(), folder, stage.trusting(required=required))


@fails_with(MissingStatementError)
def required_statement_by_the_wrong_signer(stage: Stage, folder: Path) -> Attempt:
    """The release key may sign bundles, but the scan result must be the CI's."""
    required = (*stage.trusting().required, Requirement("https://scans.example/v1", frozenset({"ci"})))
    scan = _predicate(stage, "https://scans.example/v1")
    return stage.attempt(
        stage.stated(scan, stage.statement(stage.bundle).to_bytes()), folder, stage.trusting(required=required)
    )


@fails_with(MissingStatementError)
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


# promotion: the production site asks for the summary of its stage, by the gate, at most thirty days old


def _production(stage: Stage, **changes: object) -> Trust:
    age = timedelta(days=30)
    gate = Requirement(vsa.PREDICATE, frozenset({"corp"}), age, vsa.read_promotion("production"))
    return stage.trusting(required=(*stage.trusting().required, gate), **changes)


def _summary(stage: Stage, bundle: Bundle, to: str = "production", **changes: JSON) -> bytes:
    said = vsa.summarise_promotion(
        to,
        "tiny:1.0.0",
        verifier="https://gate.example",
        at="2027-01-01T00:00:00Z",
        policy="release",
        policy_digest="sha256:" + "0" * 64,
        inputs=[],
    )
    return replace(stage.statement(bundle), predicate_type=vsa.PREDICATE, predicate={**said, **changes}).to_bytes()


def _promoted(stage: Stage, summary: bytes, signer: Signer | None = None) -> Bundle:
    """Return the bundle with a summary that the gate signed, as `promote` would attach it."""
    document = (signer or stage.certificate()).sign(summary).to_bytes()
    return stage.with_documents(stage.signed(), [document])


@fails_with(MissingStatementError)
def promotion_never_happened(stage: Stage, folder: Path) -> Attempt:
    """The tag says production, the bundle is soundly signed, and no gate ever saw it."""
    return stage.attempt(stage.signed(), folder, _production(stage))


@fails_with(WrongSubjectError)
def promotion_of_another_bundle(stage: Stage, folder: Path) -> Attempt:
    """The summary of a bundle that did pass, beside one that did not, under the same name and version."""
    return stage.attempt(_promoted(stage, _summary(stage, stage.other)), folder, _production(stage))


@fails_with(WrongSubjectError)
def promotion_moved_by_the_index(stage: Stage, folder: Path) -> Attempt:
    """Re-tagging: the index of a promoted bundle is bent to name another manifest, the summaries stay attached."""
    promoted = _promoted(stage, _summary(stage, stage.bundle))
    moved = replace(stage.signed(bundle=stage.other), pending={**promoted.pending})
    moved = replace(moved, referrers=promoted.referrers, medium=moved.medium)
    return Attempt(lambda: _reopened(moved, folder), _production(stage), stage.now)


def _reopened(bundle: Bundle, folder: Path) -> Bundle:
    copy.save(bundle, folder / "layout")
    return open_bundle(str(folder / "layout"), no_store)


@fails_with(MissingStatementError)
def promotion_that_failed(stage: Stage, folder: Path) -> Attempt:
    """The gate itself said FAILED."""
    failed = _summary(stage, stage.bundle, verificationResult="FAILED")
    return stage.attempt(_promoted(stage, failed), folder, _production(stage))


@fails_with(MissingStatementError)
def promotion_to_another_stage(stage: Stage, folder: Path) -> Attempt:
    """What may enter staging may not for that enter production."""
    return stage.attempt(_promoted(stage, _summary(stage, stage.bundle, "staging")), folder, _production(stage))


@fails_with(MissingStatementError)
def promotion_by_the_wrong_identity(stage: Stage, folder: Path) -> Attempt:
    """The release signer is trusted as well, but is no gate: it cannot promote its own bundles."""
    return stage.attempt(_promoted(stage, _summary(stage, stage.bundle), stage.key), folder, _production(stage))


@fails_with(OutdatedError)
def promotion_too_old(stage: Stage, folder: Path) -> Attempt:
    """The summary is sound, and older than the site allows."""
    believed = _production(stage, expires=stage.now + timedelta(days=99))
    attempt = stage.attempt(_promoted(stage, _summary(stage, stage.bundle)), folder, believed)
    return replace(attempt, now=stage.now + timedelta(days=31))


@fails_with(UntrustedTimeError)
def promotion_without_a_time(stage: Stage, folder: Path) -> Attempt:
    """A gate with a plain key cannot prove when it decided, whatever it writes into the summary."""
    keyed = replace(_production(stage).required[-1], signers=frozenset({"release"}))
    believed = stage.trusting(required=(*stage.trusting().required, keyed))
    return stage.attempt(_promoted(stage, _summary(stage, stage.bundle), stage.key), folder, believed)


def _bent(change: Callable[[JSON], object]) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.attempt(stage.bent(change), folder)


variants(
    MalformedError,
    "Downgrade: a bundle of another version has other rules.",
    media_type_v01=_bent(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1")),
    media_type_v04=_bent(lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json")),
)
variants(
    MalformedError,
    "The type of the payload is signed; another type is read by other rules.",
    payload_type_changed=_bent(lambda d: d["dsseEnvelope"].update(payloadType="application/json")),
)


@fails_with(BadSignatureError)
def algorithm_downgraded(stage: Stage, folder: Path) -> Attempt:
    """SHA-1 under a P-256 signature: the key fixes the algorithm, nothing in the file chooses it."""

    def weaken(document: JSON) -> None:
        payload = base64.b64decode(document["dsseEnvelope"]["payload"])
        weak = stage.key.key.sign(dsse.encode_payload(payload), ec.ECDSA(hashes.SHA1()))
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(weak).decode()

    return stage.attempt(stage.bent(weaken), folder)


@fails_with(BadSignatureError)
def old_encoding_signed(stage: Stage, folder: Path) -> Attempt:
    """The faulty encoding that early tools signed is ambiguous; nothing falls back to it."""

    def old(document: JSON) -> None:
        payload = base64.b64decode(document["dsseEnvelope"]["payload"])
        text = f"DSSEV1 {len(dsse.IN_TOTO)} {dsse.IN_TOTO} {len(payload)} {payload!r}".encode()
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(stage.key.sign_bytes(text)).decode()

    return stage.attempt(stage.bent(old), folder)


# envelopes

variants(
    MalformedError,
    "There is exactly one signature in an envelope.",
    no_signature_in_the_envelope=_bent(lambda d: d["dsseEnvelope"].update(signatures=[])),
    two_signatures_in_the_envelope=_bent(
        lambda d: d["dsseEnvelope"].update(signatures=[{"sig": "AAAA", "keyid": ""}, *d["dsseEnvelope"]["signatures"]])
    ),
)
variants(
    MalformedError,
    "An unknown field may be critical to its writer.",
    unknown_field=_bent(lambda d: d.update(extra=1)),
    unknown_field_in_the_material=_bent(lambda d: material(d).update(extra=1)),
)
variants(
    MalformedError,
    "Two readers of this JSON may read two things.",
    duplicate_key_in_a_signature=_bent(lambda d: json.dumps(d).encode().replace(b"{", b'{"mediaType":"x",', 1)),
    nan_in_a_signature=_bent(lambda d: json.dumps(d).encode().replace(b'"tlogEntries": []', b'"tlogEntries": [NaN]')),
    deep_nesting_in_a_signature=_bent(lambda d: b"[" * 10_000 + b"]" * 10_000),
)
variants(
    BadSignatureError,
    "The payload is not what was signed.",
    payload_changed=_bent(lambda d: rewrite_payload(d, lambda p: p["predicate"].update(version="9.9.9"))),
)


@fails_with(BadSignatureError)
def two_statements_the_first_bad(stage: Stage, folder: Path) -> Attempt:
    """A forgery in a trusted name ends everything, even beside a sound signature."""
    sound = stage.document(stage.key)
    forged = json.loads(sound)
    rewrite_payload(forged, lambda p: p["subject"][0].update(name="first"))
    bundle = stage.with_documents(stage.bundle, [json.dumps(forged).encode(), sound])
    return stage.attempt(bundle, folder)


@fails_with(UntrustedSignerError)
def signed_by_an_untrusted_key(stage: Stage, folder: Path) -> Attempt:
    """The signature is valid, but its signer is not trusted."""
    return stage.attempt(stage.signed(stage.stranger), folder)


@fails_with(BadSignatureError)
def hint_of_a_trusted_key(stage: Stage, folder: Path) -> Attempt:
    """An untrusted key with the trusted key's hint is a forgery."""
    document = json.loads(stage.document(stage.stranger))
    material(document)["publicKey"]["hint"] = stage.key.public.fingerprint
    return stage.attempt(stage.with_documents(stage.bundle, [json.dumps(document).encode()]), folder)


# about what


@fails_with(WrongSubjectError)
def signature_of_another_bundle(stage: Stage, folder: Path) -> Attempt:
    """Swap: a sound signature, moved to another bundle."""
    document = stage.document(stage.key, stage.other)
    return stage.attempt(stage.with_documents(stage.bundle, [document]), folder)


@fails_with(WrongSubjectError)
def right_name_wrong_digest(stage: Stage, folder: Path) -> Attempt:
    """The name is not the identity; the digest is."""
    return stage.attempt(
        stage.stated(replace(stage.statement(stage.bundle), subject_sha256="0" * 64).to_bytes()), folder
    )


@fails_with(WrongSubjectError)
def attestation_of_another_bundle(stage: Stage, folder: Path) -> Attempt:
    """Swap: the scan result of a harmless bundle, beside a sound signature."""
    said = replace(stage.statement(stage.other), predicate_type="https://scans.example/v1").to_bytes()
    return stage.attempt(stage.stated(stage.statement(stage.bundle).to_bytes(), said), folder)


def _model_signing(stage: Stage, folder: Path, change: Callable[[JSON], object]) -> Attempt:
    statement = intoto.model_signing_statement(stage.bundle.name, stage.bundle.version, stage.bundle.tree)
    change(statement.predicate)
    return stage.attempt(stage.stated(stage.statement(stage.bundle).to_bytes(), statement.to_bytes()), folder)


variants(
    WrongSubjectError,
    "An ignored path could contain unsigned files.",
    ignored_paths_swallow_files=lambda stage, folder: _model_signing(
        stage, folder, lambda p: p["serialization"].update(ignore_paths=["model", "*.onnx", "../"])
    ),
)
variants(
    WrongSubjectError,
    "A link can lead anywhere after it was signed.",
    links_allowed=lambda stage, folder: _model_signing(
        stage, folder, lambda p: p["serialization"].update(allow_symlinks=True)
    ),
)


@fails_with(WrongSubjectError)
def same_bytes_under_other_names(stage: Stage, folder: Path) -> Attempt:
    """OMS root digests do not bind names; the same contents as `payload.txt` and `model.onnx` are another bundle."""
    one = stage.make(files={"a.txt": b"first", "b.txt": b"second"})
    two = stage.make(files={"a.txt": b"second", "b.txt": b"first"})
    return stage.attempt(stage.with_documents(two, [stage.document(stage.key, one)]), folder)
