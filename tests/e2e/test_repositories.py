# SPDX-License-Identifier: Apache-2.0
"""A model repository keeps the same laws in a directory and in a bucket: complete before visible, one number each."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy.triton import render as triton
from packager.deploy.triton.bucket import open_repository
from packager.deploy.triton.pipeline import parse
from packager.deploy.triton.repository import Directory, Repository
from packager.errors import PackagerError, SourceError, UsageError, WrongContentError
from packager.knobs import knobs
from packager.knobs.knobs import Override
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from tests.conftest import Run
from tests.support import bundles
from tests.support.breadth import ALL
from tests.support.model_repositories import DIGITS, PREPARE, SUPPORT, make
from tests.support.object_store import ObjectStore, object_store
from tests.support.registry_server import Proxy
from tests.unit.deploy.test_render import files

BIG = os.urandom((11 << 20) + 3)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3") / "server") as running:
        yield running


@pytest.fixture
def address(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://models/{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture(params=["directory", "bucket"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    if request.param == "directory":
        return Directory(tmp_path / "models")
    return open_repository(request.getfixturevalue("address"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.make(Store(tmp_path_factory.mktemp("b") / "store"), files(**{"model/weights-0002.bin": BIG}))


def render(bundle: Bundle, repository: Repository, rows: int = 8, site: str = "") -> triton.Model:
    values = knobs.resolve(knob_schema(bundle), bundle.digest, [Override("batch.max", str(rows), "--set")])
    return triton.render_triton(bundle, values, repository, "python", {site: values} if site else {})


def content(repository: Repository) -> dict[str, str]:
    """Return the digests of all files, as a reader that knows nothing of ours sees them."""
    if isinstance(repository, Directory):
        return {
            str(path.relative_to(repository.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in repository.root.rglob("*")
            if path.is_file()
        }
    driver, place = repository.root._fs, repository.root.path
    return {
        name.removeprefix(f"{place}/"): hashlib.sha256(driver.cat_file(name)).hexdigest() for name in driver.find(place)
    }


def test_a_bucket_holds_what_a_directory_holds(bundle: Bundle, store: Store, address: str, tmp_path: Path) -> None:
    """Models, sites, versions and ensembles, byte for byte; and again nothing is written."""
    places: list[Any] = [Directory(tmp_path / "models"), open_repository(address)]
    for place in places:
        for rows in (8, 4, 8):
            render(bundle, place, rows, "berlin")
        for name, ports in (("prepare", PREPARE), ("digits", DIGITS)):
            render(make(store, name, *ports), place)
        triton.render_ensemble(parse(SUPPORT.encode(), "support.yaml"), place)
        assert (triton.find_active(place, "tiny"), place.versions("tiny")) == (1, [1, 2])
    assert content(places[0]) == content(places[1])
    assert places[0].names() == places[1].names() == ["digits", "prepare", "support", "tiny"]


def test_the_same_again_sends_nothing_large(bundle: Bundle, s3: ObjectStore, address: str) -> None:
    place = open_repository(address)
    assert render(bundle, place).created
    start = s3.position()
    model = render(bundle, place)
    assert (model.number, model.before, model.created) == (1, 1, False)
    sent = [row for row in s3.requests(start) if row.startswith(("PUT", "POST"))]
    assert {row.split()[1].split("/")[-2] for row in sent} <= {"warmup"}, sent


def test_two_writers_get_two_numbers_and_one_of_two_switches_counts(store: Store, repository: Repository) -> None:
    """Eight bundles at the same time: eight complete versions, and one of them is served."""
    made = [make(store, "digits", *DIGITS, f"1.{number}.0") for number in range(8)]
    told: list[PackagerError] = []
    ready = threading.Barrier(len(made))

    def add(bundle: Bundle) -> None:
        ready.wait()
        try:
            render(bundle, repository)
        except SourceError as error:
            told.append(error)

    threads = [threading.Thread(target=add, args=(bundle,)) for bundle in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.versions("digits") == list(range(1, 9))
    assert len(told) < 8
    assert all("another writer changed `digits/config.pbtxt`" in str(error) for error in told)
    records = {
        number: canonical.load(repository.read(f"digits/{number}/deployment.json") or b"", limit=1 << 20)
        for number in repository.versions("digits")
    }
    assert {record["bundle"] for record in records.values()} == {bundle.digest for bundle in made}
    for number in records:
        assert f"versions: {number}\n" in (repository.read(f"digits/{number}/config.pbtxt") or b"").decode()
    assert triton.find_active(repository, "digits") in records


def test_bytes_that_are_not_signed_become_no_version(tmp_path: Path, repository: Repository) -> None:
    store = Store(tmp_path / "store")
    bundle = bundles.make(store, files(**{"model/weights-0002.bin": BIG}))
    blob = bundle.tree.get("model/weights-0002.bin")
    assert blob
    victim = next(store.root.rglob(blob.digest.removeprefix("sha256:")))
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.seek(9 << 20)
        file.write(b"other")
    with pytest.raises(WrongContentError, match=r"weights-0002.bin. is not what was signed"):
        render(bundle, repository)
    assert repository.versions("tiny") == []
    assert repository.read("tiny/config.pbtxt") is None
    assert "tiny/1/weights-0002.bin" not in content(repository)


@pytest.mark.slow  # ten seconds of kills; units hold the order of writes
def test_a_killed_writer_leaves_what_served_and_is_carried_on(
    bundle: Bundle, s3: ObjectStore, address: str, tmp_path: Path, packager: Run
) -> None:
    """Killed after more and more bytes: the version before serves with all its files, then the same command ends well."""
    key = keys.generate_key("p256")
    keys.save(key, tmp_path / "release.pem", tmp_path / "release.pub", None)
    copy.save(sign(bundle, key), tmp_path / "big.bundle.tar")
    place = open_repository(address)
    assert render(bundle, place, 4).number == 1
    before = content(place)
    command = [
        "render",
        "triton",
        str(tmp_path / "big.bundle.tar"),
        address,
        "--key",
        str(tmp_path / "release.pub"),
        "--backend",
        "python",
    ]
    kills, moments = 0, (2_000, 12_000, 40_000, 1 << 20, 7 << 20) if ALL else (2_000, 40_000, 7 << 20)
    for after in moments:
        proxy = Proxy(s3.port)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PACKAGER_STORE": str(tmp_path / "store"),
            **s3.environment(proxy.port),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "packager", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        proxy.arm(after, process.kill)
        process.communicate()
        proxy.close()
        kills += process.returncode == -9
        assert (triton.find_active(place, "tiny"), place.versions("tiny")) == (1, [1])
        now = content(place)
        assert {path: now[path] for path in before} == before
    assert kills == len(moments)
    start = s3.position()
    packager(*command, **s3.environment())
    assert (triton.find_active(place, "tiny"), place.versions("tiny")) == (2, [1, 2])
    whole = Directory(tmp_path / "whole")
    for rows in (4, 8):
        render(bundle, whole, rows)
    assert content(place) == content(whole)
    assert [row for row in s3.requests(start) if "weights-0002" in row and "POST" in row], "the large one was cut"


def test_a_number_that_a_killed_writer_of_another_version_holds_is_left_alone(
    bundle: Bundle, address: str, s3: ObjectStore
) -> None:
    place = open_repository(address)
    s3.files().pipe_file(f"{place.root.path}/tiny/1/deployment.json", b'{"bundle":"sha256:other"}')
    assert (render(bundle, place).number, place.versions("tiny")) == (2, [2])


def test_two_switches_have_two_times_in_the_store(address: str) -> None:
    """Triton loads anew only what has another time than before, and an object's time counts seconds."""
    place = open_repository(address)
    stamps = []
    for data in (b"1", b"2", b"3"):
        assert place.replace("m/config.pbtxt", data, place.current("m/config.pbtxt")[1])
        stamps.append(place.root.modified("m/config.pbtxt"))
    assert len(set(stamps)) == 3
    assert not place.replace("m/config.pbtxt", b"4", '"another state"')
    assert place.read("m/config.pbtxt") == b"3"


