# SPDX-License-Identifier: Apache-2.0
"""Other programs accept what we sign, and we accept what they sign and copy: real ones, in a real registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packager.cli import main
from packager.formats import simple_signing
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import bundles, deployments, environments, pki
from tests.support.registry_server import Registry, registry

Run = Callable[..., str]


def program(name: str) -> str:
    """Return a program that no distribution of ours installs, or skip."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place(here: Path) -> Iterator[Registry]:
    with registry(program("docker-registry"), here / "registry") as made:
        yield made


@pytest.fixture
def run(here: Path) -> Run:
    """Return what runs another program and returns its output; it must succeed unless `fails`."""

    def run(name: str, *words: str, fails: bool = False) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(here), "COSIGN_PASSWORD": ""}
        command = [program(name), *words]
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def digest(here: Path) -> str:
    """Make an unsigned bundle as `tiny.tar`, and keys and certificates to sign it with."""
    bundle = bundles.make(Store(here / "made"))
    save(bundle, here / "tiny.tar")
    for name, curve in (("release", "p256"), ("other", "p256"), ("wide", "p384")):
        keys.save(keys.generate_key(curve), here / f"{name}.pem", here / f"{name}.pub", None)
    root = pki.root()
    between = root.issue("Corp Signing", ca=True)
    between.signer().save(here, "leaf")
    (here / "root.pem").write_bytes(root.pem)
    (here / "between.pem").write_bytes(between.pem)
    (here / "chain.pem").write_bytes(between.pem + root.pem)
    return bundle.digest


CERTIFICATE = ("--certificate", "leaf.pem", "--key", "leaf.key", "--chain", "between.pem")
WHO = ("--ca", "root.pem", "--identity", pki.EMAIL)
OPEN = ("--allow-http-registry", "--insecure-ignore-tlog")


def signed(place: Registry, *signer: str) -> str:
    """Sign `tiny.tar` and push it; return its address for other programs."""
    assert main(["sign", "tiny.tar", *signer, "-o", "signed.tar"]) == 0
    assert main(["push", "signed.tar", f"oci://{place.host}/models/tiny:1.0.0"]) == 0
    return f"{place.host}/models/tiny:1.0.0"


@pytest.mark.parametrize("name", ["release", "wide"])
def test_cosign_accepts_our_key(place: Registry, digest: str, run: Run, name: str) -> None:
    there = signed(place, "--key", f"{name}.pem")
    wide = ("--signature-digest-algorithm", "sha384") if name == "wide" else ()
    assert digest in run("cosign", "verify", "--key", f"{name}.pub", *wide, *OPEN, there)
    run("cosign", "verify", "--key", "other.pub", *OPEN, there, fails=True)
    kind = ("--type", "urn:packager:bundle:v1")
    run("cosign", "verify-attestation", *kind, "--key", f"{name}.pub", *wide, *OPEN, there)


def test_cosign_accepts_our_certificate_without_a_flag(place: Registry, digest: str, run: Run, here: Path) -> None:
    there = signed(place, *CERTIFICATE)
    authority = "url=https://ca.corp.example,certificate-chain=chain.pem"
    run("cosign", "trusted-root", "create", "--fulcio", authority, "--out", "root.json")
    who = ("--certificate-oidc-issuer-regexp", ".*", "--insecure-ignore-sct", "--certificate-identity")
    assert digest in run("cosign", "verify", "--trusted-root", "root.json", *OPEN, *who, pki.EMAIL, there)
    run("cosign", "verify", "--trusted-root", "root.json", *OPEN, *who, "eve@corp.example", there, fails=True)
    assert main(["verify", f"oci://{there}", *WHO]) == 0


def test_a_certificate_spoils_nothing_for_keys(place: Registry, digest: str, run: Run) -> None:
    signed(place, "--key", "release.pem")
    assert main(["sign", f"oci://{place.host}/models/tiny:1.0.0", *CERTIFICATE]) == 0
    there = f"{place.host}/models/tiny:1.0.0"
    assert digest in run("cosign", "verify", "--key", "release.pub", *OPEN, there)
    for who in (("--key", "release.pub"), WHO):
        assert main(["verify", f"oci://{there}", *who]) == 0


