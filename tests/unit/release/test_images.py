# SPDX-License-Identifier: Apache-2.0
"""An image is signed only if it is what was rendered, and a signed one leads to its bundle and that bundle's source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packager.cli import main
from packager.formats import dsse, intoto, slsa
from packager.formats.intoto import IMAGE_PREDICATE, Statement
from packager.release.sign import attest, sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import bundles, deployments, images, pki, stub_registry
from tests.support.images import Image, tar
from tests.support.stub_registry import Stub

BASE = [tar({"usr": None, "usr/bin/python3": b"#!", "lib": "usr/lib", "srv": None})]
SOURCE = {
    "buildDefinition": {
        "buildType": slsa.BUILD_TYPE,
        "resolvedDependencies": [
            {
                "name": "source",
                "uri": "models:/digits/3",
                "annotations": {"signed": {"signer": "publisher@example.com", "form": "openssf-model-signing"}},
            }
        ],
    }
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "store"))
    for name in ("release", "other"):
        keys.save(keys.generate_key("p256"), tmp_path / f"{name}.pem", tmp_path / f"{name}.pub", None)
    key = keys.load_private(tmp_path / "release.pem", lambda: None)
    bundle = attest(sign(deployments.carrier(Store(tmp_path / "made")), key), slsa.PREDICATE, SOURCE, key)
    save(bundle, tmp_path / "tiny.tar")
    deployments.rendered("container", bundle, tmp_path / "image")
    return tmp_path


@pytest.fixture
def registry(place: Path) -> Iterator[Stub]:
    with stub_registry.serving(referrers_api=True) as stub:
        yield stub


def address(stub: Stub, tag: str = "1.0.0") -> str:
    return f"oci://127.0.0.1:{stub.port}/serving/tiny:{tag}"


def attached(stub: Stub, digest: str) -> list[dict[str, Any]]:
    found = [json.loads(data) for (_, _), (_, data) in stub.manifests.items()]
    same = [value for value in found if value.get("subject", {}).get("digest") == digest]
    return [*{json.dumps(value): value for value in same}.values()]


def statements(stub: Stub, digest: str) -> list[Statement]:
    bodies = [stub.blobs["serving/tiny", one["layers"][0]["digest"]] for one in attached(stub, digest)]
    return [intoto.parse(dsse.parse(body).payload, limit=1 << 20) for body in bodies]


def verify(stub: Stub, *words: str, key: str = "release.pub") -> int:
    return main(["verify", address(stub), "--key", key, *words])


def signed(stub: Stub, *words: str, signer: str = "release.pem") -> int:
    return main(["sign-image", address(stub), "image", "--key", signer, *words])


@pytest.mark.parametrize("part", ["server", "model"])
@pytest.mark.parametrize("docker", [False, True])
def test_a_signed_image_leads_to_its_bundle_and_source(
    registry: Stub, place: Path, part: str, docker: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    image = images.built(place / "image", base=BASE, part=part)
    if docker:
        image.kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        image.manifest_kind = "application/vnd.docker.distribution.manifest.v2+json"
        image.config_kind = "application/vnd.docker.container.image.v1+json"
    digest = image.push(registry, "serving/tiny", "1.0.0")
    there = f"oci://127.0.0.1:{registry.port}/models/tiny:1.0.0"
    assert main(["push", "tiny.tar", there]) == 0
    assert verify(registry) == 1
    assert signed(registry, "--made-of", there) == 0
    made = {one.predicate_type: one for one in statements(registry, digest)}
    assert {one.subject_sha256 for one in made.values()} == {digest.removeprefix("sha256:")}
    record = json.loads((place / "image/deployment.json").read_text())
    about = made[IMAGE_PREDICATE].predicate
    assert about["bundle"]["digest"] == record["bundle"] and about["knobs"] == record["knobs"]
    (dependency,) = made[slsa.PREDICATE].predicate["buildDefinition"]["resolvedDependencies"]
    assert dependency["uri"] == there.replace(":1.0.0", f"@{record['bundle']}")
    capsys.readouterr()
    assert verify(registry, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["digest"], said["part"], said["bundle"]["digest"]) == (digest, part, record["bundle"])
    assert said["sources"] == [
        {"source": "models:/digits/3", "signer": "publisher@example.com", "form": "openssf-model-signing"}
    ]
    assert verify(registry) == 0
    rows = capsys.readouterr().out
    assert "models:/digits/3, signed by publisher@example.com" in rows and "tiny:1.0.0" in rows
    assert verify(registry, key="other.pub") == 1


def test_signing_again_adds_nothing_and_another_signer_two(registry: Stub, place: Path) -> None:
    digest = images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    for _ in range(3):
        assert signed(registry) == 0
    assert len(attached(registry, digest)) == 2
    assert signed(registry, signer="other.pem") == 0
    assert len(attached(registry, digest)) == 4


def test_a_bundle_that_is_not_at_hand_is_named(registry: Stub, place: Path) -> None:
    images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    assert signed(registry) == 0
    assert verify(registry) == 2
    assert verify(registry, "--made-of", "tiny.tar") == 0


def test_a_certificate_signs_an_image(registry: Stub, place: Path) -> None:
    root = pki.root()
    between = root.issue("Corp Signing", ca=True)
    between.signer().save(place, "leaf")
    Path("root.pem").write_bytes(root.pem)
    Path("between.pem").write_bytes(between.pem)
    words = ["--certificate", "leaf.pem", "--key", "leaf.key", "--chain", "between.pem"]
    assert main(["sign", "tiny.tar", *words, "-o", "both.tar"]) == 0
    images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    assert main(["sign-image", address(registry), "image", *words]) == 0
    who = ["--ca", "root.pem", "--made-of", "both.tar", "--identity"]
    assert main(["verify", address(registry), *who, pki.EMAIL]) == 0
    assert main(["verify", address(registry), *who, "eve@corp.example"]) == 1


def added(files: dict[str, bytes | str | None]) -> Callable[[Image], None]:
    return lambda image: image.layers.append(tar(files))


def below(files: dict[str, bytes | str | None]) -> Callable[[Image], None]:
    return lambda image: image.layers.insert(0, tar(files))


def configured(name: str, value: Any) -> Callable[[Image], None]:
    return lambda image: image.config.update({name: value})


OTHERS: dict[str, Callable[[Image], None]] = {
    "a changed weight": added({"srv/model/bundle/model/model.onnx": b"grapH"}),
    "a changed program": added({"srv/start.py": b"import os"}),
    "a module besides": added({"srv/app/sitecustomize.py": b"import os"}),
    "a file below /srv of the base": below({"srv/app/os.py": b"import sys"}),
    "a link to elsewhere": added({"srv/start.py": "/tmp/start.py"}),
    "a folder that is a link": added({".wh.srv": b"", "srv": "/data"}),
    "a base whose /srv is a link": below({"srv": "/data"}),
    "a file taken away": added({"srv/.wh.health.py": b""}),
    "a folder taken away": added({"srv/.wh.model": b""}),
    "a folder emptied": added({"srv/model/bundle/.wh..wh..opq": b""}),
    "another name in the tar": added({"./srv/../srv/start.py": b"x"}),
    "an absolute name in the tar": added({"/srv/start.py": b"x"}),
    "another entry point": configured("Entrypoint", ["sh", "-c", "x"]),
    "another command": configured("Cmd", ["--knobs={}"]),
    "another user": configured("User", "0"),
    "another label": configured("Labels", {"packager.bundle": "sha256:" + "0" * 64}),
    "no labels": configured("Labels", None),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_an_image_that_was_not_rendered_is_not_signed(
    registry: Stub, place: Path, change: Callable[[Image], None], capsys: pytest.CaptureFixture[str]
) -> None:
    image = images.built(place / "image")
    change(image)
    digest = image.push(registry, "serving/tiny", "1.0.0")
    assert signed(registry) == 5
    assert "was not built of this rendering" in capsys.readouterr().err
    assert not attached(registry, digest)


def test_layers_mean_what_they_mean_elsewhere(registry: Stub, place: Path) -> None:
    """What a later layer replaces is gone, and a whiteout is about the layers below its own only."""
    image = images.built(place / "image")
    start = (place / "image/server/start.py").read_bytes()
    image.layers.insert(0, tar({"srv/start.py": b"old", "srv/old/x": b"", "etc/x": b"1"}))
    image.layers.append(tar({"srv/.wh.old": b"", "srv/start.py": start, "srv/.wh.start.py": b"", "etc": "usr"}))
    image.push(registry, "serving/tiny", "1.0.0")
    assert signed(registry) == 0


def damage(stub: Stub, digest: str) -> None:
    layer = json.loads(stub.manifests["serving/tiny", digest][1])["layers"][0]["digest"]
    data = bytearray(stub.blobs["serving/tiny", layer])
    data[len(data) // 2] ^= 1
    stub.blobs["serving/tiny", layer] = bytes(data)


def test_a_damaged_layer_or_one_of_another_compression_is_said(
    registry: Stub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = images.built(place / "image")
    damage(registry, image.push(registry, "serving/tiny", "1.0.0"))
    assert signed(registry) == 5
    image.kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    image.push(registry, "serving/tiny", "1.0.0")
    assert signed(registry) == 2
    assert "gzip or without compression" in capsys.readouterr().err
    image.kind = "application/vnd.oci.image.layer.v1.tar"
    image.push(registry, "serving/tiny", "1.0.0")
    assert signed(registry) == 0


def test_an_index_of_images_is_not_signed(registry: Stub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = images.built(place / "image").push(registry, "serving/tiny", "amd64")
    kind, data = registry.manifests["serving/tiny", digest]
    row = {"mediaType": kind, "digest": digest, "size": len(data)}
    index = {"schemaVersion": 2, "mediaType": stub_registry.INDEX, "manifests": [row]}
    images.put_manifest(registry, "serving/tiny", "1.0.0", index)
    assert signed(registry) == 2
    assert digest in capsys.readouterr().err
    assert (
        main(["sign-image", f"oci://127.0.0.1:{registry.port}/serving/tiny@{digest}", "image", "--key", "release.pem"])
        == 0
    )


@pytest.mark.parametrize(
    ("path", "code"), [("model/bundle/contract.json", 5), ("deployment.json", 2), ("Containerfile", 2)]
)
def test_a_rendering_that_is_none_is_not_signed(registry: Stub, place: Path, path: str, code: int) -> None:
    digest = images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    (place / "image" / path).unlink()
    assert signed(registry) == code
    assert main(["sign-image", address(registry), "nowhere", "--key", "release.pem"]) == 2
    assert not attached(registry, digest)


def test_another_bundle_is_not_what_was_rendered(registry: Stub, place: Path) -> None:
    images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    save(bundles.make(Store(place / "second"), {"MODEL_CARD.md": b"# other"}), place / "second.tar")
    assert signed(registry, "--made-of", "second.tar") == 5
    assert signed(registry, "--made-of", "tiny.tar") == 0
    assert verify(registry, "--made-of", "second.tar") == 5


def attach(stub: Stub, digest: str, statement: Statement, signer: str = "release.pem", **forged: Any) -> None:
    """Attach a statement as anyone with push rights can."""
    made = json.loads(keys.load_private(Path(signer), lambda: None).sign(statement.to_bytes()).to_bytes())
    made["dsseEnvelope"].update(forged)
    body = json.dumps(made).encode()
    kind, data = stub.manifests["serving/tiny", digest]
    value = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "artifactType": dsse.BUNDLE,
        "config": images.put(stub, "serving/tiny", b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [images.put(stub, "serving/tiny", body, dsse.BUNDLE)],
        "subject": {"mediaType": kind, "digest": digest, "size": len(data)},
    }
    images.put_manifest(stub, "serving/tiny", f"x{len(stub.manifests)}", value)


def about(bundle: str, **changed: Any) -> dict[str, Any]:
    made = {"name": "tiny", "version": "1.0.0", "digest": bundle, **changed}
    digest = "sha256:" + "1" * 64
    return {"bundle": made, "knobs": digest, "part": "server", "files": 1, "setDigest": digest}


def test_statements_that_prove_nothing(registry: Stub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of strangers, of other images, without an image statement, malformed, or that disagree."""
    digest = images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    bundle, own = json.loads((place / "image/deployment.json").read_text())["bundle"], digest.removeprefix("sha256:")

    def answer() -> tuple[int, str]:
        code = verify(registry, "--made-of", "tiny.tar")
        return code, capsys.readouterr().err

    def once(statement: Statement, signer: str = "release.pem", **forged: Any) -> tuple[int, str]:
        before = dict(registry.manifests)
        attach(registry, digest, statement, signer, **forged)
        found = answer()
        registry.manifests = before
        return found

    good = Statement(IMAGE_PREDICATE, "i", own, about(bundle))
    assert once(good) == (0, "")
    assert once(good, "other.pem")[0] == 1
    code, said = once(Statement(IMAGE_PREDICATE, "i", "2" * 64, about(bundle)))
    assert code == 5 and "another image" in said
    code, said = once(Statement(intoto.COSIGN_SIGN_PREDICATE, "i", own, {}))
    assert code == 1 and "of which bundle" in said
    code, said = once(Statement(IMAGE_PREDICATE, "i", own, {"bundle": {}}))
    assert code == 5 and "malformed" in said
    code, said = once(Statement(IMAGE_PREDICATE, "i", own, about("sha256:" + "3" * 64)))
    assert code == 5 and "another bundle" in said
    payload = dsse.encode(Statement(IMAGE_PREDICATE, "i", own, about("sha256:" + "3" * 64)).to_bytes())
    code, said = once(good, payload=payload)
    assert code == 5 and "invalid" in said
    for statement in (good, Statement(IMAGE_PREDICATE, "i", own, about("sha256:" + "3" * 64))):
        attach(registry, digest, statement)
    code, said = answer()
    assert code == 5 and "disagree" in said


