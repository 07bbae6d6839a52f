# SPDX-License-Identifier: Apache-2.0
"""A rendered repository on a real Triton server: it loads, and answers what ONNX Runtime computes in this process."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import CNN_RECIPE, Project
from tests.support.triton_servers import tritonserver

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two versions of the CNN that promise Triton, signed."""
    root = tmp_path_factory.mktemp("triton")
    shutil.copytree(cnn, root / "project" / "model")
    project = Project(root / "project", root / "store")
    for version in ("1.2.3", "1.3.0"):
        promise = 'runs-on: {onnxruntime: ">=1.17", triton: ">=23.07"}\n'
        project.write(CNN_RECIPE.replace("1.2.3", version) + promise)
        project.run("lock")
        project.run("build", "--locked")
        if version == "1.2.3":
            project.run("keygen", "release")
        project.run("sign", f"cnn:{version}", "--key", "release.pem", "-o", f"{version}.bundle.tar")
    return project


def render(made: Project, version: str, repository: Path, *options: str, code: int = 0):
    return made.run(
        "render",
        "triton",
        f"{version}.bundle.tar",
        repository,
        "--key",
        "release.pub",
        "--backend",
        "python",
        *options,
        *(["--json"] if not code else []),
        code=code,
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_triton_answers_what_the_graph_computes(made: Project, tmp_path: Path) -> None:
    """Over HTTP in both forms and gRPC, single and batched; metrics name the bundle; the bundle did not change."""
    before = digest(made.folder / "1.2.3.bundle.tar")
    done = render(made, "1.2.3", tmp_path / "models", "--set", "metrics.labels.place=berlin")
    session = onnxruntime.InferenceSession(tmp_path / "models" / "cnn" / "1" / "model.onnx")
    (tmp_path / "work").mkdir()
    with tritonserver(tmp_path / "models", tmp_path / "work", "--load-model", "cnn") as server:
        over_http, over_grpc = http.InferenceServerClient(server.http), grpc.InferenceServerClient(server.grpc)
        assert over_http.is_model_ready("cnn")
        for rows in (1, 5, 64):
            images = np.random.default_rng(rows).random((rows, 1, 8, 8), dtype=np.float32)
            expected = session.run(None, {"image": images})[0]
            for binary in (True, False):
                request = http.InferInput("image", list(images.shape), "FP32")
                request.set_data_from_numpy(images, binary_data=binary)
                output = http.InferRequestedOutput("output", binary_data=binary)
                got = over_http.infer("cnn", [request], outputs=[output]).as_numpy("output")
                np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)
            request = grpc.InferInput("image", list(images.shape), "FP32")
            request.set_data_from_numpy(images)
            np.testing.assert_allclose(
                over_grpc.infer("cnn", [request]).as_numpy("output"), expected, atol=1e-5, rtol=1e-4
            )
        request = http.InferInput("image", [65, 1, 8, 8], "FP32")
        request.set_data_from_numpy(np.zeros((65, 1, 8, 8), np.float32))
        with pytest.raises(InferenceServerException, match="64"):
            over_http.infer("cnn", [request])
        metrics = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
        row = next(row for row in metrics.splitlines() if row.startswith("nv_inference_request_success{"))
        assert done["digest"] in row
        assert done["knobs"] in row
        assert 'site_place="berlin"' in row
    assert digest(made.folder / "1.2.3.bundle.tar") == before


def test_a_site_configuration_and_a_second_model(made: Project, tmp_path: Path) -> None:
    """`--model-config-name` picks the knobs of the site; a changed artefact does not load."""
    models = tmp_path / "models"
    render(made, "1.2.3", models, "--site", "berlin", "--set", "batch.max=2")
    (tmp_path / "work").mkdir()
    with tritonserver(models, tmp_path / "work", "--model-config-name", "berlin", "--load-model", "cnn") as server:
        client = http.InferenceServerClient(server.http)
        assert client.get_model_config("cnn")["max_batch_size"] == 2
        client.unload_model("cnn")
        graph = models / "cnn" / "1" / "model.onnx"
        graph.chmod(0o644)
        graph.write_bytes(graph.read_bytes() + b"\0")
        with pytest.raises(InferenceServerException, match="not the file of the bundle"):
            client.load_model("cnn")


