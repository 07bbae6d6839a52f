# SPDX-License-Identifier: Apache-2.0
"""What a bundle calls itself decides nothing: no path, no other bundle's name, no signature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.bundle.bundle import open_bundle
from packager.cli import main
from packager.errors import MalformedError, UsageError, WrongSubjectError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import bundles
from tests.support.stub_registry import serving
from tests.support.tampering import no_store

Packager = Callable[..., int]
ODD = {
    "absolute": ("{outside}", "authorized_keys"),
    "upwards": ("..", "index"),
    "slash": ("a/b", "1.0.0"),
    "version-slash": ("tiny", "1.0.0/../../../x"),
    "version-upwards": ("tiny", ".."),
    "empty": ("", ""),
    "hidden": (".tiny", "1.0.0"),
    "capitals": ("Tiny", "1.0.0"),
    "newline": ("tiny\n", "1.0.0"),
    "escape": ("tiny\x1b[2J", "1.0.0"),
    "bidi": ("ti\u202eyn", "1.0.0"),
    "null": ("tiny\0", "1.0.0"),
    "homoglyph": ("t\u0456ny", "1.0.0"),
    "long": ("t" * 64, "1.0.0"),
    "no-version": ("tiny", "latest"),
    "two-numbers": ("tiny", "1.0"),
    "empty-label": ("tiny", "1.0.0-.."),
    "long-version": ("tiny", "1.0.0-" + "a" * 200),
    "digest": ("sha256", "0" * 64),
}


@pytest.fixture
def packager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packager:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "STATE"):
        monkeypatch.setenv(f"PACKAGER_{name}", str(tmp_path / name.lower()))

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    return run


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    made = keys.generate_key("p256")
    keys.save(made, tmp_path / "release.pem", tmp_path / "release.pub", None)
    return made


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_an_odd_name_is_no_name_anywhere(
    packager: Packager, key: keys.PrivateKey, tmp_path: Path, case: str, signed: bool
) -> None:
    """Signed or not: it is refused where it is read, so nothing is written at all."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "authorized_keys").write_text("mine")
    name, version = (part.format(outside=outside) for part in ODD[case])
    made = bundles.assemble(Store(tmp_path / "elsewhere"), name=name, version=version)
    save(sign(made, key) if signed else made, tmp_path / "odd.tar")
    with pytest.raises(MalformedError):
        open_bundle(str(tmp_path / "odd.tar"), no_store)
    trust = ("--key", "release.pub") if signed else ()
    before = files_below(outside)
    assert packager("import", "odd.tar", *trust) == 5
    assert packager("unpack", "odd.tar", "tree", *trust) == 5
    assert packager("install", "odd.tar", "site", "--key", "release.pub") == 5
    assert packager("render", "triton", "odd.tar", "models", "--key", "release.pub") == 5
    assert packager("sign", "odd.tar", "--key", "release.pem") == 5
    assert files_below(outside) == before
    assert not [path for path in (tmp_path / "tree", tmp_path / "models") if path.exists()]
    assert not (tmp_path / "store").exists() or not Store(tmp_path / "store").bundles()


@pytest.mark.parametrize("text", ["..:..", "../x:1.0.0", "tiny:..", ".:leases.gate", "tiny:1.0.0\n", ":", "a:b:c"])
def test_a_reference_is_no_path(
    packager: Packager, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "store")
    assert packager("inspect", text) == 2
    assert "hint:" in capsys.readouterr().err


def test_the_manifest_calls_it_as_its_record_does(tmp_path: Path) -> None:
    """Registries and other tools show the annotations: they must not say another name."""
    made = bundles.make(Store(tmp_path / "store"))
    save(made, tmp_path / "layout")
    path = tmp_path / "layout"
    index = json.loads((path / "index.json").read_bytes())
    manifest = json.loads(made.manifest)
    manifest["annotations"]["org.opencontainers.image.title"] = "digits"
    from tests.attacks.stage import put

    data = json.dumps(manifest).encode()
    index["manifests"][0] |= {"digest": put(path, data), "size": len(data)}
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(MalformedError, match="disagree"):
        open_bundle(str(path), no_store)


