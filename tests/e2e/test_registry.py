# SPDX-License-Identifier: Apache-2.0
"""Bundles through a real registry: plain, with a password, with TLS; and what other tools read there."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager import canonical
from packager.files import ignore_count
from packager.formats import modelpack, oci
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.transport.registry import reference, upload
from packager.transport.registry.repository import Repository
from packager.transport.registry.wire import Settings
from packager.trust import keys
from packager.types import Blob
from tests.conftest import Run
from tests.e2e.conftest import tool
from tests.support import bundles, registry_server
from tests.support.registry_server import Registry


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle of a few megabytes as a file, and its key."""
    root = tmp_path_factory.mktemp("bundle")
    key = keys.generate_key("p256")
    keys.save(key, root / "release.pem", root / "release.pub", None)
    files = {f"model/weights-{n:04}.bin": os.urandom(3 << 20) for n in range(1, 4)}
    copy.save(sign(bundles.make(Store(root / "store"), files), key), root / "tiny.bundle.tar")
    return root / "tiny.bundle.tar"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("plain") / "r") as running:
        yield running


def digest_of(packager: Run, reference: object) -> str:
    return str(json.loads(packager("inspect", reference, "--json").stdout)["digest"])


def test_push_pull_verify_inspect_unpack(packager: Run, bundle: Path, plain: Registry, tmp_path: Path) -> None:
    name = f"oci://{plain.host}/team/tiny"
    first = json.loads(packager("push", bundle, name, "--json").stdout)
    assert first["sent"] == first["size"]
    assert json.loads(packager("push", bundle, name, "--json").stdout)["sent"] == 0
    for where in (f"{name}:1.0.0", first["reference"]):
        assert digest_of(packager, where) == first["digest"]
        packager("verify", where, "--key", bundle.with_name("release.pub"))
    packager("unpack", f"{name}:1.0.0", tmp_path / "tree", "--key", bundle.with_name("release.pub"))
    packager("verify", tmp_path / "tree", "--key", bundle.with_name("release.pub"))
    packager("pull", f"{name}:1.0.0", "-o", tmp_path / "back.bundle.tar")
    assert (tmp_path / "back.bundle.tar").read_bytes() == bundle.read_bytes()
    packager("export", f"{name}:1.0.0", tmp_path / "straight.bundle.tar")
    assert (tmp_path / "straight.bundle.tar").read_bytes() == bundle.read_bytes()
    packager("import", bundle, "--key", bundle.with_name("release.pub"), "--store", tmp_path / "third")
    packager("export", "tiny:1.0.0", tmp_path / "third.bundle.tar", "--store", tmp_path / "third")
    assert (tmp_path / "third.bundle.tar").read_bytes() == bundle.read_bytes()


def test_a_bundle_is_signed_where_it_lies(packager: Run, bundle: Path, plain: Registry, tmp_path: Path) -> None:
    name = f"oci://{plain.host}/team/signed/tiny"
    packager("push", bundle, name)
    packager("keygen", "second")
    packager("verify", f"{name}:1.0.0", "--key", "second.pub", code=1)
    packager("sign", f"{name}:1.0.0", "--key", "second.pem")
    for key in (tmp_path / "second.pub", bundle.with_name("release.pub")):
        packager("verify", f"{name}:1.0.0", "--key", key)


class Killed(BaseException):
    """Ends an upload as a signal would: nothing is tidied up."""


class Dying(io.BytesIO):
    """A source that is killed when so much of it was read."""

    def __init__(self, data: bytes, after: int) -> None:
        super().__init__(data)
        self._after = after

    def readinto(self, buffer: object) -> int:
        if self.tell() >= self._after:
            raise Killed
        return super().readinto(buffer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pieces", "sent_again"), [(1.0, ["PATCH", "PUT"]), (2.0, ["PUT"]), (1.5, ["POST", "PATCH", "PATCH", "PUT"])]
)
def test_a_killed_upload_sends_whole_pieces_once(
    plain: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: float, sent_again: list[str]
) -> None:
    """Docker's registry keeps what came in whole requests; cut inside one it drops the session, as the last case shows."""
    size = 4 << 20
    monkeypatch.setattr(upload, "PIECE", size)
    data = os.urandom(2 * size + 12345)
    blob = Blob(canonical.sha256(data), len(data))
    there = reference.parse(f"oci://{plain.host}/team/killed{pieces}:1")
    settings = Settings(sessions=tmp_path / "sessions")
    log = plain.folder / "log"
    before = log.read_text().count("client disconnected")
    with pytest.raises(Killed):
        upload.upload(Repository(there, settings), blob, lambda: Dying(data, int(pieces * size)), ignore_count)
    deadline = time.monotonic() + 10
    while log.read_text().count("client disconnected") == before and time.monotonic() < deadline:
        time.sleep(0.05)
    start = plain.position()
    repository = Repository(there, settings)
    upload.upload(repository, blob, lambda: io.BytesIO(data), ignore_count)
    assert repository.has(blob)
    deadline = time.monotonic() + 10
    while not any(row.method == "HEAD" for row in plain.rows(start)) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = [row for row in plain.rows(start) if there.name in row.path and row.status in (201, 202)]
    rows = [row.method for row in done]
    assert rows == sent_again


