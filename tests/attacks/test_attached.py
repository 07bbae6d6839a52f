# SPDX-License-Identifier: Apache-2.0
"""Everyone with push rights can attach anything to a bundle. It proves nothing, and it prevents nothing."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle, open_bundle
from packager.cli import main
from packager.errors import MissingStatementError, MissingToolError
from packager.formats import dsse, intoto, oci
from packager.release.sign import attest, sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from packager.trust.model import KeylessSigner, KeySigner, Requirement, Trust
from packager.trust.verify import MAX_NOTES, verify
from packager.types import Blob
from tests.support import bundles
from tests.support.registry_server import registry
from tests.support.stub_registry import Stub, serving
from tests.support.tampering import no_store

JSON = "application/json"
STATEMENT = {"_type": intoto.STATEMENT, "subject": [], "predicateType": "urn:x", "predicate": {}}


def wrapped(material: object, payload: object = None, **rest: object) -> bytes:
    """A Sigstore bundle of another signer, over bytes that may not be a statement."""
    envelope = {
        "payload": base64.b64encode(json.dumps(payload).encode()).decode(),
        "payloadType": dsse.IN_TOTO,
        "signatures": [{"sig": "MAA="}],
    }
    return json.dumps(
        {"mediaType": dsse.BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope} | rest
    ).encode()


KEY = {"publicKey": {"hint": "c29tZWJvZHk="}}
DOCUMENTS = {
    "no-json": b"\x89PNG\r\n\x1a\n",
    "empty": b"",
    "list": b"[]",
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "message-signature": json.dumps(
        {
            "mediaType": dsse.BUNDLE,
            "verificationMaterial": KEY,
            "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"}, "signature": "MAA="},
        }
    ).encode(),
    "older-media-type": wrapped(KEY, STATEMENT, mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    "several-subjects": wrapped(
        KEY, STATEMENT | {"subject": [{"name": n, "digest": {"sha256": "0" * 64}} for n in "ab"]}
    ),
    "no-statement": wrapped(KEY, 7),
    "later-statement": wrapped(KEY, STATEMENT | {"_type": "https://in-toto.io/Statement/v9"}),
    "unknown-material": wrapped({"postQuantumKey": {}}, STATEMENT),
    "garbage-certificate": wrapped(
        {"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}]}},
        STATEMENT | {"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}]},
    ),
    "garbage-log-entry": wrapped(
        {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [1]},
        STATEMENT | {"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}]},
    ),
}


@pytest.fixture(scope="module")
def key() -> keys.PrivateKey:
    return keys.generate_key("p256")


@pytest.fixture
def signed(key: keys.PrivateKey, tmp_path: Path) -> Bundle:
    return sign(bundles.make(Store(tmp_path / "elsewhere")), key)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_unknown_statements_are_skipped(signed: Bundle, key: keys.PrivateKey, tmp_path: Path, name: str) -> None:
    save(signed.with_statement(DOCUMENTS[name], "urn:x"), tmp_path / "b.tar")
    verdict = verify(open_bundle(str(tmp_path / "b.tar"), no_store), [key.public])
    assert verdict.ok, verdict.failure
    aside = {item["digest"] for item in verdict.to_json()["skipped"]}
    assert aside == (set() if name == "garbage-log-entry" else {canonical.sha256(DOCUMENTS[name])})


def test_requirements_still_apply(signed: Bundle, key: keys.PrivateKey, tmp_path: Path) -> None:
    """A statement that cannot be read is no statement, whatever the annotation beside it claims to be."""
    needed = Requirement("urn:tested", predicate={"result": "PASSED"})
    trust = Trust((KeySigner("release", key.public),), required=(needed,))
    broken = json.loads(attest(signed, "urn:tested", {"result": "PASSED"}, key).pending.popitem()[1])
    junk = signed.with_statement(json.dumps(broken | {"more": 1}).encode(), "urn:tested")
    failure = verify(junk, trust).failure
    assert isinstance(failure, MissingStatementError)
    save(attest(junk, "urn:tested", {"result": "PASSED"}, key), tmp_path / "b.tar")
    assert verify(open_bundle(str(tmp_path / "b.tar"), no_store), trust).ok


def test_unverifiable_identity_does_not_prevent_verification(
    signed: Bundle, key: keys.PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package for identities: a key signed as well, unless the identity's statement is what is demanded."""
    monkeypatch.setitem(sys.modules, "sigstore", None)
    stamps = {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]}
    material = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{}], "timestampVerificationData": stamps}
    about = STATEMENT | {"subject": [{"name": "a", "digest": {"sha256": "0" * 64}}]}
    save(signed.with_statement(wrapped(material, about), "urn:x"), tmp_path / "b.tar")
    bundle = open_bundle(str(tmp_path / "b.tar"), no_store)
    trust = Trust((KeySigner("release", key.public), KeylessSigner("ci", "a@b.example", "https://i.example", None)))
    verdict = verify(bundle, trust)
    assert verdict.ok
    assert [type(why) for why in verdict.skipped.values()] == [MissingToolError]
    with pytest.raises(MissingToolError):
        verify(bundle, replace(trust, required=(Requirement("urn:x"),)))


