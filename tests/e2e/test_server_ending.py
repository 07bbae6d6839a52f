# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and readiness: no request to a server is lost, whichever process ends or loads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from tests.e2e.test_server import app, in_process, mlp, models, receive  # noqa: F401 - fixtures
from tests.support.endings import CHANNEL, Load, Pod, Service, children, ended_behind_a_balancer, ended_by_a_cluster

X = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
KINDS = {"http, kept": 1, "http, kept, with pauses": 1, "http, new": 1, "grpc, kept": 1, "grpc, new": 1}


@contextmanager
def loaded(service: Service, config: Path, kinds: dict[str, int] | None = None) -> Iterator[Load]:
    expected = b"".join(array.tobytes() for array in in_process(config, {"x": X})[:1])
    with service.forwarding(), Load(service, "mlp", X, expected, kinds or KINDS).running() as load:
        yield load


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with one output alone."""
    path = mlp(tmp_path_factory.mktemp("scores"))
    graph = onnx.load(path.with_name("model.onnx"))
    del graph.graph.output[1:], graph.graph.node[3:]
    onnx.save(graph, path.with_name("model.onnx"))
    document = json.loads(path.read_text())
    del document["interface"]["outputs"][1:]
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "processes",
    [
        pytest.param(0, marks=pytest.mark.slow, id="in-a-container"),
        pytest.param(1, marks=pytest.mark.slow, id="one-process"),
        pytest.param(2, id="two-processes"),
    ],
)
def test_shutdown_in_a_cluster_loses_no_request(app: Path, scores: Path, processes: int) -> None:  # noqa: F811
    old, new = Pod(app, scores, processes), Pod(app, scores, 1)
    with old.running(), new.running(), loaded(service := Service([old, new]), scores) as load:
        time.sleep(0.5)
        ended = ended_by_a_cluster(service, old, notice=0.3, lag=2.5)
        assert ended.code == 0
        assert ended.unready is not None and ended.unready < 2
        time.sleep(0.5)
    assert not load.lost, load.lost
    assert len(load.answered) == len(KINDS), load.answered
    assert {row["abandoned"] for row in old.events("stopped")} == {0}


def test_balancer_with_readiness_probes_loses_no_request(app: Path, scores: Path) -> None:  # noqa: F811
    old, new = Pod(app, scores, 2, ("--quiet", "3")), Pod(app, scores, 1)
    kinds = {"http, kept, with pauses": 2}
    with old.running(), new.running(), loaded(service := Service([old, new]), scores, kinds) as load:
        time.sleep(0.5)
        ended = ended_behind_a_balancer(service, old, interval=0.8, failures=2)
        assert (ended.code, load.lost.total()) == (0, 0), load.lost


def test_draining_server_is_not_ready_and_closes_connections(app: Path, scores: Path) -> None:  # noqa: F811
    pod = Pod(app, scores, 1)
    with pod.running():
        with socket.create_connection(("127.0.0.1", pod.port), timeout=10) as kept:
            kept.sendall(b"GET /v2/models/mlp HTTP/1.1\r\nHost: a\r\n\r\n")
            assert receive(kept)[1].get("connection") != "close"
            pod.process.send_signal(signal.SIGTERM)
            pod.until(lambda: pod.events("draining"))
            assert not pod.is_ready()
            for path in ("/v2/models/mlp", "/v2"):
                with socket.create_connection(("127.0.0.1", pod.port), timeout=10) as fresh:
                    fresh.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    status, headers, _ = receive(fresh)
                    assert (status, headers["connection"]) == (200, "close")
            with grpc.insecure_channel(f"127.0.0.1:{pod.grpc_port}") as channel:
                ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
                assert ready(b"", timeout=10) == b""
            kept.sendall(b"GET /v2/models/mlp HTTP/1.1\r\nHost: a\r\n\r\n")
            status, headers, _ = receive(kept)
            assert (status, headers["connection"]) == (200, "close")
        assert pod.process.wait(30) == 0


@pytest.mark.slow
def test_no_call_that_arrives_is_lost_as_connections_age(app: Path, scores: Path) -> None:  # noqa: F811
    """A client without retries loses calls that it never sent; the server answers each one that it gets."""
    pod = Pod(app, scores, 0, drain=2)
    service = Service([pod])
    expected = b"".join(array.tobytes() for array in in_process(scores, {"x": X})[:1])
    options = [*CHANNEL, ("grpc.enable_retries", 0)]
    with pod.running(), service.forwarding():
        with Load(service, "mlp", X, expected, {"grpc, kept": 4}, options).running() as load:
            time.sleep(15)
        text = urllib.request.urlopen(f"http://127.0.0.1:{pod.port}/metrics").read().decode()
    rows = re.findall(r"^packager_server_requests_total{(.*)} (\S+)$", text, re.MULTILINE)
    counted = {labels: float(number) for labels, number in rows if 'route="infer"' in labels}
    assert {'code="200"' in labels for labels in counted} == {True}, counted
    assert sum(counted.values()) == load.answered.total() > 0
    assert all("UNAVAILABLE" in reason for reason in load.lost), load.lost


def test_drain_ends_in_time_under_constant_load(app: Path, scores: Path) -> None:  # noqa: F811
    pod = Pod(app, scores, 0, drain=3)
    with pod.running(), loaded(Service([pod]), scores, {"http, kept": 1}) as load:
        time.sleep(0.3)
        pod.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert not load.lost
        assert pod.process.wait(30) == 0
        load.stopped.set()
    assert pod.events("stopped")[0]["took_s"] < 8


# --- processes that load slowly ------------------------------------------------------------------------------------

SLUGGISH = """
import sys, time
from pathlib import Path
from packager.runtimes.onnxruntime.session import open_session as real
def open_session(path, *, threads, device="cpu"):
    if Path(path).with_name("standby" if "--standby" in sys.argv else "first").exists():
        time.sleep(3)
    return real(path, threads=threads, device=device)