@pytest.mark.parametrize(
    ("where", "message", "hint"),
    [
        ("s3://127.0.0.1:9000/models/x", "names a server, not a bucket", "AWS_ENDPOINT_URL=http://127.0.0.1:9000"),
        ("s3://", "is no folder in a bucket", "s3://bucket/folder"),
        ("s3://models/../x", "is no folder in a bucket", "s3://bucket/folder"),
        ("file:///srv/models", "is no bucket", "name the directory"),
    ],
)
def test_addresses_that_are_no_repository(where: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_repository(where)
    assert hint in str(caught.value.hint)


def test_the_command_line_says_what_is_wrong(
    packager: Run, bundle: Bundle, s3: ObjectStore, address: str, tmp_path: Path
) -> None:
    key, env = keys.generate_key("p256"), s3.environment()
    keys.save(key, tmp_path / "release.pem", tmp_path / "release.pub", None)
    copy.save(sign(bundle, key), tmp_path / "tiny.bundle.tar")
    (tmp_path / "support.yaml").write_text(SUPPORT)
    trusted: Callable[..., Any] = lambda *words, **more: packager("render", *words, "--key", "release.pub", **more)  # noqa: E731
    assert "no such bucket" in trusted("triton", "tiny.bundle.tar", "s3://nowhere/models", code=3, **env).stderr
    away = {**env, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert "cannot be reached" in trusted("triton", "tiny.bundle.tar", address, code=3, **away).stderr
    assert "is written to a directory" in trusted("systemd", "tiny.bundle.tar", address, code=2, **env).stderr
    assert "--key is for" in trusted("ensemble", "support.yaml", address, code=2, **env).stderr
    told = packager("render", "ensemble", "support.yaml", address, code=2, **env).stderr
    assert "there is no model `prepare`" in told
    assert "hint:" in told
    assert "does not exist" in packager("render", "ensemble", "nothing.yaml", "models", code=2).stderr
