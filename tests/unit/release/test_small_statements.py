# SPDX-License-Identifier: Apache-2.0
"""Statements stay small and few: bulk travels beside them, and signing again adds nothing that is there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import EVIDENCE, Bundle, open_bundle
from packager.errors import IntegrityError, UsageError, WrongContentError
from packager.formats import cyclonedx, dsse, intoto, reference_outputs, slsa
from packager.release.sign import attest, sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from packager.trust.attach import MAX_STATEMENT
from packager.trust.signers import Repeating, Signer, keyless
from packager.trust.signers.certificate import CertificateHolder
from packager.trust.verify import verify
from tests.sigstore import Sigstore
from tests.support import bundles, pki
from tests.support.tampering import no_store

KEY = keys.generate_key("p256")
HOLDER = pki.root().signer()
OUTPUTS = {"outputs.safetensors": bytes(range(256)) * 12_000, "outputs.json": b'{"inputs":[]}'}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sigstore]:
    with Sigstore(tmp_path_factory.mktemp("sigstore")) as made:
        yield made


@pytest.fixture
def built(tmp_path: Path) -> Bundle:
    """Return a bundle as a build leaves it, with drafts to be signed: 3 MB of outputs among them."""
    store = Store(tmp_path / "store")
    bundle = bundles.make(store)
    drafts = {
        reference_outputs.PREDICATE: canonical.dump(reference_outputs.state_outputs(bundle.tree, OUTPUTS)),
        cyclonedx.PREDICATE: canonical.dump({"bomFormat": "CycloneDX"}),
        slsa.PREDICATE: canonical.dump({"buildDefinition": {}}),
        "urn:scan": b"{}",
    }
    store.draft(bundle.name, bundle.version, {kind: store.put(data).digest for kind, data in drafts.items()})
    return reopened(store)


def reopened(store: Store) -> Bundle:
    return open_bundle("tiny:1.0.0", lambda: store)


def outputs_of(bundle: Bundle) -> dict[str, bytes]:
    (item,) = (
        item
        for item in verify(bundle, [KEY.public]).evidence
        if item.statement.predicate_type == reference_outputs.PREDICATE
    )
    return reference_outputs.read(item.statement.predicate, bundle.tree, item.digest, bundle.evidence)


def test_outputs_travel_beside_a_small_statement(built: Bundle, tmp_path: Path) -> None:
    copy.save(sign(built, KEY), tmp_path / "b.tar")
    bundle = open_bundle(str(tmp_path / "b.tar"), no_store)
    sizes = [item.content.size for item in bundle.referrers if item.artifact_type == dsse.BUNDLE]
    assert max(sizes) < 4096, sizes
    assert sum(item.artifact_type == EVIDENCE for item in bundle.referrers) == 2
    verdict = verify(bundle, [KEY.public])
    assert verdict.ok
    assert not verdict.others, "evidence of ours is nobody else's"
    assert outputs_of(bundle) == OUTPUTS


def test_missing_and_changed_evidence_is_noticed(built: Bundle, tmp_path: Path) -> None:
    signed = sign(built, KEY)
    with pytest.raises(WrongContentError, match="not attached"):
        outputs_of(signed.only(lambda item: item.artifact_type != EVIDENCE))
    copy.save(signed, tmp_path / "layout")
    large = next(item.content for item in signed.referrers if item.content.size > 1 << 20)
    path = tmp_path / "layout/blobs/sha256" / large.digest[7:]
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError):
        verify(open_bundle(str(tmp_path / "layout"), no_store), [KEY.public]).raise_for_failure()


def test_outputs_inside_a_statement_are_still_read(built: Bundle) -> None:
    """As earlier versions signed them."""
    predicate = reference_outputs.state_outputs(built.tree, {"outputs.json": b"{}"})
    assert outputs_of(
        attest(
            sign(bundles.make(Store(built.medium.store.root / "other")), KEY),
            reference_outputs.PREDICATE,
            predicate,
            KEY,
        )
    ) == {"outputs.json": b"{}"}  # type: ignore[attr-defined]


def test_a_large_statement_is_not_signed(built: Bundle) -> None:
    attest(built, "urn:x", {"text": "x" * (MAX_STATEMENT // 2)}, KEY)
    with pytest.raises(UsageError, match="too large: expected at most 1048576 bytes"):
        attest(built, "urn:x", {"text": "x" * MAX_STATEMENT}, KEY)


def test_many_files_leave_out_the_statement_that_lists_them(tmp_path: Path) -> None:
    files: dict[str, bytes | Path] = {f"notes/{number:05}-{'n' * 100}.txt": b"n" for number in range(4000)}
    bundle = sign(bundles.make(Store(tmp_path / "store"), files), KEY)
    verdict = verify(bundle, [KEY.public])
    assert verdict.ok, verdict.failure
    assert len(verdict.evidence) == 1


def signer_of(kind: str, instance: Sigstore, folder: Path) -> Signer:
    if kind == "key":
        return KEY
    if kind == "certificate":
        return CertificateHolder(keys.PrivateKey(HOLDER.key), (HOLDER.certificate,), f"{instance.url}/api/v1/timestamp")
    token = instance.token("ci@local.test").encode()
    return keyless.open_signer(str(instance.trust_config), lambda: token)


@pytest.mark.parametrize("kind", ["key", "certificate", "keyless"])
def test_signing_again_adds_nothing(kind: str, built: Bundle, instance: Sigstore, tmp_path: Path) -> None:
    store = built.medium.store  # type: ignore[attr-defined]
    counts = []
    signer = signer_of(kind, instance, tmp_path)
    for number in range(10):
        if kind == "keyless" and number % 5 == 0:
            signer = signer_of(kind, instance, tmp_path)  # another short-lived certificate
        copy.update_referrers(sign(reopened(store), signer))
        counts.append(len(reopened(store).referrers))
    assert counts == [8] * 10
    assert max(counts) <= 20


def test_what_only_looks_signed_keeps_no_signature_away(built: Bundle, instance: Sigstore, tmp_path: Path) -> None:
    """Anyone can attach the payload with a name beside it: only a sound signature of the same signer is a repetition."""
    for kind in ("key", "certificate", "keyless"):
        signer = signer_of(kind, instance, tmp_path)
        assert isinstance(signer, Repeating)
        new = signer.sign(intoto.Statement("urn:x", "x", "0" * 64, {}).to_bytes())
        document = json.loads(new.to_bytes())
        assert signer.repeats(dsse.parse(new.to_bytes()), new)
        stranger = keys.generate_key("p256")
        forged = json.loads(json.dumps(document))
        forged["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(stranger.sign_bytes(b"x")).decode()
        assert not signer.repeats(dsse.parse(json.dumps(forged).encode()), new)
        assert not signer.repeats(stranger.sign(new.payload), new)
        if kind == "certificate":
            unstamped = json.loads(json.dumps(document))
            del unstamped["verificationMaterial"]["timestampVerificationData"]
            assert not signer.repeats(dsse.parse(json.dumps(unstamped).encode()), new)
