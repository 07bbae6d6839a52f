# SPDX-License-Identifier: Apache-2.0
"""The real server with the model in worker processes: same answers, and a crash that no client notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.test_server import (  # noqa: F401 - `app` and `models` are fixtures
    GOOD,
    INFER,
    Server,
    app,
    command,
    every_type,
    free_port,
    in_flight,
    in_process,
    models,
    rounds,
    running,
    sample,
    tensor,
)
from tests.e2e.test_server_grpc import question, serving
from tests.e2e.test_server_grpc import tensor as message
from tests.e2e.test_server_production import figure, until
from tests.unit.server.test_worker_pool import kill_the_busy

APART = ("--runtime-processes", "2")
# Native code that crashes on one value, as a real one may; the rest of it is ONNX Runtime.
FRAGILE = """
import os, signal
from packager.runtimes.onnxruntime.session import open_session as real
class Session:
    def __init__(self, inner):
        self.inner = inner
        self.inputs, self.outputs, self.provider, self.version = inner.inputs, inner.outputs, inner.provider, inner.version
    def run(self, feeds):
        if (feeds["x"] == 13).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.inner.run(feeds)
def open_session(path, *, threads, device="cpu"):
    return Session(real(path, threads=threads, device=device))
"""


@pytest.fixture(scope="module")
def fragile(app: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:  # noqa: F811
    root = tmp_path_factory.mktemp("fragile")
    own = shutil.copytree(app, root / "app")
    (own / "packager/runtimes/fragile").mkdir()
    (own / "packager/runtimes/fragile/__init__.py").write_text("")
    (own / "packager/runtimes/fragile/session.py").write_text(FRAGILE)
    place = shutil.copytree(models["mlp"].parent, root / "mlp")
    document = json.loads((place / "serve.json").read_text()) | {"runtime": "fragile"}
    (place / "serve.json").write_text(json.dumps(document))
    return own, place / "serve.json"


def workers(server: Server) -> list[int]:
    """The processes that run the model: children of the one that serves."""
    found = []
    for path in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        found += [int(pid) for pid in path.read_text().split()]
    return found


@pytest.fixture(scope="module")
def mlp(app: Path, models: dict[str, Path]) -> Iterator[Server]:  # noqa: F811
    with running(app, models["mlp"], *APART) as started:
        yield started


def test_server_process_loads_no_model(mlp: Server, models: dict[str, Path]) -> None:  # noqa: F811
    x = sample(3)
    got = mlp.client.infer("mlp", [tensor("x", x)])
    for name, wanted in zip(("score", "label"), in_process(models["mlp"], {"x": x}), strict=True):
        assert got.as_numpy(name).tobytes() == wanted.tobytes()
    assert mlp.wait_for("ready")["inline_bytes"] == 0
    runtime = b"onnxruntime_pybind11_state"
    assert runtime not in Path(f"/proc/{mlp.process.pid}/maps").read_bytes()
    pids = workers(mlp)
    assert len(pids) == 2
    assert all(runtime in Path(f"/proc/{pid}/maps").read_bytes() for pid in pids)


def test_every_type_over_http_and_grpc(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with serving(app, models["echo"], *APART) as (server, rpc, _):
        feeds = {f"{name}_in": array for name, array in every_type().items()}
        got = rpc.infer(feeds)
        over_http = server.client.infer("echo", [tensor(name, array) for name, array in feeds.items()])
        for name, array in every_type().items():
            assert got[f"{name}_out"].tolist() == array.tolist(), name
            wanted = [[item.encode() for item in row] for row in array] if name == "string" else array.tolist()
            assert over_http.as_numpy(f"{name}_out").tolist() == wanted, name


def test_a_call_without_a_deadline_may_wait(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    """Triton's own client sets none, and a run that is not short is waited for."""
    with serving(app, models["mlp"], *APART) as (_, _, port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert method(question(message("x", "FP32", (1, 8)), raw=(sample(1).tobytes(),)))


def test_failing_run_affects_one_request(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["picky"], *APART) as server:
        pids = workers(server)
        raw, _ = InferenceServerClient.generate_request_body([tensor("index", np.array([9]), binary=False)])
        status, _, body = server.request("POST", "/v2/models/picky/infer", raw)
        assert (status, b"secret_table" in body) == (500, False)
        assert "InvalidArgument" in server.wait_for("request failed")["traceback"]
        assert server.client.infer("picky", [tensor("index", np.array([1]))]).as_numpy("y").tolist() == [1.0]
        assert workers(server) == pids


def test_killed_worker_is_invisible_to_clients(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["slow"], *APART) as server:
        with in_flight(server, 2.0) as results:
            victim = kill_the_busy(lambda: workers(server), {})
            assert not results
            until(lambda: server.events("worker replaced"), 30)
        assert results == [256.0]
        assert server.wait_for("worker ended unasked")["pid"] == victim
        assert figure(server, "packager_server_workers_lost_total") == 1
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.wait_for("worker ended unasked")["how"] == "was ended by SIGKILL"


def test_crashing_request_is_refused_and_affects_no_other(fragile: tuple[Path, Path]) -> None:
    port = free_port()
    poison = np.full((1, 8), 13, np.float32)
    with running(*fragile, *APART, "--grpc-port", str(port)) as server, ThreadPoolExecutor(8) as pool:
        wanted = {rows: in_process(fragile[1], {"x": np.full((rows, 8), rows, np.float32)})[0] for rows in range(1, 9)}

        def send_one(rows: int) -> bool:
            x = np.full((rows, 8), rows, np.float32)
            got = server.client.infer("mlp", [tensor("x", x)]).as_numpy("score")
            return np.allclose(got, wanted[rows], rtol=1e-4, atol=1e-5)

        others = [pool.submit(send_one, 1 + number % 8) for number in range(100)]
        raw, length = InferenceServerClient.generate_request_body([tensor("x", poison)])
        status, _, body = server.request("POST", INFER, raw, inference_header_content_length=length)
        assert (status, "2 processes died while they ran this request" in json.loads(body)["error"]) == (500, True)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            method(question(message("x", "FP32", (1, 8)), raw=(poison.tobytes(),)), timeout=60)
        assert (caught.value.code(), "2 processes died" in caught.value.details()) == (grpc.StatusCode.INTERNAL, True)
        assert all(other.result(60) for other in others)
        server.wait_until(lambda: len(server.events("run given up")) >= 2)
        assert len(server.events("run given up")) <= 4  # a shared run first, then the request by itself
        until(lambda: len(workers(server)) == 2, 30)
        until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, 30)
        assert send_one(2)


