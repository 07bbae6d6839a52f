# SPDX-License-Identifier: Apache-2.0
"""`packager watch` beside a real `mlflow server` and a real registry: each version once, tags right, forgeries refused."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.helper as h
import pytest

from packager.formats import platforms
from packager.trust import keys
from tests.e2e.conftest import Project, tool
from tests.support import forks, registry_server
from tests.support.mlflow_registries import client_of
from tests.support.mlflow_servers import Server, free_port, mlflow_server
from tests.support.registry_server import Registry

pytest.importorskip("mlflow")
pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.xdist_group("release")
SECRET = "correct horse battery"
SEED = 50
RECIPE = """name: {name}
version: 2.1.0
source: models:/{name}@champion
registry: {registry}
policy: dev
platforms: [{platform}]
"""
PLAN = """recipes: ["*/bundle.yaml"]
defaults:
  sign: key:release.pem
  push: oci://{host}/watched/{{name}}:{{version}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("registry") / "r") as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    local = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), **local) as running:
        yield running


def log_versions(address: str, name: str, count: int, folder: Path) -> None:
    """Register graphs that add 1, 2, … as the versions 1, 2, … of a model."""
    with client_of(address) as mlflow:
        client = mlflow.MlflowClient()
        client.create_registered_model(name)
        for number in range(1, count + 1):
            x, y = (h.make_tensor_value_info(tensor, 1, ["batch", 4]) for tensor in "xy")
            added = h.make_tensor("a", 1, [4], [float(number)] * 4)
            graph = h.make_graph([h.make_node("Add", ["x", "a"], ["y"])], "g", [x], [y], [added])
            made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
            onnx.save(made, folder / "model.onnx")
            run = client.create_run("0").info
            client.log_artifact(run.run_id, str(folder / "model.onnx"), "model")
            client.create_model_version(name, f"{run.artifact_uri}/model", run_id=run.run_id)


def move(address: str, name: str, number: int) -> None:
    with client_of(address) as mlflow:
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", str(number))


def tags(address: str, name: str, number: int) -> dict[str, str]:
    with client_of(address) as mlflow:
        found = mlflow.MlflowClient().get_model_version(name, str(number)).tags
    return {key.removeprefix(f"packager.{name}."): value for key, value in found.items()}


def subscribe(address: str, port: int, name: str) -> None:
    """Have the server tell a watcher about aliases and tags."""
    with client_of(address) as mlflow:
        mlflow.MlflowClient().create_webhook(
            name=name,
            url=f"http://127.0.0.1:{port}/webhook",
            events=["model_version_alias.created", "model_version_tag.set"],
            secret=SECRET,
        )