def test_errors_have_their_exit_code_and_a_hint(packager: Run, bundle: Path, plain: Registry) -> None:
    name = f"oci://{plain.host}/team/none"
    assert "has no" in packager("verify", f"{name}:1", "--key", bundle.with_name("release.pub"), code=3).stderr
    assert "malformed" in packager("inspect", f"oci://{plain.host}/UPPER:1", code=2).stderr
    packager("push", bundle, f"{name}:1")
    nowhere = f"oci://127.0.0.1:{registry_server.free_port()}/x:1"
    done = packager("inspect", nowhere, code=3)
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    refused = packager("inspect", "oci://registry.invalid/x:1", code=3)
    assert "error:" in refused.stderr


def htpasswd(folder: Path) -> str:
    subprocess.run([tool("htpasswd"), "-Bbc", str(folder / "users"), "ada", "s3cret"], check=True, capture_output=True)
    return f"auth: {{htpasswd: {{realm: test, path: {folder / 'users'}}}}}\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority of our own, and a certificate for 127.0.0.1 from it."""
    folder, openssl = tmp_path_factory.mktemp("ca"), tool("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    run("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    run(
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    )
    return folder


def test_tls_with_an_authority_of_ones_own_and_a_password(
    packager: Run, bundle: Path, authority: Path, tmp_path: Path
) -> None:
    more = f"  tls: {{certificate: {authority / 'server.pem'}, key: {authority / 'server.key'}}}\n"
    with registry_server.registry(tool("docker-registry"), tmp_path / "r", more + htpasswd(tmp_path)) as running:
        name = f"oci://{running.host}/team/tiny"
        untrusted = packager("push", bundle, name, code=3)
        assert "--registry-ca" in untrusted.stderr
        trusted = ("--registry-ca", authority / "ca.pem")
        anonymous = packager("push", bundle, name, *trusted, code=3)
        assert "docker login" in anonymous.stderr
        entry = {"auth": base64.b64encode(b"ada:s3cret").decode()}
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {running.host: entry}}))
        packager("push", bundle, name, *trusted)
        done = packager("verify", f"{name}:1.0.0", "--key", bundle.with_name("release.pub"), *trusted)
        packager("pull", f"{name}:1.0.0", *trusted, SSL_CERT_FILE=str(authority / "ca.pem"))
        assert "s3cret" not in done.stderr + done.stdout
        wrong = {"auths": {running.host: {"auth": base64.b64encode(b"ada:wr0ng").decode()}}}
        (tmp_path / "auth.json").write_text(json.dumps(wrong))
        failed = packager("pull", f"{name}:1.0.0", *trusted, code=3, REGISTRY_AUTH_FILE=str(tmp_path / "auth.json"))
        assert "wr0ng" not in failed.stderr


def test_skopeo_reads_what_we_push_and_we_read_what_it_pushes(
    packager: Run, bundle: Path, plain: Registry, tmp_path: Path
) -> None:
    skopeo = tool("skopeo")
    packager("push", bundle, f"oci://{plain.host}/team/skopeo")
    source = f"docker://{plain.host}/team/skopeo:1.0.0"
    subprocess.run(
        [skopeo, "copy", "--quiet", "--src-tls-verify=false", source, f"oci:{tmp_path}/lay:1.0.0"], check=True
    )
    digest = digest_of(packager, bundle)
    assert json.loads((tmp_path / "lay" / "index.json").read_bytes())["manifests"][0]["digest"] == digest
    there = f"docker://{plain.host}/team/by-skopeo/tiny:1.0.0"
    subprocess.run(
        [skopeo, "copy", "--quiet", "--dest-tls-verify=false", f"oci:{tmp_path}/lay:1.0.0", there], check=True
    )
    assert digest_of(packager, f"oci://{plain.host}/team/by-skopeo/tiny:1.0.0") == digest