def test_unverified_bundle_gets_no_name(packager: Packager, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = bundles.make(Store(tmp_path / "elsewhere"), {"model/model.onnx": b"theirs"})
    save(theirs, tmp_path / "theirs.tar")
    assert packager("import", "theirs.tar") == 0
    assert theirs.digest in capsys.readouterr().out
    assert Store(tmp_path / "store").bundles() == []
    assert packager("inspect", "tiny:1.0.0") == 2
    assert packager("inspect", theirs.digest) == 0
    assert packager("cache", "gc") == 0
    assert packager("inspect", theirs.digest) == 2


def test_a_name_that_exists_keeps_its_bundle(packager: Packager, key: keys.PrivateKey, tmp_path: Path) -> None:
    ours = bundles.make(Store(tmp_path / "store"))
    theirs = bundles.make(Store(tmp_path / "elsewhere"), {"model/model.onnx": b"theirs"})
    save(theirs, tmp_path / "theirs.tar")
    save(sign(theirs, key), tmp_path / "signed.tar")

    def meant() -> str:
        return Store(tmp_path / "store").entry("tiny", "1.0.0").manifest

    assert packager("import", "theirs.tar") == 0
    assert packager("import", "theirs.tar", "--replace") == 2
    assert packager("import", "signed.tar", "--key", "release.pub") == 2
    assert meant() == ours.digest
    assert packager("import", "signed.tar", "--key", "release.pub", "--replace") == 0
    assert meant() == theirs.digest


def test_verified_bundle_leaves_quarantine(packager: Packager, key: keys.PrivateKey, tmp_path: Path) -> None:
    save(sign(bundles.make(Store(tmp_path / "elsewhere")), key), tmp_path / "signed.tar")
    assert packager("import", "signed.tar") == 0
    digest = open_bundle(str(tmp_path / "signed.tar"), no_store).digest
    assert packager("import", digest, "--key", "release.pub") == 0
    assert packager("verify", "tiny:1.0.0", "--key", "release.pub") == 0
    assert not list((tmp_path / "store" / "v1" / "quarantine").iterdir())


def test_readmitted_bundle_merges_signatures_and_drafts(
    packager: Packager, key: keys.PrivateKey, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    ours = bundles.make(store)
    store.draft("tiny", "1.0.0", {"urn:x": store.put(b"{}").digest})
    save(sign(ours, key), tmp_path / "signed.tar")
    assert packager("import", "signed.tar") == 0
    entry = store.entry("tiny", "1.0.0")
    assert (entry.manifest, len(entry.referrers), entry.origin) == (ours.digest, 2, "built")
    assert set(entry.drafts) == {"urn:x"}


def test_sign_refuses_a_malformed_name(
    packager: Packager, key: keys.PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older program, or another user with access to the store, may have named it; the digest is what counts."""
    store = Store(tmp_path / "store")
    made = bundles.assemble(store)
    record = tmp_path / "store" / "v1" / "bundles" / "tiny" / "1.0.0"
    record.parent.mkdir()
    record.write_text(json.dumps({"manifest": made.digest, "referrers": []}))
    assert packager("sign", "tiny:1.0.0", "--key", "release.pem") == 2
    assert made.digest in capsys.readouterr().err
    (tmp_path / "p.json").write_text("{}")
    assert packager("attest", "tiny:1.0.0", "--key", "release.pem", "--predicate", "p.json", "--type", "urn:x") == 2
    assert packager("sign", made.digest, "--key", "release.pem") == 0
    assert made.digest in capsys.readouterr().err
    assert packager("verify", "tiny:1.0.0", "--key", "release.pub") == 0


def test_a_name_in_the_store_leads_to_no_other_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = bundles.make(store)
    (tmp_path / "store" / "v1" / "bundles" / "digits").mkdir()
    (tmp_path / "store" / "v1" / "bundles" / "digits" / "1.0.0").write_text(
        json.dumps(store.entry("tiny", "1.0.0").to_json())
    )
    with pytest.raises(WrongSubjectError, match=r"calls itself `tiny:1\.0\.0`"):
        open_bundle("digits:1.0.0", lambda: store)
    assert open_bundle(made.digest, lambda: store).name == "tiny"


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("models/tiny:1.0.0", 0),
        ("models/tiny:stable", 0),
        ("models/tiny:1.0.1", 5),
        ("models/digits:1.0.0", 5),
        ("models/digits:stable", 5),
        ("models/digits@{digest}", 0),
        ("models/digits:1.0.1@{digest}", 0),
    ],
)
def test_registry_tag_must_match_the_bundle(
    packager: Packager, key: keys.PrivateKey, tmp_path: Path, place: str, code: int
) -> None:
    """Signed or not: under a name and a version lies the bundle of that name and version, or nothing of ours."""
    signed = sign(bundles.make(Store(tmp_path / "elsewhere")), key)
    save(signed, tmp_path / "signed.tar")
    with serving() as stub:
        there = f"oci://{stub.host}/{place.format(digest=signed.digest)}"
        bare = there.partition("@")[0] if "@" in there and ":" in place.partition("@")[0] else there
        target = bare if "@" not in bare else bare.partition("@")[0] + ":any"
        assert packager("push", "signed.tar", target) == 0
        trust = ("--key", "release.pub")
        for words in (("pull", there), ("verify", there), ("unpack", there, "tree")):
            assert packager(*words, *trust) == code, words


@pytest.mark.parametrize(("version", "code"), [("1.0.0", 0), ("1.0.1", 5)])
def test_bucket_reference_must_match_the_bundle(
    packager: Packager, key: keys.PrivateKey, tmp_path: Path, version: str, code: int
) -> None:
    save(sign(bundles.make(Store(tmp_path / "elsewhere")), key), tmp_path / "signed.tar")
    there = f"file://{tmp_path}/bucket/tiny:{version}"
    assert packager("push", "signed.tar", there) == 0
    assert packager("pull", there, "--key", "release.pub") == code


def test_the_grammar_is_one() -> None:
    """A recipe accepts exactly what a reader accepts."""
    from packager import names
    from packager.recipe import recipe

    for name, version in ODD.values():
        assert not (names.is_name(name) and names.is_version(version))
        text = json.dumps({"name": name, "version": version, "source": "m.onnx"}).encode()
        with pytest.raises(UsageError):
            recipe.parse(text.decode(), "bundle.yaml")
