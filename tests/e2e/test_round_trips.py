# SPDX-License-Identifier: Apache-2.0
"""Each kind of signer: signed through the command line, verified with network and servers off, by us and by others.

The others are unmodified and run in environments of their own: `sigstore`, `model_signing`, `openssl`.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from packager.formats import dsse, intoto
from packager.store.store import Store
from packager.transport.copy import save
from tests.conftest import Run
from tests.e2e.conftest import tool
from tests.sigstore import Sigstore
from tests.support import bundles, environments, pki

SOFTHSM = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
WHO = "https://git.example/acme/models/.ci/release.yml@refs/tags/v1"
SCAN = "https://scans.example/v1"


@dataclass
class Case:
    """A folder with a bundle to sign, and how to run things in it."""

    folder: Path
    packager: Run

    def statement(self, predicate_type: str = intoto.BUNDLE_PREDICATE) -> Path:
        """Return the signature about the manifest, a Sigstore bundle, as a file."""
        inspected = json.loads(self.packager("inspect", "layout", "--json").stdout)
        (digest,) = [s["digest"] for s in inspected["statements"] if s["predicate_type"] == predicate_type]
        return self.folder / "layout/blobs/sha256" / digest.removeprefix("sha256:")

    @property
    def manifest(self) -> Path:
        digest = json.loads(self.packager("inspect", "layout", "--json").stdout)["digest"]
        return self.folder / "layout/blobs/sha256" / str(digest).removeprefix("sha256:")

    def offline(self, *command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command where there is no network at all, not even to this machine."""
        bwrap = tool("bwrap")
        prefix = [bwrap, "--dev-bind", "/", "/", "--unshare-net", "--setenv", "HOME", str(self.folder)]
        done = subprocess.run(
            [*prefix, *map(str, command)], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def verify(self, *options: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.offline(
            sys.executable, "-m", "packager", "verify", "layout", "--state", "none", *options, code=code
        )

    def envelope(self) -> tuple[Path, Path]:
        """Write the bytes that were signed and the signature, for `openssl dgst`."""
        envelope = json.loads(self.statement().read_bytes())["dsseEnvelope"]
        signed, signature = self.folder / "signed.bin", self.folder / "signature.der"
        signed.write_bytes(dsse.encode_payload(base64.b64decode(envelope["payload"])))
        signature.write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        return signed, signature

    def openssl_accepts(self, public: Path, code: int = 0) -> None:
        signed, signature = self.envelope()
        self.offline(tool("openssl"), "dgst", "-sha256", "-verify", public, "-signature", signature, signed, code=code)

    def model_signing_accepts(self, *options: str | Path) -> None:
        """Let `model_signing verify` judge the unpacked files; it must refuse them once one was changed."""
        answer = json.loads(self.packager("unpack", "layout", "tree", "--json").stdout)
        python, kind, *rest = environments.model_signing(), *options
        command = [
            python,
            "-m",
            "model_signing",
            "verify",
            kind,
            *rest,
            "--signature",
            answer["model_signing"][0],
            "tree",
        ]
        self.offline(*command)
        with (self.folder / "tree/model/model.onnx").open("ab") as file:
            file.write(b"x")
        self.offline(*command, code=1)


@pytest.fixture
def case(tmp_path: Path, packager: Run) -> Case:
    save(bundles.make(Store(tmp_path / "made")), tmp_path / "layout")
    (tmp_path / "predicate.json").write_text('{"findings": []}')
    return Case(tmp_path, packager)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Sigstore]:
    folder = tmp_path / "instance"
    folder.mkdir()
    with Sigstore(folder) as running:
        yield running


def test_a_key(case: Case) -> None:
    case.packager("keygen", "release")
    case.packager("sign", "layout", "--key", "release.pem")
    case.packager("attest", "layout", "--predicate", "predicate.json", "--type", SCAN, "--key", "release.pem")
    assert SCAN in case.verify("--key", "release.pub", "--json").stdout
    case.openssl_accepts(case.folder / "release.pub")
    case.model_signing_accepts("key", "--public_key", case.folder / "release.pub")


@pytest.fixture
def token(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A SoftHSM token with a key pair; returns the URI of one of its keys."""
    softhsm, pkcs11 = tool("softhsm2-util"), tool("pkcs11-tool")
    module = next((path for path in SOFTHSM if Path(path).exists()), SOFTHSM[0])
    (case.folder / "tokens").mkdir()
    config = case.folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {case.folder / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    subprocess.run(
        [softhsm, "--init-token", "--free", "--label", "release", "--pin", "1234", "--so-pin", "5678"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            pkcs11,
            "--module",
            module,
            "--login",
            "--pin",
            "1234",
            "--token-label",
            "release",
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "key1",
            "--id",
            "01",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            pkcs11,
            "--module",
            module,
            "--token-label",
            "release",
            "--read-object",
            "--type",
            "pubkey",
            "--label",
            "key1",
            "-o",
            case.folder / "key1.der",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            tool("openssl"),
            "pkey",
            "-pubin",
            "-inform",
            "DER",
            "-in",
            case.folder / "key1.der",
            "-out",
            case.folder / "key1.pub",
        ],
        check=True,
    )
    case.packager("keygen", "key2", "--curve", "p384")
    subprocess.run(
        [
            softhsm,
            "--import",
            case.folder / "key2.pem",
            "--token",
            "release",
            "--label",
            "key2",
            "--id",
            "02",
            "--pin",
            "1234",
        ],
        check=True,
        capture_output=True,
    )
    return lambda label: f"key+pkcs11:token=release;object={label}?module-path={module}"


def test_a_key_in_a_token(case: Case, token: Callable[[str], str]) -> None:
    config = {"SOFTHSM2_CONF": str(case.folder / "softhsm2.conf")}
    for wrong in ({}, {"PACKAGER_PASSPHRASE": "0000"}):
        done = case.packager("sign", "layout", "--key", token("key1"), **config, **wrong, code=None)
        assert done.returncode in (2, 3)
        assert "hint:" in done.stderr
    assert (
        "expected one EC key"
        in case.packager(
            "sign",
            "layout",
            "--key",
            token("key1").replace("object=key1", "object=nothing"),
            **config,
            PACKAGER_PASSPHRASE="1234",
            code=2,
        ).stderr
    )
    case.packager("sign", "layout", "--key", token("key1"), **config, PACKAGER_PASSPHRASE="1234")
    case.verify("--key", "key1.pub")
    case.verify("--key", "key2.pub", code=1)
    case.openssl_accepts(case.folder / "key1.pub")
    case.model_signing_accepts("key", "--public_key", case.folder / "key1.pub")


def test_a_key_of_the_other_curve_in_a_token(case: Case, token: Callable[[str], str]) -> None:
    config = {"SOFTHSM2_CONF": str(case.folder / "softhsm2.conf"), "PACKAGER_PASSPHRASE": "1234"}
    case.packager("sign", "layout", "--signer", token("key2"), **config)
    case.verify("--key", "key2.pub")


@pytest.fixture
def corporation(case: Case) -> pki.Holder:
    """An enterprise authority with an intermediate, and a release certificate with its key, as files."""
    root = pki.root()
    middle = root.issue("Corp Signing", ca=True, length=0)
    middle.signer().save(case.folder, "leaf")
    (case.folder / "chain.pem").write_bytes(middle.pem)
    (case.folder / "root.pem").write_bytes(root.pem)
    return root


def test_a_certificate_with_a_time_stamp(case: Case, corporation: pki.Holder, instance: Sigstore) -> None:
    (case.folder / "tsa.pem").write_bytes(instance.stamping[1].pem)
    case.packager(
        "sign",
        "layout",
        "--certificate",
        "leaf.pem",
        "--key",
        "leaf.key",
        "--chain",
        "chain.pem",
        "--tsa",
        f"{instance.url}/api/v1/timestamp",
    )
    instance.stop()
    trusted = ("--ca", "root.pem", "--identity", pki.EMAIL)
    verdict = json.loads(case.verify(*trusted, "--tsa-ca", "tsa.pem", "--json").stdout)
    assert verdict["signers"] == [pki.EMAIL]
    assert all(statement["time"] for statement in verdict["statements"])
    case.verify(*trusted)
    case.verify("--ca", "root.pem", "--identity", "release@corp.example.evil", code=1)
    _openssl_accepts_chain_and_stamp(case)
    case.model_signing_accepts("certificate", "--certificate_chain", case.folder / "root.pem")


def _openssl_accepts_chain_and_stamp(case: Case) -> None:
    """Path, signature and time stamp, each by OpenSSL alone."""
    case.offline(tool("openssl"), "verify", "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem")
    public = subprocess.run(
        [tool("openssl"), "x509", "-in", "leaf.pem", "-pubkey", "-noout"],
        cwd=case.folder,
        capture_output=True,
        check=True,
    )
    (case.folder / "leaf.pub").write_bytes(public.stdout)
    case.openssl_accepts(case.folder / "leaf.pub")
    material = json.loads(case.statement().read_bytes())["verificationMaterial"]
    (stamp,) = material["timestampVerificationData"]["rfc3161Timestamps"]
    (case.folder / "stamp.tsr").write_bytes(base64.b64decode(stamp["signedTimestamp"]))
    _, signature = case.envelope()
    command = [tool("openssl"), "ts", "-verify", "-in", "stamp.tsr", "-CAfile", "tsa.pem", "-data"]
    case.offline(*command, signature)
    case.offline(*command, case.folder / "signed.bin", code=1)


def test_a_certificate_whose_key_is_in_a_token(
    case: Case, corporation: pki.Holder, token: Callable[[str], str], instance: Sigstore
) -> None:
    """The key is made in the token; the authority only sees its public half."""
    uri = token("key1")
    public = serialization.load_pem_public_key((case.folder / "key1.pub").read_bytes())
    leaf = corporation.certify(public)
    (case.folder / "token-leaf.pem").write_bytes(leaf)
    case.packager(
        "sign",
        "layout",
        "--certificate",
        "token-leaf.pem",
        "--key",
        uri,
        "--tsa",
        f"{instance.url}/api/v1/timestamp",
        SOFTHSM2_CONF=str(case.folder / "softhsm2.conf"),
        PACKAGER_PASSPHRASE="1234",
    )
    instance.stop()
    case.verify("--ca", "root.pem", "--identity", pki.EMAIL)


def test_a_certificate_of_another_key_does_not_sign(case: Case, corporation: pki.Holder) -> None:
    case.packager("keygen", "other")
    done = case.packager("sign", "layout", "--certificate", "leaf.pem", "--key", "other.pem", code=2)
    assert "not of this key" in done.stderr


def test_a_silent_authority_ends_signing(case: Case, corporation: pki.Holder, instance: Sigstore) -> None:
    instance.stop()
    done = case.packager(
        "sign", "layout", "--certificate", "leaf.pem", "--key", "leaf.key", "--tsa", instance.url, code=3
    )
    assert "time stamping authority" in done.stderr
    assert json.loads(case.packager("inspect", "layout", "--json").stdout)["statements"] == []


def test_an_identity(case: Case, instance: Sigstore) -> None:
    (case.folder / "token.jwt").write_text(instance.token(WHO))
    case.packager(
        "sign", "layout", "--keyless", "--trust-config", instance.trust_config, "--identity-token", "token.jwt"
    )
    instance.stop()
    trusted = ("--identity", WHO, "--issuer", instance.url, "--trust-config", instance.trusted_root)
    verdict = json.loads(case.verify(*trusted, "--json").stdout)
    assert verdict["signers"] == [WHO]
    assert all(statement["time"] for statement in verdict["statements"])
    case.verify("--identity", WHO + "1", *trusted[2:], code=1)
    case.offline(
        environments.sigstore(),
        "-m",
        "sigstore",
        "--trust-config",
        instance.trust_config,
        "verify",
        "identity",
        "--offline",
        "--cert-identity",
        WHO,
        "--cert-oidc-issuer",
        instance.url,
        "--bundle",
        case.statement(),
        case.manifest,
    )
    case.model_signing_accepts(
        "sigstore", "--trust_config", instance.trust_config, "--identity", WHO, "--identity_provider", instance.url
    )


def test_the_instance_serves_unmodified_clients(case: Case, instance: Sigstore) -> None:
    """It is the clients' own code that signs and verifies here; ours has no part in it."""
    who = "ci@local.test"
    (case.folder / "artefact").write_bytes(b"bytes")
    run = [environments.sigstore(), "-m", "sigstore", "--trust-config", instance.trust_config]
    subprocess.run(
        [*run, "sign", "--identity-token", instance.token(who), "artefact"],
        cwd=case.folder,
        check=True,
        capture_output=True,
    )
    case.packager("unpack", "layout", "tree")
    run_model = [environments.model_signing(), "-m", "model_signing"]
    subprocess.run(
        [
            *run_model,
            "sign",
            "sigstore",
            "--trust_config",
            instance.trust_config,
            "--identity_token",
            instance.token(who),
            "--signature",
            "model.sig",
            "--ignore-paths",
            "tree/.packager",
            "tree",
        ],
        cwd=case.folder,
        check=True,
        capture_output=True,
    )
    instance.stop()
    whose = ("--cert-identity", who, "--cert-oidc-issuer", instance.url)
    case.offline(*run, "verify", "identity", "--offline", *whose, "artefact")
    case.offline(
        *run_model,
        "verify",
        "sigstore",
        "--trust_config",
        instance.trust_config,
        "--identity",
        who,
        "--identity_provider",
        instance.url,
        "--signature",
        "model.sig",
        "--ignore-paths",
        "tree/.packager",
        "tree",
    )
    (case.folder / "artefact").write_bytes(b"others")
    case.offline(*run, "verify", "identity", "--offline", *whose, "artefact", code=1)


def test_a_token_that_is_none_is_refused(case: Case, instance: Sigstore) -> None:
    (case.folder / "token.jwt").write_text("not.a.token")
    done = case.packager(
        "sign", "layout", "--keyless", "--trust-config", instance.trust_config, "--identity-token", "token.jwt", code=2
    )
    assert "identity token" in done.stderr
    forged = Sigstore(case.folder)  # another issuer of the same address signs its tokens with another key
    (case.folder / "token.jwt").write_text(forged.token(WHO))
    done = case.packager(
        "sign", "layout", "--keyless", "--trust-config", instance.trust_config, "--identity-token", "token.jwt", code=3
    )
    assert "no certificate" in done.stderr
    forged._server.server_close()


def test_without_any_identity_nothing_is_asked(case: Case, instance: Sigstore) -> None:
    done = case.packager("sign", "layout", "--keyless", "--trust-config", instance.trust_config, code=2)
    assert "no identity" in done.stderr
