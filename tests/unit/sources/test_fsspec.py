# SPDX-License-Identifier: Apache-2.0
"""Models behind fsspec addresses, against a real S3-compatible server; `http` stands for stores without versions."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.errors import IntegrityError, PackagerError, SourceError, UsageError
from packager.events import Progress, ignore
from packager.sources import Pin, Settings, fsspec, load_for
from tests.conftest import Run
from tests.support.object_store import ObjectStore, object_store

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("objects")) as running:
        yield running


@pytest.fixture
def s3(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    files = server.files()
    for path in files.find("models"):
        files.rm_file(path)
    return files


def resolve(ref: str) -> Pin:
    pin = fsspec.resolve(ref, Settings(Path("/nonexistent"), ref, timeout=2))
    assert "very+secret" not in str(pin.to_json())
    return Pin.from_json(json.loads(json.dumps(pin.to_json())))


def fetched(pin: Pin, ref: str, out: Path) -> dict[str, bytes]:
    out.mkdir()
    fsspec.fetch(pin, Settings(Path("/nonexistent"), ref, timeout=2), out, ignore)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refusal(ref: str) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        resolve(ref)
    assert caught.value.hint
    assert "very+secret" not in caught.value.message
    return caught.value


def test_a_prefix(s3: Any, tmp_path: Path) -> None:
    large = os.urandom(40 << 20)  # several pieces
    s3.pipe(
        {"models/v7/model.onnx": b"graph", "models/v7/sub/w.bin": large, "models/v7/.git/x": b"", "models/v70/y": b"no"}
    )
    pin = resolve("s3://models/v7")
    assert pin == resolve("s3://models/v7/") or pin.details == resolve("s3://models/v7/").details
    assert pin.uri.startswith("s3://models/v7@sha256:")
    assert set(pin.details["objects"]) == {"model.onnx", "sub/w.bin"}
    assert all(item["tag"] for item in pin.details["objects"].values())
    assert fetched(pin, "s3://models/v7", tmp_path / "out") == {"model.onnx": b"graph", "sub/w.bin": large}


def test_progress_counts_every_byte(s3: Any, tmp_path: Path) -> None:
    s3.pipe({"models/v/a": b"a" * 100, "models/v/b": b"b" * 200})
    events: list[Any] = []
    (tmp_path / "out").mkdir()
    fsspec.fetch(resolve("s3://models/v"), Settings(tmp_path, "s3://models/v"), tmp_path / "out", events.append)
    assert events[-1] == Progress("model", 300, 300)


def graph(location: str) -> bytes:
    weights = numpy_helper.from_array(__import__("numpy").zeros(4, "float32"), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    made = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_a_graph_brings_its_external_data_and_builds(
    s3: Any, packager: Run, server: ObjectStore, tmp_path: Path
) -> None:
    s3.pipe({"models/one/add.onnx": graph("w.bin"), "models/one/w.bin": bytes(16), "models/one/other": b"no"})
    assert set(resolve("s3://models/one/add.onnx").details["objects"]) == {"add.onnx", "w.bin"}
    environment = server.environment()
    packager("init", "s3://models/one/add.onnx", **environment)
    answer = json.loads(packager("build", "--json", **environment).stdout)
    assert answer["verdict"]["ok"]
    assert answer["name"] == "add"
    lock = (tmp_path / "bundle.lock").read_text()
    assert "very+secret" not in lock
    assert str(server.port) not in lock
    assert (
        json.loads(packager("build", "--locked", "--json", AWS_ENDPOINT_URL="http://127.0.0.1:1").stdout)["executed"]
        == 0
    )


def test_a_changed_object_ends_a_locked_build(s3: Any, packager: Run, server: ObjectStore, tmp_path: Path) -> None:
    s3.pipe({"models/two/m.onnx": graph("w.bin"), "models/two/w.bin": bytes(16)})
    environment = {**server.environment(), "PACKAGER_STORE": str(tmp_path / "a")}
    (tmp_path / "bundle.yaml").write_text("name: m\nversion: 1.0.0\nsource: s3://models/two\n")
    packager("lock", **environment)
    s3.pipe("models/two/w.bin", b"x" * 16)
    done = packager("build", "--locked", **{**environment, "PACKAGER_STORE": str(tmp_path / "b")}, code=3)
    assert "error: `w.bin` changed since it was locked" in done.stderr
    assert "hint: run `packager lock` and review the change" in done.stderr
    s3.rm_file("models/two/w.bin")
    done = packager("build", "--locked", **{**environment, "PACKAGER_STORE": str(tmp_path / "b")}, code=3)
    assert "not there, or no longer" in done.stderr


def test_a_bucket_with_versions_still_has_what_was_locked(s3: Any, server: ObjectStore, tmp_path: Path) -> None:
    s3.mkdir("kept")
    s3.make_bucket_versioned("kept")
    s3.pipe("kept/v/w.bin", b"old")
    pin = resolve("s3://kept/v")
    assert pin.details["objects"]["w.bin"]["version"]
    s3.pipe("kept/v/w.bin", b"newer")
    assert resolve("s3://kept/v") != pin
    assert fetched(pin, "s3://kept/v", tmp_path / "out") == {"w.bin": b"old"}


def test_what_is_not_there(s3: Any) -> None:
    assert refusal("s3://models/nothing").code == 3
    assert refusal("s3://nowhere/x").code == 3
    assert refusal("s3://models/none.onnx").code == 3
    assert "`s3`" in str(refusal("s4://models/x").hint)


def test_an_endpoint_that_does_not_answer(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    start = time.monotonic()
    assert refusal("s3://models/x").code == 3
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("key", ["v/../../evil", "v/a\\b", "v/con"])
def test_names_that_leave_the_directory(s3: Any, tmp_path: Path, key: str) -> None:
    s3.pipe(f"models/{key}", b"x")
    with pytest.raises((IntegrityError, SourceError)):
        fetched(resolve("s3://models/v"), "s3://models/v", tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def test_names_that_collide_and_pins_that_lie(s3: Any, tmp_path: Path) -> None:
    s3.pipe({"models/v/A": b"x", "models/v/a": b"y"})
    with pytest.raises(IntegrityError, match="collides"):
        resolve("s3://models/v")
    with pytest.raises(IntegrityError, match="leaves its directory"):
        fetched(Pin("fsspec", "s3://models/v", {"objects": {"../x": {"size": 1}}}), "s3://models/v", tmp_path / "out")


def test_external_data_elsewhere(s3: Any) -> None:
    s3.pipe({"models/x/m.onnx": graph("../secret"), "models/secret": bytes(16)})
    assert "keeps weights elsewhere" in refusal("s3://models/x/m.onnx").message


def test_whose_addresses_are_whose() -> None:
    for ref in ("s3://b/x", "gs://b/x", "az://c/x", "https://h/x.onnx"):
        assert load_for(ref) is fsspec
    for ref in ("memory://x", "local://x", "dir://x", "zip://x", "s3://key:secret@b/x", "simplecache::s3://b/x"):
        with pytest.raises(UsageError):
            load_for(ref)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Silence."""


def test_a_web_server(tmp_path: Path) -> None:
    """No versions, no ranges: still one whole file, or an error."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "m.pt2").write_bytes(b"archive")
    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        ref = f"http://127.0.0.1:{listener.server_port}/m.pt2"
        pin = resolve(ref + "?token=very+secret")
        assert fetched(pin, ref, tmp_path / "out") == {"m.pt2": b"archive"}
        (tmp_path / "www" / "m.pt2").write_bytes(b"another")
        os.utime(tmp_path / "www" / "m.pt2", (1, 1))
        with pytest.raises(SourceError):
            fetched(pin, ref, tmp_path / "again")
        listener.shutdown()


@pytest.mark.parametrize("name", ["model.sav", "digits.joblib.gz", "model.CBM", "model.onnx"])
def test_an_address_that_ends_like_a_file_is_that_file(name: str) -> None:
    """No store is asked: what would list a directory is not there."""
    bucket = fsspec._Bucket(f"s3://bucket/a/{name}", None, f"bucket/a/{name}")
    assert bucket._single
    assert name.endswith(".onnx") or bucket.names() == [name]
    assert not fsspec._Bucket("s3://bucket/a/model.sav/", None, "bucket/a/model.sav/")._single