@pytest.fixture
def trust(place: Path) -> Callable[[], list[str]]:
    """Return what makes options of a trust file: `release` signs bundles, `other` is trusted besides."""

    def made() -> list[str]:
        keys.save(keys.generate_key("p256"), place / "root.pem", place / "root.pub", None)
        root = ["--root-key", "root.pem"]
        start = ["trust", "init", "t.trust", "--name", "acme", "--days", "30", *root]
        for words in (
            start,
            ["trust", "add", "t.trust", "--signer", "release", "--key", "release.pub", *root],
            ["trust", "add", "t.trust", "--signer", "other", "--key", "other.pub", *root],
        ):
            assert main(words) == 0, words
        return ["--trust", "t.trust", "--made-of", "tiny.tar", "--state", "none"]

    return made


def test_a_revoked_signer_or_image_is_refused(
    registry: Stub, place: Path, trust: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    digest = images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    assert signed(registry, signer="other.pem") == 0
    options = trust()
    assert main(["verify", address(registry), *options]) == 0
    assert main(["trust", "revoke", "t.trust", "--key", "other.pub", "--root-key", "root.pem"]) == 0
    assert main(["verify", address(registry), *options]) == 1
    assert "revoked" in capsys.readouterr().err
    assert signed(registry) == 0
    assert main(["verify", address(registry), *options]) == 0
    assert main(["trust", "revoke", "t.trust", "--bundle", digest, "--root-key", "root.pem"]) == 0
    assert main(["verify", address(registry), *options]) == 1


def test_a_bundle_that_does_not_hold_is_the_answer(registry: Stub, place: Path) -> None:
    images.built(place / "image").push(registry, "serving/tiny", "1.0.0")
    save(deployments.carrier(Store(place / "again")), place / "unsigned.tar")
    assert signed(registry) == 0
    assert verify(registry, "--made-of", "unsigned.tar") == 1