"""


@pytest.fixture
def sluggish(app: Path, scores: Path, tmp_path: Path) -> tuple[Path, Path]:  # noqa: F811
    """A server and a model that the first process of all, or every other one, loads slowly, if a file exists."""
    own = shutil.copytree(app, tmp_path / "app")
    (own / "packager/runtimes/sluggish").mkdir()
    (own / "packager/runtimes/sluggish/__init__.py").write_text("")
    (own / "packager/runtimes/sluggish/session.py").write_text(SLUGGISH)
    config = shutil.copytree(scores.parent, tmp_path / "mlp") / "serve.json"
    config.write_text(config.read_text().replace('"runtime": "onnxruntime"', '"runtime": "sluggish"'))
    return own, config


def test_process_ended_from_elsewhere_serves_until_replaced(sluggish: tuple[Path, Path], scores: Path) -> None:
    pod = Pod(*sluggish, 1)
    sluggish[1].with_name("standby").touch()
    with pod.running(), loaded(Service([pod]), scores, {"http, kept": 1, "http, new": 2}) as load:
        (victim,) = children(pod.process.pid)
        os.kill(victim, signal.SIGTERM)
        pod.until(lambda: pod.events("process ends, replaced"))
        before = load.answered["http, new"]
        pod.until(lambda: load.answered["http, new"] > before + 20)
        assert len(pod.events("ready")) == 1
        pod.until(lambda: len(pod.events("ready")) == 2 and pod.events("stopped"))
        pod.until(lambda: children(pod.process.pid) not in ([], [victim]))
        time.sleep(0.3)
    assert not load.lost, load.lost


def test_processes_never_disagree_on_readiness(sluggish: tuple[Path, Path], scores: Path) -> None:
    pod = Pod(*sluggish, 3)
    sluggish[1].with_name("first").touch()
    readiness: list[bool] = []
    over = threading.Event()

    def probe() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(OSError):
                readiness.append(pod.is_ready())

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        with pod.running():
            with loaded(Service([pod]), scores, {"http, new": 3, "grpc, new": 1}) as load:
                time.sleep(1)
                os.kill(children(pod.process.pid)[0], signal.SIGKILL)
                pod.until(lambda: len(pod.events("ready")) == 4)
                time.sleep(0.5)
            over.set()
            prober.join()
    finally:
        over.set()
        prober.join()
    assert not [reason for reason in load.lost if "loading" in reason], load.lost
    assert False in readiness
    assert all(readiness[readiness.index(True) :]), readiness