def test_tags_are_listed_and_removed_as_skopeo_sees_them(packager: Run, bundle: Path, plain: Registry) -> None:
    """Docker's registry 2.8 deletes by digest only: what shares one goes together, and only if that was asked for."""
    skopeo, name = tool("skopeo"), f"{plain.host}/team/listed/tiny"

    def seen() -> list[str]:
        command = [skopeo, "list-tags", "--tls-verify=false", f"docker://{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        tags = json.loads(done.stdout)["Tags"] if done.returncode == 0 else []
        return sorted(tag for tag in tags if not tag.startswith("sha256-"))  # the registry lists a directory

    packager("push", bundle, f"oci://{name}")
    packager("push", bundle, f"oci://{name}:stable")
    rows = json.loads(packager("list", f"oci://{name}", "--json").stdout)["bundles"]
    assert [row["version"] for row in rows] == seen() == ["1.0.0", "stable"]
    assert {row["digest"] for row in rows} == {digest_of(packager, bundle)}
    assert all(row["signed"] and row["size"] for row in rows)
    refused = packager("rm", f"oci://{name}:stable", code=1)
    assert "`1.0.0` would go too" in refused.stderr
    assert seen() == ["1.0.0", "stable"]
    done = json.loads(packager("rm", f"oci://{name}:stable", "--force", "--json").stdout)
    assert done["removed"][0]["left"] == []
    assert seen() == []
    assert "has no" in packager("pull", f"oci://{name}:1.0.0", code=3).stderr
    packager("push", bundle, f"oci://{name}")
    assert packager("verify", f"oci://{name}:1.0.0", "--key", bundle.with_name("release.pub")).returncode == 0


def test_oras_reads_what_we_push(packager: Run, bundle: Path, plain: Registry, tmp_path: Path) -> None:
    """The Python package, in an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "oras==0.2.43"], check=True, env=environment)
    packager("push", bundle, f"oci://{plain.host}/team/oras")
    script = (
        "import sys, oras.client\n"
        "client = oras.client.OrasClient(hostname=sys.argv[1], insecure=True)\n"
        "client.pull(target=f'{sys.argv[1]}/team/oras:1.0.0', outdir=sys.argv[2])"
    )
    (tmp_path / "out").mkdir()
    subprocess.run([python, "-c", script, plain.host, tmp_path / "out"], check=True, env=environment)
    files = json.loads(packager("inspect", bundle, "--json").stdout)["files"]
    for path, blob in files.items():
        assert canonical.sha256((tmp_path / "out" / path).read_bytes()) == blob["digest"]


def test_an_artifact_laid_out_by_hand_pulls_and_inspects(
    packager: Run, bundle: Path, plain: Registry, tmp_path: Path
) -> None:
    """Indented JSON, other key order, other annotations on the manifest: what another tool might write by the spec."""
    packager("unpack", bundle, tmp_path / "tree")
    files = json.loads(packager("inspect", bundle, "--json").stdout)["files"]
    root = tmp_path / "lay"
    (root / "blobs" / "sha256").mkdir(parents=True)

    def blob(data: bytes) -> dict[str, object]:
        digest = canonical.sha256(data)
        (root / "blobs" / "sha256" / digest[7:]).write_bytes(data)
        return {"size": len(data), "digest": digest}

    layers = []
    for path in sorted(files):
        data = (tmp_path / "tree" / path).read_bytes()
        described = modelpack.describe_layer(path, Blob(canonical.sha256(data), len(data)))
        layers.append({"annotations": dict(described.annotations), **blob(data), "mediaType": described.media_type})
    config = {
        "descriptor": {"name": "tiny", "createdAt": "2026-01-01T00:00:00Z", "family": "test"},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        "config": {},
    }
    manifest = {
        "layers": layers,
        "config": {"mediaType": modelpack.CONFIG, **blob(json.dumps(config, indent=4).encode())},
        "artifactType": modelpack.ARTIFACT,
        "mediaType": oci.MANIFEST,
        "schemaVersion": 2,
        "annotations": {"org.example": "another tool"},
    }
    described = {"mediaType": oci.MANIFEST, **blob(json.dumps(manifest, indent=2).encode())}
    named = {**described, "annotations": {"org.opencontainers.image.ref.name": "1.0.0"}}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    there = f"docker://{plain.host}/team/by-hand/tiny:1.0.0"
    subprocess.run(
        [tool("skopeo"), "copy", "--quiet", "--dest-tls-verify=false", f"oci:{root}:1.0.0", there], check=True
    )
    name = f"oci://{plain.host}/team/by-hand/tiny:1.0.0"
    assert digest_of(packager, name) == described["digest"]
    packager("pull", name)
    packager("unpack", described["digest"], tmp_path / "again")
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (tmp_path / "tree" / path).read_bytes()


def test_local_verbs_load_no_network_code(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from packager.cli import main; "
        f"main(['verify', {str(bundle)!r}, '--key', {str(bundle.with_name('release.pub'))!r}]); "
        f"main(['inspect', {str(bundle)!r}]); "
        "print([n for n in ('urllib3', 'http.client', 'zstandard', 'packager.registry') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.strip() == "[]"
