# SPDX-License-Identifier: Apache-2.0
"""What a server in production owes: shared runs, deadlines, leavers, tokens, TLS, truth about itself."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from google.protobuf import json_format
from onnx import helper, numpy_helper
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tritonclient.http import InferenceServerClient, InferenceServerException

from tests.e2e.test_server import (  # noqa: F401 - `app` and `models` are fixtures
    GOOD,
    INFER,
    RANDOM,
    Server,
    app,
    free_port,
    head,
    in_flight,
    in_process,
    models,
    rounds,
    running,
    sample,
    tensor,
    value,
    write,
)
from tests.support import pki

TOKEN = "a-token-of-this-site"


def figure(server: Server, name: str) -> float:
    text = server.request("GET", "/metrics")[2].decode()
    return sum(float(number) for number in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))


# --- shared runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes some milliseconds, with rows that do not know each other."""
    weight = numpy_helper.from_array((RANDOM.standard_normal((1024, 1024)) / 32).astype(np.float32), "w")
    nodes, before = [], "x"
    for index in range(40):
        nodes += [
            helper.make_node("MatMul", [before, "w"], [f"m{index}"]),
            helper.make_node("Tanh", [f"m{index}"], [f"t{index}"]),
        ]
        before = f"t{index}"
    nodes[-1].output[0] = "y"
    root = tmp_path_factory.mktemp("deep")
    ports = [value(name, "float32", ["batch", 1024]) for name in ("x", "y")]
    return write(root / "deep", nodes, ports[:1], ports[1:], [weight])


