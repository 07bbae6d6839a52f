# SPDX-License-Identifier: Apache-2.0
"""Bundles in buckets: a real S3-compatible server, and a mounted share through `file://`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle, open_bundle, read
from packager.errors import IntegrityError, MissingToolError, SourceError, UsageError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.transport.bucket import reference
from packager.transport.bucket.folder import Folder
from packager.transport.bucket.medium import open_bucket, open_reference
from packager.trust import keys
from packager.trust.verify import verify
from tests.conftest import Run
from tests.e2e.conftest import tool
from tests.support import bundles
from tests.support.object_store import ObjectStore, object_store
from tests.support.registry_server import Proxy

KEY, SECOND = keys.generate_key("p256"), keys.generate_key("p256")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3") / "server") as running:
        yield running


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Signed; with a file of several parts, one of none, and two that are equal."""
    files = {
        "model/weights-0002.bin": os.urandom((11 << 20) + 3),
        "model/empty.txt": b"",
        "model/a.bin": b"x" * 9000,
        "model/b.bin": b"x" * 9000,
    }
    return sign(bundles.make(Store(tmp_path_factory.mktemp("b") / "store"), files), KEY)


@pytest.fixture
def file(bundle: Bundle, tmp_path: Path) -> Path:
    copy.save(bundle, tmp_path / "tiny.bundle.tar")
    keys.save(KEY, tmp_path / "release.pem", tmp_path / "release.pub", None)
    keys.save(SECOND, tmp_path / "second.pem", tmp_path / "second.pub", None)
    return tmp_path / "tiny.bundle.tar"


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address below which nothing is, and the environment that reaches it."""
    if request.param == "file":
        return f"file://{tmp_path}/share"
    store: ObjectStore = request.getfixturevalue("s3")
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://models/{tmp_path.parent.name}-{tmp_path.name}"


HELD = pytest.mark.parametrize(  # of S3 the verbs below hold it by default
    "place", [pytest.param("s3", marks=pytest.mark.slow), "file"], indirect=True
)


@pytest.fixture
def env(s3: ObjectStore) -> dict[str, str]:
    return s3.environment()


def push(bundle: Bundle, name: str, **more: object) -> int:
    return copy.copy(bundle, open_bucket(reference.parse(name), **more), jobs=4)  # type: ignore[arg-type]


def opened(name: str) -> Bundle:
    return read(open_reference(reference.parse(name)))


def objects(place: str, name: str = "tiny") -> dict[str, int]:
    return Folder(f"{place}/{name}/1.0.0").sizes()


# the laws, on both kinds of store


def test_what_is_pushed_is_an_oci_layout_and_comes_back_byte_for_byte(
    place: str, bundle: Bundle, tmp_path: Path
) -> None:
    assert push(bundle, f"{place}/tiny") == bundle.size
    there = opened(f"{place}/tiny:1.0.0")
    assert there.index() == bundle.index()
    assert verify(there, [KEY.public]).ok
    copy.save(there, tmp_path / "back.bundle.tar")
    copy.save(bundle, tmp_path / "sent.bundle.tar")
    assert (tmp_path / "back.bundle.tar").read_bytes() == (tmp_path / "sent.bundle.tar").read_bytes()
    blobs = {f"blobs/sha256/{d[7:]}" for d in [*bundle.records, *(b.digest for _, b in bundle.tree)]}
    assert objects(place).keys() == blobs | {"index.json", "oci-layout"}, "nothing else, no leftovers"


@HELD
def test_pushing_again_moves_nothing(place: str, bundle: Bundle) -> None:
    push(bundle, f"{place}/tiny")
    assert push(bundle, f"{place}/tiny:1.0.0@{bundle.digest}") == 0
    with pytest.raises(UsageError, match="is not what"):
        push(bundle, f"{place}/tiny:1.0.0@sha256:{'0' * 64}")
    assert opened(f"{place}/tiny:1.0.0@{bundle.digest}").digest == bundle.digest
    referrer = bundle.referrers[0].manifest.digest
    for other in ("sha256:" + "0" * 64, referrer):
        with pytest.raises(IntegrityError, match="another bundle"):
            opened(f"{place}/tiny:1.0.0@{other}")


def test_a_version_means_one_bundle_unless_forced(place: str, bundle: Bundle, store: Store) -> None:
    push(bundle, f"{place}/tiny")
    other = bundles.make(store, {"model/weights-0002.bin": b"another"})
    with pytest.raises(UsageError, match="already names another"):
        push(other, f"{place}/tiny")
    assert opened(f"{place}/tiny:1.0.0").digest == bundle.digest
    push(other, f"{place}/tiny", force=True)
    assert opened(f"{place}/tiny:1.0.0").digest == other.digest
    assert not opened(f"{place}/tiny:1.0.0").referrers, "another bundle's signatures do not come along"


@HELD
def test_signatures_gather_whoever_pushes(place: str, bundle: Bundle) -> None:
    push(bundle, f"{place}/tiny")
    again = sign(dataclasses.replace(bundle, referrers=(), pending={}), SECOND)
    push(again, f"{place}/tiny")
    there = opened(f"{place}/tiny:1.0.0")
    assert verify(there, [KEY.public]).ok
    assert verify(there, [SECOND.public]).ok


def test_many_signers_at_once_lose_no_signature(place: str, bundle: Bundle) -> None:
    push(bundle, f"{place}/tiny")
    signers = [keys.generate_key("p256") for _ in range(3)]
    threads = [
        threading.Thread(target=lambda k=key: copy.update_referrers(sign(opened(f"{place}/tiny:1.0.0"), k)))
        for key in signers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = opened(f"{place}/tiny:1.0.0")
    if place.startswith("s3:"):  # elsewhere there is no condition on a write, and the last one may win
        assert all(verify(there, [key.public]).ok for key in signers)
    assert verify(there, [KEY.public]).ok


def test_two_versions_share_by_mounting(place: str, bundle: Bundle, store: Store) -> None:
    push(bundle, f"{place}/tiny")
    grown = {path: bundle.read(path, limit=1 << 30) for path, _ in bundle.tree if path.startswith("model/")}
    newer = bundles.make(store, {**grown, "NEW.md": b"# new"}, version="1.0.1")
    other = reference.parse(f"{place}/tiny:1.0.0")
    push(newer, f"{place}/tiny", mount=other)
    assert opened(f"{place}/tiny:1.0.1").digest == newer.digest
    assert opened(f"{place}/tiny:1.0.0").digest == bundle.digest
    there = opened(f"{place}/tiny:1.0.1")
    for path, _ in newer.tree:
        assert there.read(path, limit=1 << 30) == newer.read(path, limit=1 << 30)


def damage(name: str, data: bytes | None) -> Callable[[str], None]:
    def change(place: str) -> None:
        folder = Folder(f"{place}/tiny/1.0.0")
        if data is None:
            folder._fs.rm_file(f"{folder.path}/{name}")
        else:
            folder.put(name, data)

    return change


def test_any_damage_is_refused(place: str, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle, f"{place}/tiny")
    folder = Folder(f"{place}/tiny/1.0.0")
    kept = objects(place)
    blobs = sorted((name for name in kept if "/" in name), key=lambda name: (kept[name], name))
    tried = kept if place.startswith("file:") else ["index.json", blobs[2]]
    for name in tried:
        good = folder.small(name, 1 << 30)
        assert good is not None
        cut_and_flipped = (good[:-1], good[:-1] + bytes([good[-1] ^ 1])) if good else ()
        longer = (good + b"x",) if place.startswith("file:") else ()
        for bad in (None, *longer, *cut_and_flipped):
            damage(name, bad)(place)
            with pytest.raises((IntegrityError, SourceError)):
                there = opened(f"{place}/tiny:1.0.0")
                verdict = verify(there, [KEY.public])
                if verdict.failure:
                    raise verdict.failure
                copy.save(there, tmp_path / "x.bundle.tar")
            folder.put(name, good)
    assert verify(opened(f"{place}/tiny:1.0.0"), [KEY.public]).ok


def test_a_source_that_is_damaged_leaves_nothing(place: str, store: Store) -> None:
    made = bundles.make(store, {"model/weights-0002.bin": os.urandom(12 << 20)})
    blob = made.tree.get("model/weights-0002.bin")
    assert blob
    path = store.path(blob.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(IntegrityError, match="damaged"):
        push(made, f"{place}/tiny")
    assert f"blobs/sha256/{blob.digest[7:]}" not in objects(place)
    assert "index.json" not in objects(place)
    with pytest.raises(SourceError, match="there is no bundle"):
        opened(f"{place}/tiny:1.0.0")
    if place.startswith("s3:"):
        folder = Folder(f"{place}/tiny/1.0.0")
        assert not [item for item in folder._fs.list_multipart_uploads("models") if blob.digest[7:] in item["Key"]]


# the command line


def test_every_verb_takes_a_bucket(packager: Run, file: Path, env: dict[str, str], tmp_path: Path) -> None:
    name = "s3://models/verbs/tiny"
    first = json.loads(packager("push", file, name, "--json", **env).stdout)
    assert first["sent"] == first["size"]
    assert json.loads(packager("push", file, name, "--json", **env).stdout)["sent"] == 0
    for where in (f"{name}:1.0.0", first["reference"]):
        packager("verify", where, "--key", "release.pub", **env)
    assert json.loads(packager("inspect", f"{name}:1.0.0", "--json", **env).stdout)["digest"] == first["digest"]
    packager("verify", f"{name}:1.0.0", "--key", "second.pub", code=1, **env)
    packager("sign", f"{name}:1.0.0", "--key", "second.pem", **env)
    packager("verify", f"{name}:1.0.0", "--key", "second.pub", **env)
    packager("unpack", f"{name}:1.0.0", "tree", "--key", "release.pub", **env)
    packager("export", f"{name}:1.0.0", "out", **env)
    packager("import", f"{name}:1.0.0", "--key", "release.pub", "--store", "other", **env)
    reply = packager("pull", f"{name}:1.0.0", "--key", "release.pub", "-o", "back.bundle.tar", **env)
    for where in ("tree", "out", "back.bundle.tar", "tiny:1.0.0"):
        packager("verify", where, "--key", "second.pub")
    packager("delta", file, f"{name}:1.0.0", "-o", "d.tar", **env)
    assert env["AWS_SECRET_ACCESS_KEY"] not in reply.stdout + reply.stderr


def test_errors_say_what_to_do_and_no_secret(packager: Run, file: Path, env: dict[str, str]) -> None:
    name = "s3://models/errors/tiny"
    assert "there is no bundle" in packager("inspect", f"{name}:9", code=3, **env).stderr
    assert "names no version" in packager("inspect", name, code=2, **env).stderr
    assert "no such bucket" in packager("push", file, "s3://nowhere/tiny", code=3, **env).stderr
    assert "malformed" in packager("push", file, "s3://models/../tiny", code=2, **env).stderr
    assert "no known kind" in packager("inspect", "s4://models/tiny:1", code=2, **env).stderr
    assert "driver" in packager("inspect", "gs://models/tiny:1", code=2, **env).stderr
    away = packager("inspect", f"{name}:1", code=3, **{**env, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
    assert "hint:" in away.stderr
    assert env["AWS_SECRET_ACCESS_KEY"] not in away.stderr
    hidden = packager("inspect", "sftp://ada:s3cret@127.0.0.1/x y/tiny:1", code=2)
    assert "s3cret" not in hidden.stderr


def test_a_copied_folder_is_a_bundle_for_everybody(
    packager: Run, file: Path, bundle: Bundle, s3: ObjectStore, env: dict[str, str], tmp_path: Path
) -> None:
    """What `aws s3 cp --recursive` brings: we verify it, skopeo reads it, digests unchanged."""
    packager("push", file, "s3://models/copied/tiny", **env)
    s3.files().get("models/copied/tiny/1.0.0/", f"{tmp_path}/copied/", recursive=True)
    packager("verify", "copied", "--key", "release.pub")
    subprocess.run(
        [tool("skopeo"), "copy", "--quiet", "oci:copied:1.0.0", "oci:by-skopeo:1.0.0"], check=True, cwd=tmp_path
    )
    listed = json.loads((tmp_path / "by-skopeo" / "index.json").read_bytes())["manifests"]
    assert [item["digest"] for item in listed] == [bundle.digest]


def test_what_arrived_is_not_fetched_again(
    packager: Run, file: Path, bundle: Bundle, s3: ObjectStore, tmp_path: Path
) -> None:
    """A pull that is killed goes on in the middle of a blob: the server's log shows which ranges were asked for."""
    packager("push", file, "s3://models/resumed/tiny", **s3.environment())
    proxy = Proxy(s3.port)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PACKAGER_STORE": str(tmp_path / "store"),
        **s3.environment(proxy.port),
    }
    command = [sys.executable, "-m", "packager", "pull", "s3://models/resumed/tiny:1.0.0", "--quiet"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    proxy.arm(10 << 20, process.kill)
    process.communicate()
    proxy.close()
    largest = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
    have = (tmp_path / "store" / "v1" / "partial" / largest.digest[7:]).stat().st_size
    assert 0 < have < largest.size
    start = s3.position()
    packager("pull", "s3://models/resumed/tiny:1.0.0", "-o", "got.bundle.tar", **s3.environment())
    assert (tmp_path / "got.bundle.tar").read_bytes() == file.read_bytes()
    asked = [row for row in s3.requests(start) if "GET" in row and largest.digest[7:] in row]
    assert len(asked) == -(-(largest.size - have) // (4 << 20)), "only the missing pieces"


def test_what_was_sent_is_not_sent_again(
    packager: Run, file: Path, bundle: Bundle, s3: ObjectStore, tmp_path: Path
) -> None:
    proxy = Proxy(s3.port)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PACKAGER_STORE": str(tmp_path / "store"),
        **s3.environment(proxy.port),
    }
    command = [sys.executable, "-m", "packager", "push", str(file), "s3://models/unfinished/tiny", "--quiet"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    proxy.arm(8 << 20, process.kill)
    process.communicate()
    proxy.close()
    files = s3.files()
    assert not files.exists("models/unfinished/tiny/1.0.0/index.json"), "nothing is half-visible"
    there = {name.rpartition("/")[2] for name in files.find("models/unfinished/tiny/1.0.0/blobs")}
    start = s3.position()
    packager("push", file, "s3://models/unfinished/tiny", **s3.environment())
    rows = [row for row in s3.requests(start) if row.startswith("PUT") or "POST" in row]
    assert not [row for row in rows if any(name in row for name in there)]
    packager("verify", "s3://models/unfinished/tiny:1.0.0", "--key", "release.pub", **s3.environment())


def test_without_the_driver_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingToolError) as caught:
        opened("s3://models/tiny:1.0.0")
    assert caught.value.hint == 'pip install "model-packager[s3]"'


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3://tiny:1",
        "s3:///tiny:1",
        "s3://a//tiny:1",
        "s3://a/tiny:",
        "s3://a/:1",
        "s3://a/t:1@sha256:0",
        "s3://a/b?versionId=3/t:1",
        "S3://a/t:1",
        "simplecache::s3://a/t:1",
        "s3://a/t:1/",
    ],
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        opened(text)


def test_addresses_read_back() -> None:
    digest = canonical.sha256(b"")
    for text in ("s3://b/p/q/t:1.0.0", "file:///srv/x/t:1", "s3://b/t", f"gs://b/t:1@{digest}", "sftp://h:22/x/t:1"):
        assert str(reference.parse(text)) == text
    assert str(reference.parse("sftp://ada:pw@h/x/t:1")) == "sftp://h/x/t:1"


def test_the_light_verbs_open_no_driver(file: Path) -> None:
    assert open_bundle(str(file), lambda: Store(file.parent / "s")).name == "tiny"
    code = "import sys; from packager.cli import main; main(['inspect', sys.argv[1]]); print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
