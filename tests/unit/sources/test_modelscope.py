# SPDX-License-Identifier: Apache-2.0
"""Models on ModelScope, against a server on this machine that speaks its API."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from packager.errors import IntegrityError, PackagerError, SourceError, UsageError
from packager.events import ignore
from packager.sources import Pin, Settings, fsspec, load_for, modelscope
from tests.conftest import Run
from tests.support.stub_modelscope import NAME, TOKEN, StubModelScope, run_stub

config = pytest.importorskip("modelscope_hub.config")

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same once more",
    "1_Pooling/config.json": b"{}",
}
KEPT = {"config.json", "README.md", "model.safetensors", "1_Pooling/config.json"}
REF = f"modelscope://{NAME}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubModelScope]:
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    with run_stub() as running:
        running.revisions["master"] = dict(FILES)
        running.large = {"model.safetensors", "pytorch_model.bin"}
        config.set_default_config(config.HubConfig(endpoint=running.url))
        yield running
    config.set_default_config(None)


def resolve(ref: str = REF) -> Pin:
    pin = modelscope.resolve(ref, Settings(Path("/nonexistent"), ref, timeout=5))
    assert "127.0.0.1" not in str(pin.to_json()) and TOKEN not in str(pin.to_json())
    return Pin.from_json(json.loads(json.dumps(pin.to_json())))


def fetched(pin: Pin, out: Path) -> dict[str, bytes]:
    out.mkdir()
    modelscope.fetch(pin, Settings(Path("/nonexistent"), REF, timeout=5), out, ignore)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refusal(ref: str = REF) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        resolve(ref)
    told = f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint and TOKEN not in told and "\x1b" not in told
    return caught.value


def test_every_file_is_pinned_by_its_sha256(hub: StubModelScope, tmp_path: Path) -> None:
    hub.unhashed = {"config.json"}
    pin = resolve()
    assert pin.uri == f"{REF}@master" and pin.details["files"] == {
        path: [f"sha256:{hashlib.sha256(FILES[path]).hexdigest()}", len(FILES[path])] for path in sorted(KEPT)
    }
    assert fetched(pin, tmp_path / "out") == {path: FILES[path] for path in KEPT}
    assert not any("pytorch_model" in address for _, address, *_ in hub.seen)


def test_a_revision_that_moved_is_noticed_by_its_bytes(hub: StubModelScope, tmp_path: Path) -> None:
    pin = resolve()
    hub.revisions["master"] = {**FILES, "config.json": b'{"model_type": "evil"}'}
    assert resolve() != pin
    with pytest.raises(IntegrityError, match=r"`config\.json` of `acme/tiny` is not what the lock pinned"):
        fetched(pin, tmp_path / "out")


def test_a_token_opens_a_private_model_and_goes_to_the_hub_alone(hub: StubModelScope, tmp_path: Path) -> None:
    hub.private = True
    assert "or is private" in refusal().message
    config.set_default_config(config.HubConfig(endpoint=hub.url, token=TOKEN))
    hub.seen.clear()
    assert fetched(resolve(), tmp_path / "out")["model.safetensors"] == WEIGHTS
    sent = {who: {(token, cookie) for from_, _, token, cookie, _ in hub.seen if from_ == who} for who in ("hub", "cdn")}
    assert sent == {"hub": {(f"Bearer {TOKEN}", f"m_session_id={TOKEN}")}, "cdn": {(None, None)}}


def test_a_download_goes_on_where_it_broke_off(hub: StubModelScope, tmp_path: Path) -> None:
    pin = resolve()
    hub.faults["FilePath=model.safetensors"] = [100_000]
    assert fetched(pin, tmp_path / "out")["model.safetensors"] == WEIGHTS
    ranges = [found for who, address, _, _, found in hub.seen if who == "cdn" and "model.safetensors" in address]
    assert ranges[0] is None and int(ranges[-1].removeprefix("bytes=").rstrip("-")) > 0


def test_a_busy_hub_is_tried_again(hub: StubModelScope) -> None:
    hub.faults["/repo/files"] = [(429, {"Retry-After": "1"}), (503, {})]
    assert resolve().uri.startswith(REF)
    hub.faults["/repo/files"] = [(429, {"Retry-After": "7200"})]
    assert "in 7200 s" in refusal().hint


@pytest.mark.parametrize(("status", "message"), [(401, "or is private"), (404, "is not on the hub"), (418, "418")])
def test_refusals_say_what_to_do(status: int, message: str, hub: StubModelScope) -> None:
    hub.faults["/repo/files"] = [(status, {})]
    assert message in refusal().message


def test_a_hub_that_does_not_answer(hub: StubModelScope) -> None:
    config.set_default_config(config.HubConfig(endpoint="http://127.0.0.1:1"))
    found = refusal()
    assert "cannot be reached" in found.message and "MODELSCOPE_ENDPOINT" in found.hint


BLOB = {"Path": "a", "Size": 1, "Type": "blob", "Sha256": "0" * 64}


@pytest.mark.parametrize(
    "files",
    [
        None,
        "x",
        [],
        [{**BLOB, "Path": "../x"}],
        [{**BLOB, "Path": 3}],
        [BLOB, {**BLOB, "Path": "A"}],
        [{**BLOB, "Sha256": "x"}],
        [{**BLOB, "Size": -1}],
        [{**BLOB, "Size": 1 << 50}],
        [{**BLOB, "Path": f"{number}"} for number in range(3000)],
    ],
)
def test_listings_that_cannot_be_right(files: object, hub: StubModelScope) -> None:
    hub.answer = json.dumps({"Code": 200, "Data": {"Files": files}}).encode()
    with pytest.raises((SourceError, IntegrityError)):
        resolve()


@pytest.mark.parametrize("ref", ["modelscope://", "modelscope://a", "modelscope://a/../b", "modelscope://u:p@h/x@"])
def test_other_forms_are_refused(ref: str, hub: StubModelScope) -> None:
    assert load_for(ref) is modelscope and not fsspec.matches(ref)
    with pytest.raises(UsageError, match="is not a model on ModelScope"):
        resolve(ref)
    assert not hub.seen


def test_the_stub_is_what_the_hub_s_own_client_reads(hub: StubModelScope, tmp_path: Path) -> None:
    from modelscope_hub import HubApi

    api = HubApi(endpoint=hub.url)
    found = {row.path: row.sha256 for row in api.list_repo_files(NAME, "model") if not row.is_dir}
    assert found == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    for path in ("config.json", "model.safetensors"):
        got = api.download_file(NAME, "model", path, local_dir=tmp_path / "local")
        assert Path(got).read_bytes() == FILES[path]


def graph() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_a_bundle_from_the_hub_builds_again_without_it(hub: StubModelScope, packager: Run, tmp_path: Path) -> None:
    card = b"---\nlicense: apache-2.0\n---\n# Relu\n\n## Intended use\n\nNone.\n"
    hub.revisions["v1"] = {"model.onnx": graph(), "README.md": card}
    (tmp_path / "bundle.yaml").write_text(f"name: relu\nversion: 1.0.0\nsource: {REF}@v1\n")
    packager("lock", MODELSCOPE_API_TOKEN=TOKEN, MODELSCOPE_ENDPOINT=hub.url)
    lock = (tmp_path / "bundle.lock").read_text()
    assert f"{REF}@v1" in lock and TOKEN not in lock and "127.0.0.1" not in lock
    answer = json.loads(packager("build", "--locked", "--json", MODELSCOPE_ENDPOINT="http://127.0.0.1:1").stdout)
    assert answer["verdict"]["ok"] and "MODEL_CARD.md" in packager("inspect", answer["digest"], "--json").stdout