def ask_all(server: Server, config: Path, count: int) -> None:
    """Send `count` different requests at once, and compare each answer with a single run."""
    questions = [RANDOM.standard_normal((1 + index % 3, 1024)).astype(np.float32) for index in range(count)]

    def send_one(x: np.ndarray) -> np.ndarray:
        return server.client.infer("deep", [tensor("x", x)]).as_numpy("y")

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(send_one, questions))
    for x, y in zip(questions, answers, strict=True):
        np.testing.assert_allclose(y, in_process(config, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_queued_requests_share_runs_and_get_their_rows(app: Path, deep: Path) -> None:  # noqa: F811
    with running(app, deep, "--workers", "1") as server:
        assert server.wait_for("ready")["inline_bytes"] == 0
        for _ in range(3):
            ask_all(server, deep, 12)
        runs = figure(server, "packager_server_batch_requests_count")
        assert figure(server, "packager_server_batch_requests_sum") == 36
        assert runs < 30
        assert not server.events("requests do not share runs")


def test_disabled_batching_gives_the_bits_of_single_runs(app: Path, deep: Path) -> None:  # noqa: F811
    with running(app, deep, "--workers", "1", "--batch-rows", "1") as server:
        ask_all(server, deep, 8)
        assert figure(server, "packager_server_batch_requests_count") == 8
        x = RANDOM.standard_normal((2, 1024)).astype(np.float32)
        got = server.client.infer("deep", [tensor("x", x)]).as_numpy("y")
        assert got.tobytes() == in_process(deep, {"x": x})[0].tobytes()


def test_short_concurrent_requests_share_a_run(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["mlp"]) as server:
        assert server.wait_for("ready")["inline_bytes"] > 0
        many, each = 24, 40
        questions = [sample(1 + index % 3) for index in range(many)]

        def send_one(x: np.ndarray) -> list[np.ndarray]:
            with InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                return [client.infer("mlp", [tensor("x", x)]).as_numpy("score") for _ in range(each)]

        with ThreadPoolExecutor(many) as pool:
            answers = list(pool.map(send_one, questions))
        for x, scores in zip(questions, answers, strict=True):
            want = in_process(models["mlp"], {"x": x})[0]
            for score in scores:
                np.testing.assert_allclose(score, want, rtol=1e-4, atol=1e-6)
        assert figure(server, "packager_server_request_duration_seconds_count") == many * each
        assert figure(server, "packager_server_batch_rows_sum") == each * sum(map(len, questions))
        assert figure(server, "packager_server_run_duration_seconds_count") < many * each
        assert figure(server, "packager_server_batch_requests_sum") > 0


def test_metrics_of_all_processes_count_every_request(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["mlp"], "--processes", "2") as server:
        until(lambda: len(server.events("ready")) == 2, 20)  # one that still loads answers 503
        wanted = 60
        for _ in range(wanted):  # a connection each: the kernel deals them out
            status, _, _ = server.request("POST", "/v2/models/mlp/infer", b"{}")
            assert status == 400
        end = time.monotonic() + 10
        name = 'packager_server_requests_total{code="400",route="infer"}'
        while (got := figure(server, name)) != wanted and time.monotonic() < end:
            time.sleep(0.1)  # another process hands on its counts once a second
        assert got == wanted


def test_dependent_rows_never_share_a_run(app: Path, tmp_path: Path) -> None:  # noqa: F811
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    ports = [value(name, "float32", ["batch", 4]) for name in ("x", "y")]
    with running(app, write(tmp_path / "mixing", nodes, ports[:1], ports[1:])) as server:
        assert "depends on the rows beside it" in server.wait_for("requests do not share runs")["reason"]


# --- deadlines and leavers -----------------------------------------------------------------------------------------


def test_expired_request_is_not_run(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["slow"], "--workers", "1") as server, in_flight(server, 1.5) as results:
        raw, _ = InferenceServerClient.generate_request_body([tensor("rounds", np.array([1]), binary=False)])
        began = time.monotonic()
        status, _, body = server.request("POST", "/v2/models/slow/infer", raw, x_request_timeout="0.2")
        assert (status, "deadline" in json.loads(body)["error"]) == (504, True)
        assert 0.15 < time.monotonic() - began < 1.0
        assert server.request("POST", "/v2/models/slow/infer", raw, x_request_timeout="soon")[0] == 400
        assert not results
        until(lambda: results)
        assert figure(server, "packager_server_run_duration_seconds_count") == 1


@pytest.mark.parametrize("stay", [0.0, 0.2], ids=["before-the-liveness-check", "during-the-liveness-check"])
def test_disconnected_client_s_request_is_not_run(app: Path, models: dict[str, Path], stay: float) -> None:  # noqa: F811
    with running(app, models["slow"], "--workers", "1") as server:
        with in_flight(server, 1.5):
            raw, _ = InferenceServerClient.generate_request_body([tensor("rounds", np.array([1]), binary=False)])
            leavers = [server.connect() for _ in range(5)]
            for connection in leavers:
                connection.sendall(head("POST", "/v2/models/slow/infer", content_length=len(raw)) + raw)
            until(lambda: figure(server, "packager_server_requests_in_flight") == 6)
            time.sleep(stay)
            for connection in leavers:
                connection.close()
            until(lambda: figure(server, "packager_server_requests_in_flight") == 1)
        assert figure(server, "packager_server_run_duration_seconds_count") == 1


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_request_timeout_bounds_every_request(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with running(app, models["slow"], "--request-timeout", "0.3", "--workers", "1") as server:
        with pytest.raises(InferenceServerException) as caught:
            server.client.infer("slow", [rounds(server, 1.5)])
        assert caught.value.status() == "504"


# --- credentials ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority, the server's and a client's certificate, and a token."""
    folder = tmp_path_factory.mktemp("papers")
    authority = pki.root("Site CA")
    server = authority.issue("server", names=[x509.IPAddress(ip_address("127.0.0.1"))], purposes=[pki.SERVER])
    client = authority.issue("client", purposes=[x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    found = {"ca": folder / "ca.pem", "tokens": folder / "tokens"}
    found["ca"].write_bytes(authority.pem)
    found["tokens"].write_text(f"{TOKEN}\n")
    for name, holder in (("server", server), ("client", client)):
        found[f"{name}.key"], found[name] = holder.save(folder, name)
    return found


def test_tokens_over_http_and_grpc(app: Path, models: dict[str, Path], papers: dict[str, Path]) -> None:  # noqa: F811
    port = free_port()
    with running(app, models["mlp"], "--tokens", str(papers["tokens"]), "--grpc-port", str(port)) as server:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/mlp/ready"):
            assert server.request("GET", path)[0] == 200
        for path in ("/v2", "/v2/models/mlp", "/metrics", "/v2/knobs", "/elsewhere"):
            status, headers, _ = server.request("GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), path
        assert server.request("POST", INFER, GOOD)[0] == 401
        assert server.request("POST", INFER, GOOD, authorization="Bearer not-the-right-token")[0] == 401
        assert server.request("POST", INFER, GOOD, authorization=f"Bearer {TOKEN}")[0] == 200
        assert TOKEN not in "".join(server.lines)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
            with pytest.raises(grpc.RpcError) as caught:
                method(b"")
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert method(b"", metadata=[("authorization", f"Bearer {TOKEN}")])


def test_certificates_of_clients(app: Path, models: dict[str, Path], papers: dict[str, Path]) -> None:  # noqa: F811
    port = free_port()
    options = [
        "--tls-certificate",
        str(papers["server"]),
        "--tls-key",
        str(papers["server.key"]),
        "--tls-client-ca",
        str(papers["ca"]),
        "--grpc-port",
        str(port),
    ]
    with running(app, models["mlp"], *options) as server:
        url = f"https://127.0.0.1:{server.port}/v2/health/ready"
        stranger = ssl.create_default_context(cafile=str(papers["ca"]))
        with pytest.raises(OSError):
            urllib.request.urlopen(url, context=stranger, timeout=10)
        known = ssl.create_default_context(cafile=str(papers["ca"]))
        known.load_cert_chain(papers["client"], papers["client.key"])
        assert urllib.request.urlopen(url, context=known, timeout=10).status == 200
        roots, pair = papers["ca"].read_bytes(), (papers["client.key"].read_bytes(), papers["client"].read_bytes())
        for credentials, welcome in (
            (grpc.ssl_channel_credentials(roots, *pair), True),
            (grpc.ssl_channel_credentials(roots), False),
        ):
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                if welcome:
                    assert live(b"", timeout=10) == b"\x08\x01"
                else:
                    with pytest.raises(grpc.RpcError):
                        live(b"", timeout=3)


# --- truth ---------------------------------------------------------------------------------------------------------

BREAKABLE = """
from pathlib import Path
from packager.runtimes.onnxruntime.session import open_session as real
class Session:
    def __init__(self, path, inner):
        self.path, self.inner = path, inner
        self.inputs, self.outputs, self.provider, self.version = inner.inputs, inner.outputs, "test", "0"
    def run(self, feeds):
        if Path(self.path).with_name("broken").exists():
            raise RuntimeError("the device is gone")
        return self.inner.run(feeds)
def open_session(path, *, threads, device="cpu"):
    return Session(path, real(path, threads=threads, device=device))
"""


def test_ready_means_that_the_model_works(app: Path, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    own = shutil.copytree(app, tmp_path / "app")
    (own / "packager/runtimes/breakable").mkdir()
    (own / "packager/runtimes/breakable/__init__.py").write_text("")
    (own / "packager/runtimes/breakable/session.py").write_text(BREAKABLE)
    place = shutil.copytree(models["mlp"].parent, tmp_path / "mlp")
    document = json.loads((place / "serve.json").read_text()) | {"runtime": "breakable"}
    (place / "serve.json").write_text(json.dumps(document))
    with running(own, place / "serve.json") as server:
        assert server.request("POST", INFER, GOOD)[0] == 200
        (place / "broken").touch()
        assert server.request("POST", INFER, GOOD)[0] == 500
        server.wait_for("the model fails its self-test")
        assert server.request("GET", "/v2/models/mlp/ready")[0] == 503
        assert server.request("GET", "/v2/health/live")[0] == 200
        (place / "broken").unlink()
        server.wait_for("the model works again")
        assert server.request("GET", "/v2/models/mlp/ready")[0] == 200


def test_drift_is_counted(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    config = models["mlp"].with_name("ranged.json")
    config.write_text(
        json.dumps(json.loads(models["mlp"].read_text()) | {"ranges": {"x": [-1, 1]}, "slo": {"p99_ms": 7}})
    )
    with running(app, config) as server:
        for x in (np.zeros((2, 8)), np.full((1, 8), 5.0), np.full((1, 8), np.nan), np.full((1, 8), -2.0)):
            server.client.infer("mlp", [tensor("x", x.astype(np.float32))])
            time.sleep(0.02)  # under load not every request is looked at
        text = server.request("GET", "/metrics")[2].decode()
        for finding in ("below_range", "above_range", "not_finite"):
            assert f'packager_server_input_findings_total{{finding="{finding}",input="x"}} 1.0' in text
        assert 'packager_server_inputs_total{input="x"} 4.0' in text
        assert 'packager_server_outputs_not_finite_total{output="score"} 1.0' in text
        assert 'packager_server_request_duration_seconds_bucket{le="0.007"}' in text


@contextlib.contextmanager
def collector() -> Iterator[tuple[int, list[ExportTraceServiceRequest]]]:
    """What OpenTelemetry's own schema makes of what arrives."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for spans in (s for r in document["resourceSpans"] for s in r["scopeSpans"]):
                for span in spans["spans"]:  # OTLP writes these in hexadecimal, protobuf's own JSON in base 64
                    span["traceId"], span["spanId"], span["parentSpanId"] = "", "", ""
            received.append(json_format.ParseDict(document, ExportTraceServiceRequest()))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], received
        server.shutdown()


def test_spans_reach_a_collector_and_follow_their_parents(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with collector() as (port, received):
        options = ["--tracing-host", "127.0.0.1", "--tracing-port", str(port), "--tracing-ratio", "0"]
        with running(app, models["mlp"], *options) as server:
            recorded, ignored = (f"00-{'ab' * 16}-{'cd' * 8}-0{flag}" for flag in (1, 0))
            assert server.request("POST", INFER, GOOD, traceparent=recorded)[0] == 200
            assert server.request("POST", INFER, b"{", traceparent=recorded)[0] == 400
            assert server.request("POST", INFER, GOOD, traceparent=ignored)[0] == 200
            assert server.request("POST", INFER, GOOD)[0] == 200
            until(lambda: sum(len(s.spans) for m in received for r in m.resource_spans for s in r.scope_spans) >= 2)
        spans = [span for m in received for r in m.resource_spans for s in r.scope_spans for span in s.spans]
        statuses = [a.value.int_value for span in spans for a in span.attributes if "status_code" in a.key]
        assert statuses == [200, 400]
        assert all(span.end_time_unix_nano > span.start_time_unix_nano > 1.6e18 for span in spans)
        resource = {a.key: a.value.string_value for a in received[0].resource_spans[0].resource.attributes}
        assert resource["service.name"] == "mlp"
    # a collector that is away costs spans and nothing else
    with running(
        app, models["mlp"], "--tracing-host", "127.0.0.1", "--tracing-port", str(free_port()), "--tracing-ratio", "1"
    ) as server:
        assert server.request("POST", INFER, GOOD)[0] == 200
        server.wait_for("spans are lost")
        assert server.request("POST", INFER, GOOD)[0] == 200
