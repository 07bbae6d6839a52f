# SPDX-License-Identifier: Apache-2.0
"""The MLflow source against a real `mlflow server`, and against servers that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import exporters
from packager.errors import IntegrityError, SourceError
from packager.events import Event, Progress
from packager.sources import Pin, Settings
from packager.sources import mlflow as source
from tests.conftest import Run
from tests.support.mlflow_registries import client_of, fetched, log_models, refusal, state
from tests.support.mlflow_servers import Server, mlflow_server

pytest.importorskip("mlflow")
pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a real server that keeps the artifacts itself; it needs many seconds, so the other tests run meanwhile."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as starting:
        yield starting


@pytest.fixture(scope="module")
def logged(server: Server) -> tuple[str, str]:
    """Log the three forms of `digits` on the real server; return the id of the first and the run."""
    pt2, _, _, run = log_models(server.address)
    return pt2, run


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    start = time.monotonic()
    error = refusal("models:/digits/1", Settings(tmp_path, tracking="http://ada:secret@127.0.0.1:1"))
    assert (error.code, error.message) == (3, "registry `http://127.0.0.1:1` does not answer")
    assert time.monotonic() - start < 10


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        error = refusal("models:/digits/1", Settings(tmp_path, tracking=address, timeout=1))
    assert error.message == f"registry `{address}` does not answer"
    assert time.monotonic() - start < 15


MODEL = "m-" + "0" * 32


@contextlib.contextmanager
def serving(
    artifacts: str, listing: list[dict[str, Any]], body: bytes = b"x", status: int = 200, sent: int = -1
) -> Iterator[Settings]:
    """Speak as much of MLflow's protocol as one model needs, truthfully or not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == f"/api/2.0/mlflow/logged-models/{MODEL}":
                info = {
                    "model_id": MODEL,
                    "artifact_uri": artifacts,
                    "status": "LOGGED_MODEL_READY",
                    "experiment_id": "1",
                }
                self.answer(json.dumps({"model": {"info": info, "data": {}}}).encode())
            elif path.endswith("/artifacts") and query:
                self.answer(json.dumps({"files": listing}).encode())
            else:
                self.answer(body)

        def answer(self, content: bytes) -> None:
            content = content if status == 200 else b"You are not authenticated."
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:sent] if len(content) > sent >= 0 else content)

        def log_message(self, *args: Any) -> None:
            """Silence."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield Settings(Path("/nonexistent"), tracking=f"http://127.0.0.1:{listener.server_port}", timeout=2)
        listener.shutdown()


def listed(path: str, size: int = 1) -> dict[str, Any]:
    return {"path": path, "is_dir": False, "file_size": size}


def test_fake_registry_can_list_truthfully(tmp_path: Path) -> None:
    with serving("mlflow-artifacts:/a", [listed("MLmodel"), listed("registered_model_meta")]) as settings:
        pin = source.resolve(f"models:/{MODEL}", settings)
        assert fetched(pin, settings, tmp_path) == {"MLmodel": b"x"}


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        serving("mlflow-artifacts:/a", [listed("MLmodel", 5)]) as settings,
        pytest.raises(SourceError, match="`MLmodel` is incomplete: expected 5 bytes, got 1"),
    ):
        fetched(Pin("mlflow", f"models:/{MODEL}"), settings, tmp_path)


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a\\b", "con", "a/./b"])
def test_a_path_that_leaves_the_directory_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with serving("mlflow-artifacts:/a", [listed(path)]) as settings, pytest.raises((IntegrityError, SourceError)):
        fetched(Pin("mlflow", f"models:/{MODEL}"), settings, tmp_path / "out")
    assert state(tmp_path) == {}


def test_paths_that_collide_are_refused(tmp_path: Path) -> None:
    with (
        serving("mlflow-artifacts:/a", [listed("MLmodel"), listed("mlmodel")]) as settings,
        pytest.raises(IntegrityError, match="collides"),
    ):
        fetched(Pin("mlflow", f"models:/{MODEL}"), settings, tmp_path)


def test_an_endless_listing_is_refused(tmp_path: Path) -> None:
    endless = [{"path": "d", "is_dir": True}]
    with (
        serving("mlflow-artifacts:/a", endless) as settings,
        pytest.raises(SourceError, match="expected at most 100000 files in 32 levels"),
    ):
        fetched(Pin("mlflow", f"models:/{MODEL}"), settings, tmp_path)


def test_a_server_may_not_name_a_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("private")
    (tmp_path / "out").mkdir()
    for artifacts in (str(tmp_path / "home"), f"file://{tmp_path}/home"):
        with serving(artifacts, []) as settings, pytest.raises(SourceError, match="names a local directory"):
            fetched(Pin("mlflow", f"models:/{MODEL}"), settings, tmp_path / "out")
    assert state(tmp_path / "out") == {}


def test_a_server_that_refuses_access(tmp_path: Path) -> None:
    with serving("mlflow-artifacts:/a", [], status=403) as settings:
        error = refusal(f"models:/{MODEL}", settings)
    assert "refuses access" in error.message
    assert "MLFLOW_TRACKING_TOKEN" in str(error.hint)


def test_a_server_that_is_something_else(tmp_path: Path) -> None:
    with serving("mlflow-artifacts:/a", [], body=b"<html>") as settings:
        error = refusal("models:/digits@champion", settings)
    assert error.code == 3


def test_a_real_server(server: Server, logged: tuple[str, str], tmp_path: Path) -> None:
    pt2, run = logged
    settings = Settings(tmp_path, tracking=server.address.replace("//", "//ada:secret@"), timeout=10)
    pin = source.resolve("models:/digits@champion", settings)
    assert pin.uri == f"models:/{pt2}"
    assert str(server.port) not in str(pin.to_json())
    events: list[Event] = []
    out = tmp_path / "out"
    out.mkdir()
    source.fetch(pin, settings, out, events.append)
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [
        "MLmodel",
        "conda.yaml",
        "data/model.pt2",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    ]
    total = sum((out / name).stat().st_size for name in found)
    assert events == [Progress("model", 0, total), Progress("model", total, total)]
    assert "data/model.pth" in fetched(source.resolve("models:/digits/2", settings), settings, tmp_path / "two")
    assert list(fetched(source.resolve(f"runs:/{run}/pt2/data", settings), settings, tmp_path / "part")) == [
        "model.pt2"
    ]
    notes = source.resolve(f"runs:/{run}/notes/a.txt", settings)
    assert fetched(notes, settings, tmp_path / "notes") == {"a.txt": b"plain"}
    proxied = source.resolve(f"mlflow-artifacts:/1/{run}/artifacts/notes", settings)
    assert fetched(proxied, settings, tmp_path / "proxied") == {"a.txt": b"plain"}
    assert refusal("models:/digits@champ", settings).message == "model `digits` has no alias `champ`"
    with pytest.raises(SourceError, match="failed") as caught:
        fetched(Pin("mlflow", f"runs:/{run}/nothing"), settings, tmp_path / "nothing")
    assert "secret" not in caught.value.message
    assert "404" in caught.value.message


def log_flavours(tracking: str) -> None:
    """Log one small model of every flavour that has an exporter, each under the name of its exporter."""
    import lightgbm
    import mlflow.lightgbm
    import mlflow.sklearn
    import mlflow.transformers
    import mlflow.xgboost
    import numpy as np
    import transformers
    import xgboost
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}
    parts = {"model": transformers.BertModel(config), "tokenizer": transformers.BertTokenizer(vocab=words)}
    common = {"pip_requirements": ["numpy"]}
    with client_of(tracking):
        mlflow.set_experiment("flavours")
        with mlflow.start_run():
            mlflow.sklearn.log_model(
                LogisticRegression().fit(x, y), name="sklearn", registered_model_name="sklearn", **common
            )
            mlflow.xgboost.log_model(
                xgboost.XGBClassifier(n_estimators=2).fit(x, y),
                name="xgboost",
                registered_model_name="xgboost",
                **common,
            )
            mlflow.lightgbm.log_model(
                lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(x, y),
                name="lightgbm",
                registered_model_name="lightgbm",
                **common,
            )
            mlflow.transformers.log_model(
                parts, name="transformers", task="feature-extraction", registered_model_name="transformers", **common
            )


@pytest.mark.usefixtures("logged")
def test_list_files_downloads_metadata_only(server: Server, tmp_path: Path) -> None:
    settings = Settings(tmp_path, tracking=server.address, timeout=10)
    files = source.list_files("models:/digits/2", settings, tmp_path)
    assert files["MLmodel"] and files["MLmodel"].read_bytes().startswith(b"artifact_path")
    assert files["data/model.pth"] is None
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= set(source._ABOUT)


@pytest.mark.slow
def test_every_flavour_arrives_whole(server: Server, tmp_path: Path) -> None:
    log_flavours(server.address)
    settings = Settings(tmp_path, tracking=server.address, timeout=10)
    for name in ("sklearn", "xgboost", "lightgbm", "transformers"):
        files = fetched(source.resolve(f"models:/{name}/latest", settings), settings, tmp_path / name)
        assert exporters.detect_kind(files, files.__getitem__)[0] == name


def test_a_server_that_dies_while_sending(tmp_path: Path) -> None:
    """It promises a megabyte and closes the connection after half of it."""
    with serving("mlflow-artifacts:/a", [listed("MLmodel", 1 << 20)], body=bytes(1 << 20), sent=1 << 19) as settings:
        pin = source.resolve(f"models:/{MODEL}", settings)
        with pytest.raises(SourceError) as caught:
            fetched(pin, settings, tmp_path / "out")
    assert caught.value.code == 3
    assert "\n" not in caught.value.message


def test_an_artifact_that_changed_on_the_server_after_the_lock(server: Server, packager: Run, tmp_path: Path) -> None:
    with client_of(server.address):
        import mlflow

        with mlflow.start_run() as run:
            mlflow.log_text("x" * 100, "plain/model.txt")
            mlflow.log_artifact(str(_relu(tmp_path)), "plain")
    ref = f"runs:/{run.info.run_id}/plain"
    (tmp_path / "bundle.yaml").write_text(f"name: m\nversion: 1.0.0\nsource: {ref}\nregistry: {server.address}\n")
    packager("lock")
    with client_of(server.address):
        mlflow.MlflowClient().log_text(run.info.run_id, "y" * 100, "plain/model.txt")
    done = packager("build", "--locked", code=5, PACKAGER_STORE=str(tmp_path / "fresh"))
    assert "is not what was locked: `model.txt` differs" in done.stderr
    assert "packager lock" in done.stderr


def _relu(folder: Path) -> Path:
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "relu.onnx")
    return folder / "relu.onnx"


@contextlib.contextmanager
def catalog(answers: dict[str, Any], asked: list[str]) -> Iterator[str]:
    """Stand in for a Databricks workspace: answer the calls of Unity Catalog, and note them with their token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(f"{path} {self.headers.get('Authorization')}")
            found = answers.get(path)
            content = json.dumps(found or {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            """Silence."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}"
        listener.shutdown()


def test_unity_catalog_goes_through_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three-level names and aliases become a version, with Databricks' own credentials; no workspace was at hand."""
    version = {"name": "main.ml.digits", "version": "7", "status": "READY", "run_id": "a" * 32, "source": "s3://x/y"}
    asked: list[str] = []
    base = "/api/2.0/mlflow/unity-catalog"
    with catalog(
        {
            f"{base}/registered-models/alias": {"model_version": version},
            f"{base}/model-versions/get": {"model_version": version},
        },
        asked,
    ) as host:
        monkeypatch.setenv("DATABRICKS_HOST", host)
        monkeypatch.setenv("DATABRICKS_TOKEN", "token-of-ada")
        settings = Settings(tmp_path, tracking="databricks-uc", timeout=2)
        for ref in ("models:/main.ml.digits@champion", "models:/main.ml.digits/7"):
            pin = source.resolve(ref, settings)
            assert pin.uri == "models:/main.ml.digits/7"
            assert pin.details["name"] == "main.ml.digits"
            assert "token-of-ada" not in str(pin.to_json())
        refused = refusal("models:/main.ml.digits/latest", settings)
    assert refused.code == 3
    assert all(line.endswith("Bearer token-of-ada") for line in asked if line.startswith("/api"))