def test_model_signing_accepts_our_certificate(here: Path, digest: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its statement has the chain inside, as OpenSSF Model Signing has it."""
    assert main(["sign", "tiny.tar", *CERTIFICATE, "-o", "signed.tar"]) == 0
    capsys.readouterr()
    assert main(["unpack", "signed.tar", "tree", "--json"]) == 0
    (signature,) = json.loads(capsys.readouterr().out)["model_signing"]
    command = [environments.model_signing(), "-m", "model_signing", "verify", "certificate", "--signature", signature]
    for root, code in (("root.pem", 0), ("stranger.pem", 1)):
        (here / "stranger.pem").write_bytes(pki.root("Stranger").pem)
        words = [*command, "--certificate_chain", root, "tree"]
        assert subprocess.run(words, capture_output=True, check=False).returncode == code, root


@pytest.fixture
def cosign_key(run: Run) -> tuple[str, ...]:
    run("cosign", "generate-key-pair")
    run("cosign", "signing-config", "create", "--out", "none.json")
    return ("--key", "cosign.key", "--signing-config", "none.json", "--allow-http-registry", "--yes")


def test_a_signature_by_cosign_signs_the_bundle(
    place: Registry, digest: str, run: Run, cosign_key: tuple[str, ...], here: Path
) -> None:
    """A pipeline that signs with cosign needs nothing of ours to sign."""
    there = f"{place.host}/models/tiny:1.0.0"
    assert main(["push", "tiny.tar", f"oci://{there}"]) == 0
    assert main(["verify", f"oci://{there}", "--key", "cosign.pub"]) == 1
    run("cosign", "sign", *cosign_key, there)
    assert main(["verify", f"oci://{there}", "--key", "cosign.pub"]) == 0
    assert main(["verify", f"oci://{there}", "--key", "other.pub"]) == 1
    assert main(["pull", f"oci://{there}", "--key", "cosign.pub", "-o", "back.tar"]) == 0
    assert main(["verify", "back.tar", "--key", "cosign.pub"]) == 0


def test_a_certificate_that_cosign_signs_with(
    place: Registry, digest: str, run: Run, cosign_key: tuple[str, ...], here: Path
) -> None:
    there = f"{place.host}/models/tiny:1.0.0"
    assert main(["push", "tiny.tar", f"oci://{there}"]) == 0
    run("cosign", "import-key-pair", "--key", "leaf.key", "--output-key-prefix", "leaf-cosign")
    authority = "url=https://ca.corp.example,certificate-chain=chain.pem"
    run("cosign", "trusted-root", "create", "--fulcio", authority, "--out", "root.json")
    chain = ("--certificate", "leaf.pem", "--certificate-chain", "chain.pem", "--trusted-root", "root.json")
    run("cosign", "sign", "--key", "leaf-cosign.key", *cosign_key[2:], *chain, there)
    assert main(["verify", f"oci://{there}", *WHO]) == 0
    assert main(["verify", f"oci://{there}", "--ca", "root.pem", "--identity", "eve@corp.example"]) == 1


def test_copies_by_oras_hold(place: Registry, digest: str, run: Run, here: Path) -> None:
    there = signed(place, "--key", "release.pem")
    run("oras", "cp", "-r", "--from-plain-http", "--to-oci-layout", there, "layout:1.0.0")
    run("oras", "backup", "--plain-http", "--include-referrers", "--output", "backup.tar", there)
    run("oras", "pull", "--plain-http", "--output", "files", there)
    for form in ("layout", "backup.tar"):
        assert main(["verify", form, "--key", "release.pub"]) == 0
    for statements in (f"oci://{there}", "layout", "backup.tar", "signed.tar"):
        assert main(["verify", "files", "--statements", statements, "--key", "release.pub"]) == 0
    assert main(["import", "backup.tar", "--key", "release.pub"]) == 0
    assert main(["unpack", "layout", "tree", "--key", "release.pub"]) == 0
    assert main(["verify", "tree", "--key", "release.pub"]) == 0
    (here / "files/model/model.onnx").write_bytes(b"grapH")
    assert main(["verify", "files", "--statements", "layout", "--key", "release.pub"]) == 5
    second = f"{place.host}/mirror/tiny:1.0.0"
    run("oras", "cp", "-r", "--from-oci-layout", "--to-plain-http", "layout:1.0.0", second)
    assert main(["verify", f"oci://{second}", "--key", "release.pub"]) == 0


def test_the_first_form_beside_ours(place: Registry, digest: str, run: Run, here: Path) -> None:
    """`--also cosign-legacy`: cosign reads it, by each key that signed; the bundle is what it was."""
    there = signed(place, "--key", "release.pem")
    old = ("--new-bundle-format=false", *OPEN)
    run("cosign", "verify", "--key", "release.pub", *old, there, fails=True)
    for name in ("release", "release", "other"):
        words = ["sign", f"oci://{there}", "--key", f"{name}.pem", "--also", "cosign-legacy"]
        assert main(words) == 0
    for name in ("release", "other"):
        assert digest in run("cosign", "verify", "--key", f"{name}.pub", *old, there)
    run("cosign", "verify", "--key", "wide.pub", *old, there, fails=True)
    manifest = json.loads(
        run("oras", "manifest", "fetch", "--plain-http", f"{place.host}/models/tiny:{simple_signing.name_tag(digest)}")
    )
    assert len(manifest["layers"]) == 2
    assert main(["verify", f"oci://{there}", "--key", "release.pub"]) == 0


def test_the_first_form_needs_a_registry_and_a_key(digest: str, here: Path, place: Registry) -> None:
    assert main(["sign", "tiny.tar", "--key", "release.pem", "--also", "cosign-legacy"]) == 2
    assert main(["push", "tiny.tar", f"oci://{place.host}/models/tiny:1.0.0"]) == 0
    there = f"oci://{place.host}/models/tiny:1.0.0"
    assert main(["sign", there, *CERTIFICATE, "--also", "cosign-legacy"]) == 2
    assert main(["verify", there, *WHO]) == 1


@pytest.mark.slow  # few referrers are read by default
@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_many_referrers_in_a_registry(
    count: int, place: Registry, digest: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What others attached by the hundred, and in pieces of 12 MB, is named in a few lines."""
    there = f"oci://{place.host}/models/tiny:1.0.0"
    stranger = keys.load_private(here / "other.pem", lambda: None)
    crowded = sign(bundles.make(Store(here / "made")), keys.load_private(here / "release.pem", lambda: None))
    for number in range(count):
        statement = (
            b'{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"u","predicate":%d}' % number
        )
        crowded = crowded.with_statement(stranger.sign(statement).to_bytes(), "urn:other")
    for number in range(12):
        crowded = crowded.with_statement(bytes([65 + number]) * (12 << 20), "urn:large")
    save(crowded, here / "crowded.tar")
    assert main(["push", "crowded.tar", there]) == 0
    capsys.readouterr()
    assert main(["verify", there, "--key", "release.pub"]) == 0
    said = capsys.readouterr()
    assert len([row for row in said.out.splitlines() if row.startswith("note")]) <= 12
    assert "are left out" in said.err or "is left out" in said.err
    assert main(["verify", there, "--key", "wide.pub"]) == 1


BUILT = """FROM scratch
COPY python3 /usr/bin/python3
"""


@pytest.mark.slow  # buildah is not everywhere; tests/unit/release/test_images.py signs images by default
def test_cosign_accepts_the_image_that_buildah_built(place: Registry, digest: str, run: Run, here: Path) -> None:
    """Of a rendering, with its Containerfile; changed after that, it is not signed."""
    storage = ("--storage-driver", "vfs", "--root", str(here / "layers"), "--runroot", str(here / "run"))

    def build(folder: str, name: str) -> str:
        there = f"{place.host}/{name}:1"
        options = ("--isolation", "chroot", "--layers", "--timestamp", "0", "--tls-verify=false")
        run("buildah", *storage, "build", *options, "--tag", there, folder)
        run("buildah", *storage, "push", "--tls-verify=false", "--digestfile", f"{folder}.digest", there)
        return there

    (here / "base").mkdir()
    (here / "base/Containerfile").write_text(BUILT)
    (here / "base/python3").write_bytes(b"#!")
    base = f"{build('base', 'base').removesuffix(':1')}@{(here / 'base.digest').read_text()}"
    bundle = sign(deployments.carrier(Store(here / "carried")), keys.load_private(here / "release.pem", lambda: None))
    save(bundle, here / "carrier.tar")
    model, who = f"oci://{place.host}/models/tiny:1.0.0", ("--key", "release.pub")
    assert main(["push", "carrier.tar", model]) == 0
    assert main(["render", "container", "carrier.tar", "image", *who, "--base", base]) == 0
    there = build("image", "serving")
    words = ("image", "--key", "release.pem", "--made-of", model, "--also", "cosign-legacy")
    run("cosign", "verify", *who, *OPEN, there, fails=True)
    assert main(["sign-image", f"oci://{there}", *words]) == 0
    assert main(["verify", f"oci://{there}", *who]) == 0
    run("cosign", "verify", *who, *OPEN, there)
    run("cosign", "verify", "--new-bundle-format=false", *who, *OPEN, there)
    for kind in ("urn:packager:image:v1", "https://slsa.dev/provenance/v1"):
        run("cosign", "verify-attestation", "--type", kind, *who, *OPEN, there)
    run("cosign", "verify", "--key", "other.pub", *OPEN, there, fails=True)
    (here / "image/server/app/sitecustomize.py").write_text("import os")
    changed = build("image", "changed")
    (here / "image/server/app/sitecustomize.py").unlink()
    assert main(["sign-image", f"oci://{changed}", *words]) == 5