def test_server_without_workers_is_live_and_not_ready(fragile: tuple[Path, Path], tmp_path: Path) -> None:
    place = shutil.copytree(fragile[1].parent, tmp_path / "mlp")
    with running(fragile[0], place / "serve.json", *APART) as server:
        (place / "model.onnx").rename(place / "away")
        for pid in workers(server):
            os.kill(pid, signal.SIGKILL)
        until(lambda: server.request("GET", "/v2/health/ready")[0] == 503)
        assert server.request("GET", "/v2/health/live")[0] == 200
        server.wait_for("worker does not start")
        (place / "away").rename(place / "model.onnx")
        until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, 30)
        assert server.request("POST", INFER, GOOD)[0] == 200


def test_deadline_ends_the_wait_and_frees_the_worker(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["slow"], "--runtime-processes", "1") as server:
        raw, length = InferenceServerClient.generate_request_body([rounds(server, 1.0)])
        headers = {"inference_header_content_length": length, "x_request_timeout": "0.2"}
        assert server.request("POST", "/v2/models/slow/infer", raw, **headers)[0] == 504
        got = server.client.infer("slow", [tensor("rounds", np.array([1]))]).as_numpy("sum")
        assert got == 256.0
        assert figure(server, "packager_server_run_duration_seconds_count") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_server(app: Path, models: dict[str, Path], number: int) -> None:  # noqa: F811
    with running(app, models["mlp"], *APART) as server:
        pids = workers(server)
        os.kill(pids[0], signal.SIGTERM)  # meant for the server: a drain needs its workers
        assert server.request("POST", INFER, GOOD)[0] == 200
        assert workers(server) == pids
        server.process.send_signal(number)
        server.process.wait(20)
        until(lambda: not any(Path(f"/proc/{pid}/maps").exists() for pid in pids), 20)


def test_a_model_that_does_not_load_ends_the_start(app: Path, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    place = shutil.copytree(models["mlp"].parent, tmp_path / "mlp")
    (place / "model.onnx").write_bytes(b"no model")
    words = command(app, place / "serve.json", free_port(), *APART)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "error: onnxruntime cannot load" in done.stderr and "Traceback" not in done.stderr
