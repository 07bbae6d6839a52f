# SPDX-License-Identifier: Apache-2.0
"""Ensembles of signed bundles on a real Triton, from a directory and from S3: the same answers as step after step."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Project
from tests.support import chains
from tests.support.object_store import ObjectStore, object_store
from tests.support.triton_servers import Server, tritonserver

pytestmark = pytest.mark.slow
LOADED = ("--load-model", "support", "--load-model", "answer")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("chain")
    (root / "project").mkdir()
    project = Project(root / "project", root / "store")
    chains.build(project, {"prepare": ("1.0.0",), "digits": ("1.0.0", "1.1.0"), "finish": ("1.0.0",)})
    (project.folder / "support.yaml").write_text(chains.SUPPORT)
    (project.folder / "answer.yaml").write_text(chains.ANSWER)
    return project


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3") / "server") as running:
        yield running


def render(made: Project, bundle: str, repository: str | Path, *options: str, code: int = 0) -> Any:
    return made.run(
        "render",
        "triton",
        f"{bundle}.bundle.tar",
        repository,
        "--key",
        "release.pub",
        "--backend",
        "python",
        *options,
        *(["--json"] if not code else []),
        code=code,
    )


def fill(made: Project, repository: str | Path) -> None:
    for bundle in ("prepare-1.0.0", "digits-1.0.0", "finish-1.0.0"):
        render(made, bundle, repository)
    for name in ("support", "answer"):
        made.run("render", "ensemble", f"{name}.yaml", repository, "--json")


class Chain:
    """The graphs of a repository, one after another in this process; `number` is the version of `digits`."""

    def __init__(self, models: Path, number: int = 1) -> None:
        numbers = {"prepare": 1, "digits": number, "finish": 1}
        self.sessions = {
            name: onnxruntime.InferenceSession(models / name / str(version) / "model.onnx")
            for name, version in numbers.items()
        }

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = self.sessions["prepare"].run(None, {"pixels": image})[0]
        scores = self.sessions["digits"].run(None, {"image": features})[0]
        return scores, self.sessions["finish"].run(None, {"scores": scores})[0]


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, 8, 8), dtype=np.uint8)


def ask(client: Any, kind: Any, model: str, image: np.ndarray) -> Any:
    request = kind.InferInput("image", list(image.shape), "UINT8")
    request.set_data_from_numpy(image)
    return client.infer(model, [request])


def check_answers(server: Server, chain: Chain) -> None:
    with closing(http.InferenceServerClient(server.http)) as client:
        check_client(client, http, chain)
    with closing(grpc.InferenceServerClient(server.grpc)) as client:
        check_client(client, grpc, chain)


def check_client(client: Any, kind: Any, chain: Chain) -> None:
    for rows in (1, 2, 5, 32):
        scores, label = chain(images(rows))
        for model in ("support", "answer"):
            got = ask(client, kind, model, images(rows))
            np.testing.assert_allclose(got.as_numpy("scores"), scores, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(got.as_numpy("label"), label)


def test_an_ensemble_answers_as_its_steps_do_one_after_another(made: Project, tmp_path: Path) -> None:
    """Over HTTP and gRPC, of every batch; too many rows are refused; metrics and metadata name what is inside."""
    fill(made, tmp_path / "models")
    (tmp_path / "work").mkdir()
    with tritonserver(tmp_path / "models", tmp_path / "work", *LOADED) as server:
        check_answers(server, Chain(tmp_path / "models"))
        client = http.InferenceServerClient(server.http)
        for model in ("support", "answer"):
            with pytest.raises(InferenceServerException, match="batch-size must be <= 32"):
                ask(client, http, model, images(33))
        assert client.get_model_config("support")["max_batch_size"] == 32
        assert client.get_model_config("answer")["max_batch_size"] == 0
        metrics = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
        row = next(
            row
            for row in metrics.splitlines()
            if row.startswith("nv_inference_request_success{") and 'model="support"' in row
        )
        for bundle in ("prepare-1.0.0", "digits-1.0.0"):
            assert made.run("inspect", f"{bundle}.bundle.tar", "--json")["digest"] in row
        client.close()


class Load(threading.Thread):
    """Constant requests to both ensembles; counts which version of `digits` each answer is of."""

    def __init__(self, address: str, chains: dict[int, Chain]) -> None:
        super().__init__(daemon=True)
        self.address, self.stopped = address, threading.Event()
        self.expected = {number: chain(images(3))[0] for number, chain in chains.items()}
        self.answers, self.wrong, self.failed = dict.fromkeys(chains, 0), 0, list[str]()

    def run(self) -> None:
        client = http.InferenceServerClient(self.address)
        while not self.stopped.is_set():
            for model in ("support", "answer"):
                try:
                    got = ask(client, http, model, images(3)).as_numpy("scores")
                except (InferenceServerException, OSError) as error:
                    self.failed.append(repr(error))
                    continue
                of = [
                    number for number, scores in self.expected.items() if np.allclose(got, scores, atol=1e-5, rtol=1e-4)
                ]
                for number in of:
                    self.answers[number] += 1
                self.wrong += len(of) != 1
            time.sleep(0.002)
        client.close()

    def more(self, count: int) -> None:
        """Return when there are so many more answers."""
        wanted, end = sum(self.answers.values()) + count, time.monotonic() + 60
        while sum(self.answers.values()) < wanted:
            assert time.monotonic() < end and self.is_alive()
            time.sleep(0.01)


def swaps_under_load(made: Project, server: Server, repository: str | Path, local: Path, capsys: Any) -> None:
    """There and back, also to a version that takes fewer rows: nobody fails, and the ensembles name what they run."""
    load = Load(server.http, {1: Chain(local, 1), 2: Chain(local, 2)})
    load.start()
    client = http.InferenceServerClient(server.http)
    steps = (("1.1.0", (), "2", 32), ("1.0.0", ("--set", "batch.max=4"), "3", 4), ("1.0.0", (), "1", 32))
    for version, options, number, rows in steps:
        done = render(made, f"digits-{version}", repository, *options, "--swap", f"http://{server.http}")
        assert done["ensembles"] == {"answer": int(number), "support": int(number)}
        for model in ("digits", "support", "answer"):
            assert client.get_model_metadata(model)["versions"] == [number]
        config = client.get_model_config("support")
        assert config["max_batch_size"] == rows
        assert (config["metric_tags"]["bundle_2"], config["metric_tags"]["knobs_2"]) == (done["digest"], done["knobs"])
        load.more(50)
    load.stopped.set()
    load.join(30)
    client.close()
    with capsys.disabled():
        print(f"\n{repository}: {load.answers} answers by version, {len(load.failed)} failed, {load.wrong} wrong")
    assert not load.failed, load.failed[:3]
    assert load.wrong == 0
    assert min(load.answers.values()) >= 40


@pytest.fixture
def local(made: Project, tmp_path: Path) -> Path:
    """A directory with both versions of `digits`; the first is served."""
    fill(made, tmp_path / "models")
    render(made, "digits-1.1.0", tmp_path / "models")
    render(made, "digits-1.0.0", tmp_path / "models")
    (tmp_path / "work").mkdir()
    return tmp_path / "models"


def test_a_swap_of_a_step_fails_no_request_to_the_ensemble(
    made: Project, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tritonserver(local, tmp_path / "work", *LOADED) as server:
        swaps_under_load(made, server, local, local, capsys)


def test_triton_reads_the_repository_from_s3(
    made: Project,
    s3: ObjectStore,
    local: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real server and a real S3: answers, swaps under load, a changed object that does not load."""
    for name, value in s3.environment().items():
        monkeypatch.setitem(made.extra, name, value)
    address = "s3://models/site/triton"
    fill(made, address)
    where = f"s3://127.0.0.1:{s3.port}/models/site/triton"
    (tmp_path / "work" / "copies").mkdir()
    variables = {**s3.environment(), "TRITON_AWS_MOUNT_DIRECTORY": str(tmp_path / "work" / "copies")}
    with tritonserver(where, tmp_path / "work", *LOADED, **variables) as server:
        check_answers(server, Chain(local))
        swaps_under_load(made, server, address, local, capsys)
        files = s3.files()
        assert not [name for name in files.find("models/site/triton") if "candidate" in name]
        graph = files.cat_file("models/site/triton/digits/2/model.onnx")
        files.pipe_file("models/site/triton/digits/2/model.onnx", graph + b"\0")
        refused = render(made, "digits-1.1.0", address, "--swap", f"http://{server.http}", code=1).stderr
        assert "not the file of the bundle" in refused
        check_answers(server, Chain(local))


def test_a_version_with_a_fixed_number_would_take_the_ensemble_away(made: Project, local: Path, tmp_path: Path) -> None:
    """Why steps are written with version -1 (docs/adr/137): Triton drops an ensemble whose step's version goes."""
    config = local / "support" / "config.pbtxt"
    config.write_text(config.read_text().replace("model_version: -1", "model_version: 1"))
    with tritonserver(local, tmp_path / "work", *LOADED) as server:
        client = http.InferenceServerClient(server.http)
        ask(client, http, "support", images(1))
        render(made, "digits-1.1.0", local)
        client.load_model("digits")
        ask(client, http, "answer", images(1))
        with pytest.raises(InferenceServerException):
            ask(client, http, "support", images(1))
        client.close()
