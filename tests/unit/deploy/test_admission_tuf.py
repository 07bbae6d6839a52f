# SPDX-License-Identifier: Apache-2.0
"""A pinned Sigstore instance for Kyverno: the policy names a TUF mirror, and the repository for it is written.

The clients are real: python-tuf over HTTP, the `sigstore` library with the root that it fetched, and cosign.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from sigstore.models import Bundle as SigstoreBundle
from sigstore.models import TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity
from tuf.api import exceptions
from tuf.ngclient import Updater

from packager.cli import main
from packager.deploy import render
from packager.deploy.renderers import _tuf
from packager.errors import UsageError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from packager.trust.model import KeylessSigner, KeySigner, Trust
from packager.trust.signers import keyless
from tests.sigstore import Sigstore
from tests.support import bundles
from tests.support.deployments import OPTIONS, carrier, snapshot, values
from tests.support.registry_server import registry
from tests.support.static_server import serve_folder
from tests.unit.deploy.test_admission import KYVERNO

WHO, MIRROR = "ci@local.test", "http://sigstore-tuf.kyverno.svc"
KEY, STRANGER = keys.generate_key("p256"), keys.generate_key("p256")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return carrier(Store(tmp_path_factory.mktemp("store")), kleines=b"x")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("instance")


@pytest.fixture(scope="module")
def instance(place: Path) -> Iterator[Sigstore]:
    with Sigstore(place) as made:
        yield made


@pytest.fixture(scope="module")
def signed(instance: Sigstore, place: Path):
    token = instance.token(WHO).encode()
    signer = keyless.open_signer(str(instance.trust_config), lambda: token)
    return sign(bundles.make(Store(place / "signed")), signer)


@pytest.fixture
def trust(instance: Sigstore) -> Trust:
    """What a trust file with the seventh serial says."""
    return Trust(
        (KeylessSigner("ci", WHO, instance.url, "lab"),),
        "acme",
        7,
        datetime.now(UTC).replace(microsecond=0) + timedelta(days=30),
        instances={"lab": instance.trusted_root.read_bytes()},
    )


@pytest.fixture
def made(bundle, tmp_path: Path) -> Callable[..., Path]:
    """Return what renders to a folder, with a key file and a mirror unless told otherwise."""
    keys.save(KEY, tmp_path / "tuf.pem", tmp_path / "tuf.pub", None)
    known = {"admission": "kyverno", "admission-mirror": MIRROR, "admission-key": str(tmp_path / "tuf.pem")}

    def made(trust: Trust, out: str = "out", **given: str) -> Path:
        options = {**OPTIONS["kubernetes"], **known, **{name.replace("_", "-"): text for name, text in given.items()}}
        render.render_directory("kubernetes", bundle, values("kubernetes", bundle), tmp_path / out, options, trust)
        return tmp_path / out / "admission"

    return made


def fetched(url: str, root: bytes, memory: Path) -> bytes:
    """Return the trusted root as a TUF client with this memory gets it."""
    (memory / "targets").mkdir(parents=True, exist_ok=True)
    updater = Updater(str(memory), f"{url}/", str(memory / "targets"), f"{url}/targets/", bootstrap=root)
    target = updater.get_targetinfo("trusted_root.json")
    assert target is not None
    return Path(updater.download_target(target)).read_bytes()


def test_the_policy_names_the_mirror_and_the_first_root(made, trust: Trust) -> None:
    both = replace(trust, signers=(*trust.signers, KeySigner("release", STRANGER.public)))
    out = made(both, admission_mirror=f"{MIRROR}/")
    found = yaml.safe_load((out / "kyverno.yaml").read_text())
    jsonschema.validate(found, KYVERNO)
    pinned, by_key = (row["cosign"] for row in found["spec"]["attestors"])
    root = (out / "tuf" / "1.root.json").read_bytes()
    assert pinned["tuf"] == {"mirror": MIRROR, "root": {"data": base64.b64encode(root).decode()}}
    assert "ctlog" not in pinned, "Kyverno takes the logs from the mirror only without it"
    assert "tuf" not in by_key
    record = (out.parent / "deployment.json").read_text()
    assert MIRROR in record and "tuf.pem" not in record


def test_the_same_trust_and_key_give_the_same_bytes(made, trust: Trust) -> None:
    assert snapshot(made(trust, "a")) == snapshot(made(trust, "b"))
    after = snapshot(made(replace(trust, serial=8), "c"))
    before = snapshot(made(trust, "a"))
    kept = {path for path in before if before[path] == after.get(path)}
    assert {"kyverno.yaml", "tuf/1.root.json", "tuf/root.json"} <= kept, "a new serial needs no new policy"


def test_a_tuf_client_fetches_the_root_and_sigstore_verifies_with_it(
    made, trust: Trust, signed, instance: Sigstore, tmp_path: Path
) -> None:
    out = made(trust)
    root = (out / "tuf" / "root.json").read_bytes()
    with serve_folder(out / "tuf") as url:
        found = fetched(url, root, tmp_path / "memory")
    assert json.loads(found) == json.loads(instance.trusted_root.read_text())
    (tmp_path / "fetched.json").write_bytes(found)
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(tmp_path / "fetched.json")))
    (statement,) = [data for data in signed.pending.values() if b"urn:packager:bundle:v1" in decoded(data)]
    bundle = SigstoreBundle.from_json(statement)
    kind, payload = verifier.verify_dsse(bundle, Identity(identity=WHO, issuer=instance.url))
    assert kind == "application/vnd.in-toto+json" and signed.digest.removeprefix("sha256:") in payload.decode()


def decoded(data: bytes) -> bytes:
    return base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]) if b"dsseEnvelope" in data else b""


def changed_target(folder: Path, trust: Trust) -> None:
    (file,) = (folder / "targets").glob("*.trusted_root.json")
    file.write_bytes(file.read_bytes().replace(b'"tlogs"', b'"tlogz"'))


def longer_target(folder: Path, trust: Trust) -> None:
    (file,) = (folder / "targets").glob("*.trusted_root.json")
    file.write_bytes(file.read_bytes() + b" ")


def rolled_back(folder: Path, trust: Trust) -> None:
    rewrite(folder, KEY, 6, trust.expires)


def expired(folder: Path, trust: Trust) -> None:
    rewrite(folder, KEY, 8, datetime.now(UTC).replace(microsecond=0) - timedelta(days=1))


def of_another_key(folder: Path, trust: Trust) -> None:
    rewrite(folder, STRANGER, 8, trust.expires)


def mixed(folder: Path, trust: Trust) -> None:
    """A timestamp that says 8, and no snapshot 8."""
    later = _tuf.build_repository(trust.instances["lab"], KEY, 8, trust.expires)
    (folder / "timestamp.json").write_bytes(later["timestamp.json"])
    shutil.copy(folder / "7.snapshot.json", folder / "8.snapshot.json")


def rewrite(folder: Path, key: keys.PrivateKey, version: int, expires: datetime | None) -> None:
    (root,) = [file.read_bytes() for file in (folder / "targets").glob("*.trusted_root.json")]
    assert expires is not None
    for path, data in _tuf.build_repository(root, key, version, expires).items():
        (folder / path).write_bytes(data)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (changed_target, exceptions.LengthOrHashMismatchError),
        (longer_target, exceptions.DownloadLengthMismatchError),
        (rolled_back, exceptions.BadVersionNumberError),
        (expired, exceptions.ExpiredMetadataError),
        (of_another_key, exceptions.UnsignedMetadataError),
        (mixed, exceptions.BadVersionNumberError),
    ],
)
def test_a_mirror_that_changed_is_refused(change, error: type[Exception], made, trust: Trust, tmp_path: Path) -> None:
    out = made(trust)
    root = (out / "tuf" / "root.json").read_bytes()
    with serve_folder(out / "tuf") as url:
        fetched(url, root, tmp_path / "memory")
        shutil.rmtree(tmp_path / "memory" / "targets")
        change(out / "tuf", trust)
        with pytest.raises(error):
            fetched(url, root, tmp_path / "memory")


def test_parts_for_older_clients_say_what_they_are_for(trust: Trust, instance: Sigstore) -> None:
    root = json.loads(trust.instances["lab"])
    root["ctlogs"][0]["publicKey"]["validFor"]["end"] = "2026-01-01T00:00:00Z"
    assert trust.expires is not None
    files = _tuf.build_repository(json.dumps(root).encode(), KEY, 3, trust.expires)
    listed = json.loads(files["3.targets.json"])["signed"]["targets"]
    usages = {name: row["custom"]["sigstore"] for name, row in listed.items() if "custom" in row}
    assert usages == {
        "fulcio-0.crt.pem": {"usage": "Fulcio", "status": "Active"},
        "rekor-0.pub": {"usage": "Rekor", "status": "Active"},
        "ctfe-0.pub": {"usage": "CTFE", "status": "Expired"},
    }
    (chain,) = [data for path, data in files.items() if path.endswith(".fulcio-0.crt.pem")]
    assert chain == instance.fulcio.pem
    (log,) = [data for path, data in files.items() if path.endswith(".rekor-0.pub")]
    assert keys.parse_public(log).key.public_numbers() == instance.rekor.key.public_key().public_numbers()


def without(member: str, trust: Trust) -> Trust:
    root = {name: value for name, value in json.loads(trust.instances["lab"]).items() if name != member}
    return replace(trust, instances={"lab": json.dumps(root).encode()})


REFUSED = {
    "no mirror": (lambda trust: trust, {"admission_mirror": ""}, "reads from a TUF mirror"),
    "no key": (lambda trust: trust, {"admission_key": ""}, "is signed"),
    "no key file": (lambda trust: trust, {"admission_key": "missing.pem"}, "cannot read key `missing.pem`"),
    "no trust file": (lambda trust: replace(trust, name=None, expires=None), {}, "needs a trust file"),
    "no certificate log": (lambda trust: without("ctlogs", trust), {}, "without a log of certificates"),
    "no transparency log": (lambda trust: without("tlogs", trust), {}, "without a transparency log"),
    "two instances": (
        lambda trust: replace(
            trust,
            signers=(*trust.signers, replace(trust.signers[0], name="other", instance="other")),
            instances={**trust.instances, "other": trust.instances["lab"]},
        ),
        {},
        "one of 2 pinned instances",
    ),
    "nothing pinned": (
        lambda trust: replace(trust, signers=(KeySigner("k", KEY.public),)),
        {},
        "for identities of a pinned Sigstore instance",
    ),
    "another tool": (lambda trust: trust, {"admission": "policy-controller"}, "are for `kyverno`"),
    "no tool": (lambda trust: trust, {"admission": ""}, "goes with --admission"),
    "no address": (lambda trust: trust, {"admission_mirror": "file:///srv/tuf"}, "--admission-mirror: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_is_said(case: str, made, trust: Trust, tmp_path: Path) -> None:
    change, options, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        made(change(trust), **options)
    assert caught.value.hint or case in ("another tool", "no tool", "no address")
    assert not (tmp_path / "out").exists()


def test_a_key_that_the_older_client_cannot_read_is_refused(made, trust: Trust, tmp_path: Path) -> None:
    keys.save(keys.generate_key("p384"), tmp_path / "wide.pem", tmp_path / "wide.pub", None)
    with pytest.raises(UsageError, match="expected a P-256 key"):
        made(trust, admission_key=str(tmp_path / "wide.pem"))


def test_the_verb_takes_a_trust_file_and_an_encrypted_key(
    signed, instance: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_STATE", str(tmp_path / "seen"))
    save(signed, tmp_path / "signed.tar")
    keys.save(KEY, tmp_path / "tuf.pem", tmp_path / "tuf.pub", b"secret")
    (tmp_path / "secret").write_text("secret\n")
    root = ("--root-key", "roots.pem")
    who = ("--identity", WHO, "--issuer", instance.url, "--trust-config", str(instance.trust_config))
    assert main(["keygen", "roots"]) == 0
    assert main(["trust", "init", "acme.trust", "--name", "acme", *root]) == 0
    assert main(["trust", "add", "acme.trust", "--signer", "ci", *who, *root]) == 0
    asked = ("render", "kubernetes", "signed.tar", "out", "--trust", "acme.trust", "--admission", "kyverno")
    words = (*asked, "--image", OPTIONS["kubernetes"]["image"], "--admission-mirror", MIRROR)
    assert main([*words, "--admission-key", "tuf.pem"]) == 2
    assert main([*words, "--admission-key", "tuf.pem", "--passphrase-file", "secret"]) == 0
    assert json.loads((tmp_path / "out/admission/tuf/timestamp.json").read_text())["signed"]["version"] == 2


def cosign(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    return subprocess.run(["cosign", *words], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("cosign") is None, reason="cosign is not on PATH")
@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not on PATH")
def test_cosign_judges_by_the_mirror(made, trust: Trust, signed, instance: Sigstore, tmp_path: Path) -> None:
    out, home = made(trust), tmp_path / "home"
    other = made(replace(trust, serial=8), "other")
    home.mkdir()
    with serve_folder(out / "tuf") as url, registry("docker-registry", tmp_path / "registry") as there:
        refused = cosign(home, "initialize", "--mirror", url, "--root", str(stranger_root(trust, tmp_path)))
        assert refused.returncode != 0, refused.stderr
        shutil.rmtree(home / ".sigstore", ignore_errors=True)
        begun = cosign(home, "initialize", "--mirror", url, "--root", str(out / "tuf" / "root.json"))
        assert begun.returncode == 0, begun.stderr
        save(signed, tmp_path / "signed.tar")
        assert main(["push", str(tmp_path / "signed.tar"), f"oci://{there.host}/tiny:1.0.0"]) == 0
        image = ("--allow-http-registry", f"{there.host}/tiny:1.0.0", "--certificate-oidc-issuer", instance.url)
        right = cosign(home, "verify", *image, "--certificate-identity", WHO)
        assert right.returncode == 0 and signed.digest in right.stdout, right.stderr
        wrong = cosign(home, "verify", *image, "--certificate-identity", "eve@local.test")
        assert wrong.returncode != 0 and 'got "ci@local.test"' in wrong.stderr
        shutil.copytree(other / "tuf", out / "tuf", dirs_exist_ok=True)
        assert cosign(home, "verify", *image, "--certificate-identity", WHO).returncode == 0, "the next serial follows"
        rolled_back(out / "tuf", trust)
        assert cosign(home, "verify", *image, "--certificate-identity", WHO).returncode != 0


def stranger_root(trust: Trust, folder: Path) -> Path:
    assert trust.expires is not None
    files = _tuf.build_repository(trust.instances["lab"], STRANGER, 7, trust.expires)
    (folder / "stranger.json").write_bytes(files["root.json"])
    return folder / "stranger.json"