def make_project(folder: Path, name: str, server: Server, registry: Registry) -> Project:
    (folder / name).mkdir(parents=True)
    text = RECIPE.format(name=name, registry=server.address, platform=platforms.name_host())
    (folder / name / "bundle.yaml").write_text(text)
    (folder / "release.yaml").write_text(PLAN.format(host=registry.host))
    key = keys.generate_key("p256")
    keys.save(key, folder / "release.pem", folder / "release.pub", None)
    return Project(folder, folder.parent / "store")


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "packager", "watch", "--json", *arguments]
    variables = {"PACKAGER_STORE": str(project.store), "PACKAGER_WEBHOOK_SECRET": SECRET}
    with (project.folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=project.folder,
            env=forks.variables(project.folder) | variables,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def wait_for(what: Callable[[], Any], watchers: list[subprocess.Popen[str]], seconds: float = 900) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := what():
                return found
        assert all(process.poll() is None for process in watchers)
        time.sleep(0.25)
    raise TimeoutError


def request(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def webhook(name: str, number: int, delivery: str, age: int = 0, secret: str = SECRET) -> tuple[bytes, dict[str, str]]:
    """Return a webhook as MLflow's documentation says that it is signed."""
    data = {"name": name, "alias": "champion", "version": str(number)}
    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()
    at = str(int(time.time()) - age)
    mac = hmac.new(secret.encode(), f"{delivery}.{at}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{b64encode(mac).decode()}"
    return body, {"X-MLflow-Signature": signature, "X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": at}


@pytest.mark.slow  # four releases behind a real server: minutes
def test_a_moved_alias_is_released_once_and_tagged(server: Server, registry: Registry, tmp_path: Path) -> None:
    project, port = make_project(tmp_path / "project", "net", server, registry), free_port()
    log_versions(server.address, "net", 3, tmp_path)
    subscribe(server.address, port, "first")  # before any event: MLflow remembers for a minute who wants one
    move(server.address, "net", 1)
    watcher = start(project, "--listen", f"127.0.0.1:{port}", "--interval", "3600")
    try:
        wait_for(lambda: request(port, "GET", "/healthz")[0] == 200, [watcher])
        wait_for(lambda: tags(server.address, "net", 1).get("verdict"), [watcher])  # the last one that is written
        move(server.address, "net", 2)  # only the server's own webhook says so within the hour
        wait_for(lambda: tags(server.address, "net", 2).get("verdict"), [watcher])
        found = tags(server.address, "net", 2)
        assert found["verdict"] == "released" and found["bundle"] == "net:2.1.2"
        seen = project.run("verify", found["reference"], "--key", "release.pub", "--json")
        assert seen["ok"] and seen["digest"] == found["digest"]
        assert found["digest"] != tags(server.address, "net", 1)["digest"]

        assert request(port, "POST", "/webhook", *webhook("net", 3, "a", secret="guessed"))[0] == 401
        assert request(port, "POST", "/webhook", *webhook("net", 3, "b", age=301))[0] == 401
        body, headers = webhook("net", 3, "c")
        assert request(port, "POST", "/webhook", body.replace(b'"3"', b'"4"'), headers)[0] == 401
        assert request(port, "POST", "/webhook", body, headers | {"X-MLflow-Delivery-Id": "d"})[0] == 401
        assert request(port, "POST", "/webhook", b"x" * (65 << 10), headers)[0] == 413
        body, headers = webhook("net", 2, "e")
        assert request(port, "POST", "/webhook", body, headers)[0] == 202
        assert request(port, "POST", "/webhook", body, headers)[0] == 409, "a replay"

        text = request(port, "GET", "/metrics")[1]
        for line in (
            'packager_watch_versions{state="released"} 2.0',
            'packager_release_models_total{state="done"} 2.0',
            'packager_watch_webhooks_total{result="received before"} 1.0',
            'packager_watch_webhooks_total{result="signature"} 3.0',
            'packager_release_task_seconds_count{task="build"} 2.0',
        ):
            assert line in text, text
        sent = re.search(r"^packager_release_sent_bytes_total (\S+)$", text, re.MULTILINE)
        assert sent and float(sent[1]) > 1000
        assert "net" not in text, "no model is a label"
    finally:
        watcher.send_signal(signal.SIGTERM)
        said = watcher.communicate(timeout=200)[0]
    assert watcher.returncode == 0 and json.loads(said)["released"] == 2
    assert sorted(path.name for path in (project.folder / "net").iterdir()) == ["bundle.yaml"]

    position = registry.position()
    again = project.run("watch", "--once", "--json")
    assert again == {"ok": True, "released": 0, "refused": 0, "failed": 0, "waiting": 0}
    assert registry.rows(position) == [] and not tags(server.address, "net", 3)


def test_what_a_gate_refuses_is_tagged_and_not_tried_again(server: Server, registry: Registry, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", "gated", server, registry)
    (project.folder / "gated" / "strict.yaml").write_text("rules: [model-card]\n")
    path = project.folder / "gated" / "bundle.yaml"
    path.write_text(path.read_text().replace("policy: dev", "policy: strict.yaml"))
    log_versions(server.address, "gated", 1, tmp_path)
    with client_of(server.address) as mlflow:
        mlflow.MlflowClient().set_model_version_tag("gated", "1", "approved", "yes")
    assert project.run("watch", "--once", "--json")["released"] == 0, "no alias, and tags are not watched"
    done = project.run("watch", "--once", "--tag", "approved=yes", "--json", code=1)
    assert (done["refused"], done["ok"]) == (1, False)
    found = tags(server.address, "gated", 1)
    assert found["verdict"] == "refused" and found["problem"] and "digest" not in found
    assert project.run("watch", "--once", "--tag", "approved=yes", "--json")["refused"] == 0


@pytest.mark.slow
def test_fifty_moves_with_kills_and_two_watchers(server: Server, registry: Registry, tmp_path: Path) -> None:
    """Watchers are killed at random moments and started again; every version is released once, its tags are right."""
    moves, rng = 50, random.Random(SEED)
    project = make_project(tmp_path / "project", "busy", server, registry)
    log_versions(server.address, "busy", moves, tmp_path)
    ports = [free_port(), free_port()]
    for number, port in enumerate(ports):
        subscribe(server.address, port, f"busy-{number}")
    move(server.address, "busy", 1)
    watchers = [start(project, "--listen", f"127.0.0.1:{port}", "--interval", "1") for port in ports]
    ledger = project.store / "v1" / "releases" / "watch.sqlite"
    kills, forged = 0, list[int]()

    def states() -> dict[int, str]:
        with contextlib.closing(sqlite3.connect(ledger, timeout=60)) as base:
            return {int(number): state for number, state in base.execute("SELECT number, state FROM versions")}

    try:
        wait_for(lambda: ledger.exists() and 1 in states(), [])
        for number in range(2, moves + 1):
            move(server.address, "busy", number)
            time.sleep(rng.random() * 3)
            if rng.random() < 0.5:
                which = rng.randrange(2)
                watchers[which].kill()
                watchers[which].wait()
                kills += 1
                watchers[which] = start(project, "--listen", f"127.0.0.1:{ports[which]}", "--interval", "1")
            wait_for(lambda number=number: number in states(), [])
            with contextlib.suppress(OSError, http.client.HTTPException):  # it may be starting
                status, _ = request(ports[0], "POST", "/webhook", *webhook("busy", 1, f"f{number}", secret="?"))
                forged.append(status)
        wait_for(lambda: set(states().values()) == {"released"}, [], 1800)
        wait_for(
            lambda: all(tags(server.address, "busy", number).get("verdict") for number in range(1, moves + 1)), [], 300
        )
    finally:
        for process in watchers:
            process.terminate()
        said = [json.loads(process.communicate(timeout=200)[0])["released"] for process in watchers]
    print(f"{moves} moves, {kills} kills, released by the last two processes: {said}")
    assert sorted(states()) == list(range(1, moves + 1)) and kills > 10
    assert set(forged) == {401}
    with contextlib.closing(sqlite3.connect(project.store / "v1" / "releases" / "journal.sqlite")) as base:
        built = base.execute("SELECT inputs, outcome FROM tasks WHERE task='build'").fetchall()
        pushed = base.execute("SELECT purpose, digest FROM claims WHERE purpose LIKE 'push %'").fetchall()
    digests = {json.loads(outcome)["digest"] for _, outcome in built}
    assert len(built) == len(digests) == moves, "each version has one build"
    assert len(pushed) == moves and {digest for _, digest in pushed} == digests
    for number in range(1, moves + 1):
        found = tags(server.address, "busy", number)
        assert found["bundle"] == f"busy:2.1.{number}" and found["verdict"] == "released"
        assert f"{found['reference']}".endswith(found["digest"]) and found["digest"] in digests
        seen = project.run(
            "verify", f"oci://{registry.host}/watched/busy:2.1.{number}", "--key", "release.pub", "--json"
        )
        assert seen["digest"] == found["digest"], "the tag of the registry means the same"
