# SPDX-License-Identifier: Apache-2.0
"""Bundles and other people's ModelPack artifacts as sources: from a real registry, a layout and a single file."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from packager import canonical
from packager.bundle.readers import blob_path
from packager.errors import IntegrityError, PackagerError, SourceError
from packager.events import ignore
from packager.formats import modelpack, oci
from packager.sources import Pin, Settings, load_for
from packager.sources import oci as source
from packager.store.store import Store
from packager.transport import copy
from packager.transport.registry import reference
from packager.transport.registry.repository import Repository
from packager.transport.registry.wire import Body, Patience
from packager.transport.registry.wire import Settings as Wire
from packager.types import Blob
from tests.conftest import Run
from tests.e2e.conftest import tool
from tests.support import bundles, registry_server
from tests.support.registry_server import Registry

PATIENCE = Patience(attempts=2, first=0.01, longest=0.05)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("r") / "r") as running:
        yield running


def settings(base: Path, ref: str = "") -> Settings:
    return Settings(base, ref, registries=lambda: Wire(patience=PATIENCE))


def relu() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


FILES = {
    "model/model.onnx": relu(),
    "model/weights-0001.bin": b"w" * 5000,
    "tokenizer/vocab.txt": b"a\nb\n",
    "targets/onnxruntime-cpu-fp16/model.onnx": b"not the source",
}


def fetched(ref: str, base: Path, out: Path) -> dict[str, bytes]:
    pin = Pin.from_json(json.loads(json.dumps(source.resolve(ref, settings(base, ref)).to_json())))
    assert str(base) not in str(pin.to_json())
    out.mkdir()
    source.fetch(pin, settings(base, ref), out, ignore)
    assert not list(out.parent.glob(".layer-*"))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = bundles.make(Store(tmp_path / "store"), FILES)
    copy.save(made, tmp_path / "tiny.bundle.tar")
    copy.save(made, tmp_path / "layout")
    return tmp_path


WANTED = {"model.onnx": relu(), "weights-0001.bin": b"w" * 5000, "tokenizer/vocab.txt": b"a\nb\n"}


def test_source_of_a_bundle_is_graph_and_tokenizer(bundle: Path) -> None:
    assert fetched("tiny.bundle.tar", bundle, bundle / "a") == WANTED
    assert fetched("oci:tiny.bundle.tar", bundle, bundle / "b") == WANTED
    assert fetched("oci:layout", bundle, bundle / "c") == WANTED
    assert load_for("tiny.bundle.tar") is load_for("oci:layout") is load_for("oci://h/n:1") is source


def test_from_a_registry_by_tag_and_digest(packager: Run, bundle: Path, registry: Registry) -> None:
    packager("push", bundle / "tiny.bundle.tar", f"oci://{registry.host}/team/tiny")
    ref = f"oci://{registry.host}/team/tiny:1.0.0"
    pin = source.resolve(ref, settings(bundle))
    assert pin.uri.startswith(f"oci://{registry.host}/team/tiny@sha256:")
    assert dict(pin.details) == {"name": "tiny", "version": "1.0.0"}
    assert fetched(ref, bundle, bundle / "a") == fetched(pin.uri, bundle, bundle / "b") == WANTED
    with pytest.raises(SourceError, match="has no `oci://"):
        source.resolve(f"oci://{registry.host}/team/other:1", settings(bundle))
    with pytest.raises(SourceError):
        source.resolve("oci://127.0.0.1:1/a/b:1", settings(bundle))


def test_bundle_as_source_on_the_command_line(packager: Run, registry: Registry, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (first / "relu.onnx").write_bytes(relu())
    (first / "bundle.yaml").write_text("name: relu\nversion: 1.0.0\nsource: relu.onnx\n")
    packager("build", cwd=first)
    packager("push", "relu:1.0.0", f"oci://{registry.host}/team/relu")
    packager("init", f"oci://{registry.host}/team/relu:1.0.0", "-o", second / "bundle.yaml")
    assert "name: relu\n" in (second / "bundle.yaml").read_text()
    answer = json.loads(packager("build", "--json", cwd=second).stdout)
    assert answer["verdict"]["ok"]
    assert json.loads((second / "bundle.lock").read_text())["source"]["kind"] == "oci"


def test_a_bundle_that_was_replaced_after_the_lock(bundle: Path) -> None:
    pin = source.resolve("tiny.bundle.tar", settings(bundle))
    other = bundles.make(Store(bundle / "other"), {"model/model.onnx": b"x"})
    (bundle / "tiny.bundle.tar").unlink()
    copy.save(other, bundle / "tiny.bundle.tar")
    with pytest.raises(SourceError, match="another bundle than the lock pinned"):
        source.fetch(pin, settings(bundle, "tiny.bundle.tar"), bundle / "out", ignore)


def test_a_damaged_blob_is_found_and_named(bundle: Path) -> None:
    place = bundle / "layout" / blob_path(canonical.sha256(FILES["model/weights-0001.bin"]))
    place.chmod(0o644)
    place.write_bytes(b"v" * 5000)
    with pytest.raises(IntegrityError, match=r"`weights-0001\.bin` is damaged"):
        fetched("oci:layout", bundle, bundle / "out")


# artifacts that others made


def push(registry: Registry, layers: list[tuple[str, bytes, dict[str, str]]], kind: str = modelpack.ARTIFACT) -> str:
    """Push an artifact as another tool would and return its reference."""
    name = f"oci://{registry.host}/others/model"
    repository = Repository(reference.parse(name), Wire(patience=PATIENCE))
    described = [
        oci.Descriptor(f"application/vnd.cncf.model.{form}", Blob(canonical.sha256(data), len(data)), notes)
        for form, data, notes in layers
    ]
    config = b'{"modelfs":{"type":"layers","diffIds":[]}}'
    for data in (config, *(data for _, data, _ in layers)):
        where = repository.wire.request("POST", repository.url("blobs/uploads/"), ok=(202,), push=True).headers[
            "Location"
        ]
        join = "&" if "?" in where else "?"
        url = f"{where}{join}digest={canonical.sha256(data)}"
        repository.wire.request("PUT", url, ok=(201,), push=True, body=Body.of(data))
    manifest = oci.Manifest(
        kind, oci.Descriptor(modelpack.CONFIG, Blob(canonical.sha256(config), len(config))), tuple(described)
    )
    repository.put_manifest("1", manifest.to_bytes(), oci.MANIFEST)
    return f"{name}:1"


def tar(*members: tuple[str, bytes | None, bytes], link: str = "") -> bytes:
    """Return a tar of (name, content, type)."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return sink.getvalue()