class Load(threading.Thread):
    """Constant requests, each answer compared with what the graph computes; counts what failed or was wrong."""

    def __init__(self, address: str, session: onnxruntime.InferenceSession) -> None:
        super().__init__(daemon=True)
        self.address, self.stopped = address, threading.Event()
        self.images = np.random.default_rng(1).random((3, 1, 8, 8), dtype=np.float32)
        self.expected = session.run(None, {"image": self.images})[0]
        self.answers, self.wrong, self.failed = 0, 0, list[str]()

    def run(self) -> None:
        client = http.InferenceServerClient(self.address)
        request = http.InferInput("image", list(self.images.shape), "FP32")
        request.set_data_from_numpy(self.images)
        while not self.stopped.is_set():
            try:
                got = client.infer("cnn", [request]).as_numpy("output")
                self.answers += 1
                self.wrong += not np.allclose(got, self.expected, atol=1e-5, rtol=1e-4)
            except (InferenceServerException, OSError) as error:
                self.failed.append(repr(error))
            time.sleep(0.002)


def test_swap_under_load_fails_no_request_and_reverts_bad_versions(made: Project, tmp_path: Path) -> None:
    """There and back five times; then a version that does not load: the one before serves on."""
    models = tmp_path / "models"
    render(made, "1.2.3", models)
    session = onnxruntime.InferenceSession(models / "cnn" / "1" / "model.onnx")
    (tmp_path / "work").mkdir()
    with tritonserver(models, tmp_path / "work", "--load-model", "cnn") as server:
        url = f"http://{server.http}"
        load = Load(server.http, session)
        load.start()
        client = http.InferenceServerClient(server.http)
        for _ in range(5):
            for version, number in (("1.3.0", "2"), ("1.2.3", "1")):
                done = render(made, version, models, "--swap", url)
                assert done["number"] == int(number)
                assert client.get_model_metadata("cnn")["versions"] == [number]
        graph = models / "cnn" / "2" / "model.onnx"
        graph.chmod(0o644)
        graph.write_bytes(graph.read_bytes() + b"\0")
        refused = render(made, "1.3.0", models, "--swap", url, code=1).stderr
        assert "does not load" in refused
        assert client.get_model_metadata("cnn")["versions"] == ["1"]
        load.stopped.set()
        load.join(30)
        print(f"{load.answers} answers, {len(load.failed)} failed, {load.wrong} wrong")
        assert not load.failed, load.failed[:3]
        assert load.wrong == 0
        assert load.answers > 1000
        assert {path.name for path in models.iterdir()} == {"cnn"}
    assert "cannot reach Triton" in render(made, "1.2.3", models, "--swap", url, code=3).stderr


def test_two_minutes_of_load_while_upgrading_going_back_and_killing_the_installer(
    made: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four callers send all the time; a swap that is killed anywhere leaves what served, and the next one ends well."""
    models = tmp_path / "models"
    render(made, "1.2.3", models)
    session = onnxruntime.InferenceSession(models / "cnn" / "1" / "model.onnx")
    (tmp_path / "work").mkdir()
    moments = np.random.default_rng(3).uniform(0.1, 1.0, 1000)  # of the time that a swap took just before
    swaps = kills = 0
    with tritonserver(models, tmp_path / "work", "--load-model", "cnn") as server:
        url = f"http://{server.http}"
        loads = [Load(server.http, session) for _ in range(4)]
        for load in loads:
            load.start()
        end = time.monotonic() + 120
        while time.monotonic() < end:
            for version in ("1.3.0", "1.2.3"):
                began = time.monotonic()
                render(made, version, models, "--swap", url)
                took = time.monotonic() - began
                swaps += 1
            kills += killed(made, models, url, took * moments[swaps])
        render(made, "1.3.0", models, "--swap", url)
        client = http.InferenceServerClient(server.http)
        assert client.get_model_metadata("cnn")["versions"] == ["2"]
        for load in loads:
            load.stopped.set()
        for load in loads:
            load.join(30)
        assert {path.name for path in models.iterdir()} == {"cnn"}, "no candidate stays"
    answers, failed = sum(load.answers for load in loads), [row for load in loads for row in load.failed]
    wrong = sum(load.wrong for load in loads)
    with capsys.disabled():
        print(f"\n{answers} answers, {len(failed)} failed, {wrong} wrong; {swaps} swaps, {kills} killed")
    assert not failed, failed[:3]
    assert wrong == 0
    assert answers > 5000
    assert kills >= 10


def killed(made: Project, models: Path, url: str, after: float) -> int:
    """Start a swap and kill it after a while; return 1 if it was still running."""
    command = [
        sys.executable,
        "-m",
        "packager",
        "render",
        "triton",
        "1.3.0.bundle.tar",
        str(models),
        "--key",
        "release.pub",
        "--backend",
        "python",
        "--swap",
        url,
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(made.folder), "PACKAGER_STORE": str(made.store)}
    process = subprocess.Popen(
        command, cwd=made.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(after)
        return 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 1
