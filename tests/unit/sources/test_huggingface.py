# SPDX-License-Identifier: Apache-2.0
"""Models on a hub, against a server on this machine that speaks its API: redirects, refusals, and whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from packager.errors import IntegrityError, PackagerError, SourceError, UsageError
from packager.events import Progress, ignore
from packager.formats import intoto
from packager.lock import source_trust
from packager.recipe.clauses import SourceTrust
from packager.sources import Pin, Settings, fsspec, huggingface, load_for
from packager.trust import keys
from packager.types import Blob, Tree
from tests.conftest import Run
from tests.support.stub_hub import NAME, TOKEN, StubHub, stub_hub

constants = pytest.importorskip("huggingface_hub.constants")

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same once more",
    "onnx/model.onnx": b"and once more",
    "1_Pooling/config.json": b"{}",
    ".gitattributes": b"*.bin filter=lfs",
}
KEPT = {"config.json", "README.md", "model.safetensors", "1_Pooling/config.json"}
LARGE = {"model.safetensors", "pytorch_model.bin"}
REF = f"hf://{NAME}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    with stub_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield running


def resolve(ref: str = REF) -> Pin:
    pin = huggingface.resolve(ref, Settings(Path("/nonexistent"), ref, timeout=5))
    assert "127.0.0.1" not in str(pin.to_json()) and TOKEN not in str(pin.to_json())
    return Pin.from_json(json.loads(json.dumps(pin.to_json())))


def fetched(pin: Pin, out: Path) -> dict[str, bytes]:
    out.mkdir()
    blobs = huggingface.fetch(pin, Settings(Path("/nonexistent"), REF, timeout=5), out, ignore)
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path: f"sha256:{hashlib.sha256(data).hexdigest()}" for path, data in found.items()} == {
        path: blob.digest for path, blob in blobs.items()
    }
    return found


def refusal(ref: str = REF) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        resolve(ref)
    assert caught.value.hint
    told = f"{caught.value.message} {caught.value.hint}"
    assert TOKEN not in told and "verysecret" not in told and "\x1b" not in told
    return caught.value


def test_a_branch_is_pinned_by_its_commit_and_every_file_by_its_sha256(hub: StubHub, tmp_path: Path) -> None:
    commit = hub.put(FILES, large=LARGE)
    pin = resolve()
    assert pin.uri == f"hf://{NAME}@{commit}"
    assert pin.details["files"] == {
        path: [f"sha256:{hashlib.sha256(FILES[path]).hexdigest()}", len(FILES[path])] for path in sorted(KEPT)
    }
    assert resolve(f"{REF}@{commit}") == resolve(f"{REF}@main") == pin
    hub.put({**FILES, "config.json": b"{}"})
    assert resolve() != pin, "the branch moved"
    assert fetched(pin, tmp_path / "out") == {path: FILES[path] for path in KEPT}, "the pin did not"
    assert not any("pytorch_model" in path or "onnx" in path for _, path, _, _ in hub.seen)


def test_without_safetensors_everything_is_the_source(hub: StubHub) -> None:
    hub.put({"model.onnx": b"g", "weights.bin": b"w", ".gitattributes": b""}, revision="refs/pr/1")
    assert set(resolve(f"{REF}@refs/pr/1").details["files"]) == {"model.onnx", "weights.bin"}


def test_a_signature_is_of_every_file(hub: StubHub) -> None:
    hub.put({**FILES, "model.sig": b"{}"}, large=LARGE)
    assert set(resolve().details["files"]) == {*FILES, "model.sig"} - {".gitattributes"}


def test_a_publisher_s_signature_is_demanded_of_it(hub: StubHub, tmp_path: Path) -> None:
    """OpenSSF Model Signing over the repository, other formats of the weights included."""
    key = keys.generate_key("p256")
    (tmp_path / "publisher.pub").write_bytes(key.public.pem)
    blobs = {path: Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) for path, data in FILES.items()}
    blobs.pop(".gitattributes")  # as every signer of this form does
    statement = intoto.model_signing_statement("model", "1", Tree.of(blobs))
    signature = key.sign(statement.to_bytes()).to_bytes()
    settings, wanted = Settings(tmp_path, REF, timeout=5), SourceTrust(key="publisher.pub")

    def signer(name: str, **changes: bytes) -> dict:
        files = {**FILES, "model.sig": signature, **changes}
        hub.put(files, large=LARGE)
        pin = resolve()
        fetched(pin, tmp_path / name)
        tree = Tree.of({path: Blob(*row) for path, row in pin.details["files"].items()})
        read = lambda path: (tmp_path / name / path).read_bytes()  # noqa: E731
        return source_trust.check(wanted, pin, tree, read, settings, datetime.now(UTC))

    assert signer("right")["signer"] == key.public.fingerprint
    with pytest.raises(PackagerError, match=r"pytorch_model\.bin"):
        signer("wrong", **{"pytorch_model.bin": b"exchanged"})


def test_progress_counts_every_byte(hub: StubHub, tmp_path: Path) -> None:
    hub.put(FILES, large=LARGE)
    events: list = []
    total = sum(len(FILES[path]) for path in KEPT)
    (tmp_path / "out").mkdir()
    huggingface.fetch(resolve(), Settings(tmp_path, REF), tmp_path / "out", events.append)
    assert max(event.done for event in events) == total and events[0].total == total
    assert isinstance(events[0], Progress)


def test_a_token_opens_a_gated_model_and_goes_to_the_hub_alone(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(FILES, large=LARGE)
    hub.gated = True
    assert "is gated" in refusal().message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched(resolve(), tmp_path / "out")["model.safetensors"] == WEIGHTS
    sent = {who: {token for from_, _, token, _ in hub.seen if from_ == who} for who in ("hub", "cdn")}
    assert f"Bearer {TOKEN}" in sent["hub"] and sent["cdn"] == {None}


def test_a_download_goes_on_where_it_broke_off(hub: StubHub, tmp_path: Path) -> None:
    hub.put(FILES, large=LARGE)
    pin = resolve()
    hub.faults["model.safetensors"] = [100_000]
    assert fetched(pin, tmp_path / "out")["model.safetensors"] == WEIGHTS
    ranges = [found for who, path, _, found in hub.seen if who == "cdn" and path.endswith("model.safetensors")]
    assert ranges[0] is None and int(ranges[-1].removeprefix("bytes=").rstrip("-")) > 0


def test_a_download_begins_again_where_it_cannot_go_on(hub: StubHub, tmp_path: Path) -> None:
    """The stub serves small files whole, whatever range is asked for."""
    commit = hub.put(FILES, large=LARGE)
    pin = resolve()
    hub.faults[f"{commit}/config.json"] = [3, 5]
    assert fetched(pin, tmp_path / "a")["config.json"] == FILES["config.json"]
    hub.faults[f"{commit}/config.json"] = [3] * 9
    with pytest.raises(SourceError, match=r"cannot be reached for `config.json`|broke off") as caught:
        fetched(pin, tmp_path / "b")
    assert caught.value.hint


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["byte", "shorter", "longer"])
def test_other_bytes_than_the_pinned_are_refused(path: str, change: str, hub: StubHub, tmp_path: Path) -> None:
    hub.put(FILES, large=LARGE)
    pin, data = resolve(), FILES[path]
    hub.served[path] = {"byte": b"X" + data[1:], "shorter": data[:-1], "longer": data + b"X"}[change]
    with pytest.raises((IntegrityError, SourceError)) as caught:
        fetched(pin, tmp_path / "out")
    assert path in caught.value.message and caught.value.hint


def test_a_small_file_is_that_of_its_commit(hub: StubHub) -> None:
    hub.put(FILES, large=LARGE)
    hub.served["config.json"] = b'{"model_type": "evil"}'
    assert "is not that of commit" in refusal().message


def test_a_busy_hub_is_asked_again_when_it_says(hub: StubHub) -> None:
    hub.put(FILES, large=LARGE)
    hub.faults["/revision/"] = [(429, {"Retry-After": "1"}), (503, {})]
    start = time.monotonic()
    assert resolve().uri.startswith(REF)
    assert time.monotonic() - start >= 1
    hub.faults["/revision/"] = [(429, {"Retry-After": "7200"})]
    start = time.monotonic()
    found = refusal()
    assert "too many requests" in found.message and "in 7200 s" in found.hint and found.code == 3
    assert time.monotonic() - start < 60
    hub.faults["/revision/"] = [(500, {})] * 9
    assert "it answers 500" in refusal().message


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((401, {"X-Error-Code": "RepoNotFound"}), "not on the hub, or private"),
        ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "does not accept the token"),
        ((403, {}), "may not be read with this token"),
        ((403, {"X-Error-Code": "GatedRepo"}), "is gated"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "not on the hub, or private"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "has no revision `main`"),
        ((418, {}), "answers 418"),
    ],
)
def test_refusals_say_what_to_do(fault: tuple, message: str, hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.put(FILES)
    hub.faults["/revision/"] = [fault]
    found = refusal()
    assert message in found.message and found.code == 3


def test_a_commit_that_is_gone(hub: StubHub, tmp_path: Path) -> None:
    hub.put(FILES, large=LARGE)
    pin = resolve()
    hub.commits.clear()
    with pytest.raises(SourceError, match="or no longer") as caught:
        fetched(pin, tmp_path / "out")
    assert "lock" in caught.value.hint


def test_a_repository_that_moved_is_not_followed(hub: StubHub) -> None:
    hub.put(FILES)
    hub.called = "evil/tiny"
    found = refusal()
    assert "has moved" in found.message and "hf://evil/tiny" in found.hint
    hub.called = "\x1b[31m/../x"
    refusal()


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7},
        {"sha": "main"},
        {"sha": None},
        {"siblings": None},
        {"siblings": [{"rfilename": "../x", "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "a", "blobId": "0" * 40}, {"rfilename": "A", "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": 3, "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "a", "blobId": "x"}]},
        {"siblings": [{"rfilename": "a", "lfs": {"sha256": "0" * 64, "size": -1}}]},
        {"siblings": [{"rfilename": "a", "lfs": {"sha256": "0" * 64, "size": 1 << 50}}]},
        {"siblings": [{"rfilename": "a", "lfs": "x"}]},
        {"siblings": []},
        None,
    ],
)
def test_answers_that_cannot_be_right(change: dict | None, hub: StubHub) -> None:
    hub.put({"a": b"a"})
    right = json.loads(hub.about("main"))
    hub.answer = b"[" * 100_000 if change is None else json.dumps({**right, **change}).encode()
    with pytest.raises((SourceError, IntegrityError)):
        resolve()


def test_another_commit_than_the_one_that_was_named(hub: StubHub) -> None:
    hub.put({"a": b"a"})
    hub.answer = hub.about("main")
    assert "answers with commit" in refusal(f"{REF}@{'0' * 40}").message


@pytest.mark.parametrize(
    "ref", ["hf://", "hf://a/b/c", "hf://datasets/a/b", "hf://a/../b", "hf://u:p@host/x", "hf://a/b@"]
)
def test_other_forms_are_refused(ref: str, hub: StubHub) -> None:
    assert load_for(ref) is huggingface and not fsspec.matches(ref)
    with pytest.raises(UsageError, match="is not a model on a hub"):
        resolve(ref)
    assert not hub.seen


def test_a_hub_that_does_not_answer(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    start = time.monotonic()
    assert "cannot be reached" in refusal().message
    assert time.monotonic() - start < 10
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal().message


def test_the_stub_is_what_the_hub_s_own_client_reads(
    hub: StubHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    commit = hub.put(FILES, large=LARGE)
    info = HfApi(endpoint=hub.url, token=False).model_info(NAME, files_metadata=True)
    assert info.sha == commit
    assert {row.rfilename: row.lfs.sha256 for row in info.siblings if row.lfs} == {
        path: hashlib.sha256(FILES[path]).hexdigest() for path in LARGE
    }
    for path in ("config.json", "model.safetensors"):
        got = hf_hub_download(NAME, path, revision=commit, endpoint=hub.url, local_dir=tmp_path / "local", token=False)
        assert Path(got).read_bytes() == FILES[path]


def graph() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_a_bundle_from_a_hub_builds_again_without_it(hub: StubHub, packager: Run, tmp_path: Path) -> None:
    """The card of the repository is the bundle's, a lock has no secret, and a changed byte is refused."""
    card = b"---\nlicense: apache-2.0\n---\n# Relu\n\n## Intended use\n\nNone.\n"
    commit = hub.put({"model.onnx": graph(), "README.md": card}, large={"model.onnx"})
    (tmp_path / "bundle.yaml").write_text(f"name: relu\nversion: 1.0.0\nsource: {REF}@main\n")
    packager("lock", HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url)
    lock = (tmp_path / "bundle.lock").read_text()
    assert commit in lock and TOKEN not in lock and "127.0.0.1" not in lock
    hub.put({"model.onnx": b"moved on", "README.md": b""})
    answer = json.loads(packager("build", "--locked", "--json", HF_ENDPOINT="http://127.0.0.1:1").stdout)
    assert answer["verdict"]["ok"]
    held = packager("inspect", answer["digest"], "--json").stdout
    assert "MODEL_CARD.md" in held
    bill = packager("sbom", answer["digest"]).stdout
    assert "Apache-2.0" in bill and hashlib.sha256(card).hexdigest() in bill
    hub.served["model.onnx"] = graph()[:-1] + b"X"
    done = packager("build", "--locked", PACKAGER_STORE=str(tmp_path / "other"), HF_ENDPOINT=hub.url, code=5)
    assert "`model.onnx` of `acme/tiny` is not what the lock pinned" in done.stderr