def test_raw_and_tar_layers_of_others(registry: Registry, tmp_path: Path) -> None:
    weights = tar(("./sub/w.bin", b"w" * 9000, tarfile.REGTYPE), ("sub", None, tarfile.DIRTYPE))
    ref = push(
        registry,
        [
            ("weight.v1.raw", relu(), {modelpack.FILEPATH: "model.onnx"}),
            ("weight.v1.tar", weights, {modelpack.FILEPATH: "sub"}),
            ("doc.v1.tar+gzip", gzip.compress(tar(("README.md", b"hello", tarfile.REGTYPE))), {}),
        ],
    )
    assert fetched(ref, tmp_path, tmp_path / "out") == {
        "model.onnx": relu(),
        "sub/w.bin": b"w" * 9000,
        "README.md": b"hello",
    }


HOSTILE = {
    "traversal": (tar(("../PWNED", b"x", tarfile.REGTYPE)), "absolute or leaves"),
    "absolute": (tar(("/PWNED", b"x", tarfile.REGTYPE)), "absolute or leaves"),
    "symbolic link": (tar(("d", None, tarfile.SYMTYPE), link=".."), "not a regular file"),
    "hard link": (tar(("h", None, tarfile.LNKTYPE), link="../x"), "not a regular file"),
    "device": (tar(("d", None, tarfile.CHRTYPE)), "not a regular file"),
    "pipe": (tar(("d", None, tarfile.FIFOTYPE)), "not a regular file"),
    "twice": (tar(("m", b"good", tarfile.REGTYPE), ("m", b"evil", tarfile.REGTYPE)), "collides"),
    "dot twin": (tar(("./m", b"good", tarfile.REGTYPE), ("m", b"evil", tarfile.REGTYPE)), "collides"),
    "case twin": (tar(("M", b"good", tarfile.REGTYPE), ("m", b"evil", tarfile.REGTYPE)), "collides"),
    "unicode twin": (tar(("mode\u0301l", b"x", tarfile.REGTYPE)), "normal form"),
    "not a tar": (b"not a tar at all" * 100, "not a readable tar"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_layers(registry: Registry, tmp_path: Path, kind: str) -> None:
    data, words = HOSTILE[kind]
    ref = push(registry, [("weight.v1.tar", data, {})])
    with pytest.raises(PackagerError, match=words):
        fetched(ref, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*")), "nothing is written before all names are known"
    assert not (tmp_path / "PWNED").exists()


def test_a_layer_that_unpacks_without_end(registry: Registry, tmp_path: Path) -> None:
    bomb = gzip.compress(tar(("zeros", bytes(80 << 20), tarfile.REGTYPE)))
    with pytest.raises(IntegrityError, match="unpacks to more than"):
        fetched(push(registry, [("weight.v1.tar+gzip", bomb, {})]), tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    ("layers", "kind", "words"),
    [
        ([("weight.v1.raw", b"x", {})], modelpack.ARTIFACT, "a layer that is not read"),
        ([("weight.v1.tar+zstd", b"x", {})], modelpack.ARTIFACT, "a layer that is not read"),
        ([("weight.v1.raw", b"x", {modelpack.FILEPATH: "../x"})], modelpack.ARTIFACT, "leaves its directory"),
        (
            [("weight.v1.raw", b"x", {modelpack.FILEPATH: "A"}), ("weight.v1.raw", b"y", {modelpack.FILEPATH: "a"})],
            modelpack.ARTIFACT,
            "collides",
        ),
        ([("weight.v1.raw", b"x", {})], "application/vnd.oci.image.config.v1+json", "no ModelPack artifact"),
    ],
)
def test_artifacts_that_are_refused_before_a_download(
    registry: Registry, tmp_path: Path, layers: list[tuple[str, bytes, dict[str, str]]], kind: str, words: str
) -> None:
    with pytest.raises(PackagerError, match=words):
        source.resolve(push(registry, layers, kind), settings(tmp_path))