def test_notes_are_few(
    signed: Bundle, key: keys.PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        signed = signed.with_statement(b"%d" % number, "urn:x")
    save(signed, tmp_path / "b.tar")
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    assert main(["verify", str(tmp_path / "b.tar"), "--key", str(tmp_path / "k.pub")]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len([row for row in output if row.startswith("note")]) == MAX_NOTES + 1
    assert "45 more" in "".join(output)
    assert main(["inspect", str(tmp_path / "b.tar")]) == 0


def attach(
    stub: Stub,
    bundle: Bundle,
    content: bytes,
    *,
    kind: str = dsse.BUNDLE,
    layers: int = 1,
    size: int = 0,
    absent: bool = False,
    manifest: bytes | None = None,
) -> None:
    """Push a referrer without our own code, and list it under the tag schema."""
    name = "models/tiny"
    blob = Blob(canonical.sha256(content), size or len(content))
    empty = Blob(canonical.sha256(oci.EMPTY_BYTES), 2)
    if not absent:
        stub.blobs[name, blob.digest] = content
    stub.blobs[name, empty.digest] = oci.EMPTY_BYTES
    subject = oci.Descriptor(oci.MANIFEST, Blob(bundle.digest, len(bundle.manifest)))
    rows = tuple(oci.Descriptor(kind, blob) for _ in range(layers))
    data = manifest or oci.Manifest(kind, oci.Descriptor(oci.EMPTY, empty), rows, {}, subject).to_bytes()
    digest = canonical.sha256(data)
    stub.manifests[name, digest] = (oci.MANIFEST, data)
    tag = oci.referrers_tag(bundle.digest)
    listed = json.loads(stub.manifests[name, tag][1])
    listed["manifests"].append({"mediaType": oci.MANIFEST, "digest": digest, "size": len(data), "artifactType": kind})
    stub.manifests[name, tag] = (oci.INDEX, json.dumps(listed).encode())


Attach = Callable[[Stub, Bundle], None]
WAYS: dict[str, Attach] = {
    **{name: lambda stub, bundle, data=data: attach(stub, bundle, data) for name, data in DOCUMENTS.items()},  # type: ignore[misc]
    "two-blobs": lambda stub, bundle: attach(stub, bundle, b"{}x", layers=2),
    "lies-about-its-size": lambda stub, bundle: attach(stub, bundle, b"{}  ", size=3),
    "holds-nothing": lambda stub, bundle: attach(stub, bundle, b"{}   ", absent=True),
    "of-another-type": lambda stub, bundle: attach(stub, bundle, b"\0", kind="application/x"),
    "of-another-type-and-damaged": lambda stub, bundle: attach(stub, bundle, b"\0\0", kind="application/x", size=1),
    "no-manifest": lambda stub, bundle: attach(stub, bundle, b"x", manifest=b"[]"),
    "large-manifest": lambda stub, bundle: attach(stub, bundle, b"x", manifest=b" " * (oci.MAX_MANIFEST + 1)),
    "huge": lambda stub, bundle: attach(stub, bundle, b"x", size=1 << 40),
}


def strange_rows(stub: Stub, bundle: Bundle) -> None:
    tag = oci.referrers_tag(bundle.digest)
    listed = json.loads(stub.manifests["models/tiny", tag][1])
    listed["manifests"] += [7, {}, {"mediaType": oci.MANIFEST, "digest": "sha512:" + "0" * 128, "size": 1}]
    stub.manifests["models/tiny", tag] = (oci.INDEX, json.dumps(listed).encode())


WAYS["strange-rows"] = strange_rows


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: keys.PrivateKey) -> Path:
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    return tmp_path


def listed() -> Iterator[Any]:
    """Every way under the tag schema; with the API, which lists the same documents, one of those by default."""
    for name in WAYS:
        yield name, False
        if "manifest" not in name:
            rare = name in DOCUMENTS and name != next(iter(DOCUMENTS))
            yield pytest.param(name, True, marks=pytest.mark.slow if rare else [])


@pytest.mark.parametrize(("name", "api"), listed())
def test_hostile_referrers_do_not_block_a_bundle(signed: Bundle, site: Path, name: str, api: bool) -> None:
    save(signed, site / "signed.tar")
    with serving(referrers_api=api) as stub:
        there = f"oci://{stub.host}/models/tiny:1.0.0"
        assert main(["push", "signed.tar", there]) == 0
        WAYS[name](stub, signed)
        assert main(["verify", there, "--key", "k.pub"]) == 0
        assert main(["inspect", there]) == 0
        assert main(["unpack", there, "tree", "--key", "k.pub"]) == 0
        assert main(["verify", "tree", "--key", "k.pub"]) == 0
        assert main(["inspect", "tree"]) == 0
        assert main(["pull", there, "--key", "k.pub", "-o", "back.tar"]) == 0
    assert main(["verify", "tiny:1.0.0", "--key", "k.pub"]) == 0
    assert main(["verify", "back.tar", "--key", "k.pub"]) == 0


def test_pushing_keeps_what_others_signed(signed: Bundle, site: Path) -> None:
    """A row that we cannot read is no reason to write the list anew without the others."""
    save(signed, site / "signed.tar")
    other = keys.generate_key("p256")
    keys.save(other, site / "o.pem", site / "o.pub", None)
    save(sign(bundles.make(Store(site / "elsewhere")), other), site / "other.tar")
    with serving() as stub:
        there = f"oci://{stub.host}/models/tiny:1.0.0"
        assert main(["push", "signed.tar", there]) == 0
        strange_rows(stub, signed)
        assert main(["push", "other.tar", there]) == 0
        for name in ("k.pub", "o.pub"):
            assert main(["verify", there, "--key", name]) == 0


def test_a_list_without_end_is_not_read_to_its_end(signed: Bundle, site: Path) -> None:
    """What is too much is said, after a bounded part of it was read."""
    save(signed, site / "signed.tar")
    with serving(referrers_api=True, page=400) as stub:
        there = f"oci://{stub.host}/models/tiny:1.0.0"
        assert main(["push", "signed.tar", there]) == 0
        subject = {"mediaType": oci.MANIFEST, "digest": signed.digest, "size": len(signed.manifest)}
        for number in range(1500):
            data = json.dumps(
                {"mediaType": oci.MANIFEST, "artifactType": "urn:x", "subject": subject, "n": number}
            ).encode()
            stub.manifests["models/tiny", canonical.sha256(data)] = (oci.MANIFEST, data)
        assert main(["verify", there, "--key", "k.pub"]) == 5
        assert len(stub.rows("GET", "/referrers/")) <= 4


# with the programs that others use


@pytest.fixture
def cosign(tmp_path: Path) -> Iterator[Callable[..., None]]:
    program = shutil.which("cosign")
    if program is None:
        pytest.skip("cosign is not on PATH")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COSIGN_PASSWORD": ""}

    def run(*words: str) -> None:
        done = subprocess.run([program, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("generate-key-pair")
    run("signing-config", "create", "--out", "none.json")
    yield run


def test_what_cosign_attaches(signed: Bundle, site: Path, cosign: Callable[..., None]) -> None:
    """`cosign sign` and `cosign attest` by another user with push rights, in a real registry."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not on PATH")
    save(signed, site / "signed.tar")
    (site / "p.json").write_text("{}")
    with registry(program, site / "registry") as place:
        there = f"oci://{place.host}/models/tiny:1.0.0"
        assert main(["push", "signed.tar", there]) == 0
        reference = f"{place.host}/models/tiny@{signed.digest}"
        plain = ("--key", "cosign.key", "--signing-config", "none.json", "--allow-http-registry", "--yes", reference)
        cosign("sign", *plain)
        cosign("attest", "--type", "custom", "--predicate", "p.json", *plain)
        for words in (("verify", there), ("pull", there), ("unpack", there, "tree"), ("verify", "tiny:1.0.0")):
            assert main([*words, "--key", "k.pub"]) == 0, words
        assert len(open_bundle("tiny:1.0.0", lambda: Store(site / "store")).referrers) == 4
