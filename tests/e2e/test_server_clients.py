# SPDX-License-Identifier: Apache-2.0
"""Features that clients of other servers expect, tested with curl and Triton's client."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from onnx import helper
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.e2e.conftest import tool
from tests.e2e.test_server import (  # noqa: F401 - `app` and `models` are fixtures
    Server,
    app,
    free_port,
    in_process,
    models,
    running,
    sample,
    tensor,
    value,
    write,
)


@pytest.fixture(scope="module")
def mlp(app: Path, models: dict[str, Path]) -> Iterator[Server]:  # noqa: F811
    with running(app, models["mlp"]) as server:
        yield server


@pytest.fixture(scope="module")
def loose(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """A model whose contract takes no rows as well."""
    ports = [value(name, "float32", ["batch", 4]) for name in ("x", "y")]
    config = write(
        tmp_path_factory.mktemp("loose") / "loose", [helper.make_node("Relu", ["x"], ["y"])], *map(list, zip(ports))
    )
    document = json.loads(config.read_text())
    document["interface"]["dimensions"] = {"batch": {"min": 0, "max": 512}}
    config.write_text(json.dumps(document))
    with running(app, config) as server:
        yield server


def curl(server: Server, path: str, *words: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request with curl; return status, header fields and body."""
    command = [tool("curl"), "-sS", "-i", *words, f"http://127.0.0.1:{server.port}{path}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    top, _, body = done.stdout.partition(b"\r\n\r\n")
    rows = top.decode().split("\r\n")
    return int(rows[0].split()[1]), {k.lower(): v for k, v in (row.split(": ", 1) for row in rows[1:])}, body


def question(rows: int = 2, **members: object) -> str:
    data = [float(n) for n in range(8 * rows)]
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 8], "data": data}], **members})


def test_statistics_of_all_models_and_the_moment_of_the_last_inference(mlp: Server) -> None:
    assert curl(mlp, "/v2/models/mlp/infer", "-d", question())[0] == 200
    status, _, body = curl(mlp, "/v2/models/stats")
    (found,) = json.loads(body)["model_stats"]
    assert (status, found["name"]) == (200, "mlp")
    assert abs(found["last_inference"] / 1000 - time.time()) < 60
    assert mlp.client.get_inference_statistics()["model_stats"][0]["name"] == "mlp"
    assert mlp.client.get_inference_statistics("mlp")["model_stats"][0]["last_inference"] >= found["last_inference"]


def test_only_version_is_also_version_1(mlp: Server, models: dict[str, Path]) -> None:  # noqa: F811
    x = sample(3)
    answer = mlp.client.infer("mlp", [tensor("x", x)], model_version="1")
    assert answer.as_numpy("score").tobytes() == in_process(models["mlp"], {"x": x})[0].tobytes()
    assert answer.get_response()["model_version"] == "1.4.0"
    assert mlp.client.is_model_ready("mlp", "1")
    assert mlp.client.get_model_metadata("mlp", "1")["versions"] == ["1.4.0"]
    status, _, body = curl(mlp, "/v2/models/mlp/versions/2")
    assert (status, "unknown version `2`" in json.loads(body)["error"]) == (404, True)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_answers_are_compressed_on_request(loose: Server, coding: str) -> None:
    x = np.tile(np.arange(4, dtype=np.float32), (400, 1))
    for binary in (True, False):
        wanted = [InferRequestedOutput("y", binary_data=binary)]
        answer = loose.client.infer("loose", [tensor("x", x)], outputs=wanted, response_compression_algorithm=coding)
        assert answer.as_numpy("y").tobytes() == x.tobytes()
    text = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [400, 4], "data": x.ravel().tolist()}]})
    status, headers, body = curl(loose, "/v2/models/loose/infer", "-d", text, "-H", f"Accept-Encoding: {coding}")
    assert (status, headers["content-encoding"], headers["vary"]) == (200, coding, "accept-encoding")
    assert int(headers["content-length"]) == len(body) < 1000
    status, headers, plain = curl(loose, "/v2/models/loose/infer", "-d", text, "--compressed")
    assert json.loads(plain)["outputs"][0]["data"] == x.ravel().tolist()
    assert "content-encoding" not in curl(loose, "/v2/models/loose/infer", "-d", text)[1]


def test_a_body_of_several_gzip_members(mlp: Server, tmp_path: Path) -> None:
    text = question().encode()
    (tmp_path / "body.gz").write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))
    words = ["--data-binary", f"@{tmp_path / 'body.gz'}", "-H", "Content-Encoding: gzip"]
    assert curl(mlp, "/v2/models/mlp/infer", *words)[0] == 200


def test_null_members_and_positions_in_messages(mlp: Server) -> None:
    assert curl(mlp, "/v2/models/mlp/infer", "-d", question(id=None, outputs=None, parameters=None))[0] == 200
    for old, new, sentence in (
        ("11.0", '"eleven"', "got a string at element [1, 3]"),
        ("11.0", "1e99", "the number at element [1, 3]"),
        ("11.0", "NaN", "9.0, 10.0, NaN, 12.0"),
    ):
        status, _, body = curl(mlp, "/v2/models/mlp/infer", "-d", question().replace(old, new))
        assert (status, sentence in json.loads(body)["error"]) == (400, True), body


def test_zero_rows_are_answered_where_the_contract_allows(loose: Server) -> None:
    for binary in (True, False):
        item = InferInput("x", [0, 4], "FP32").set_data_from_numpy(np.empty((0, 4), np.float32), binary_data=binary)
        answer = loose.client.infer("loose", [item], outputs=[InferRequestedOutput("y", binary_data=binary)])
        assert answer.get_output("y")["shape"] == [0, 4]
        full = loose.client.infer("loose", [tensor("x", np.ones((2, 4), np.float32))])
        assert full.as_numpy("y").tolist() == [[1] * 4] * 2


def test_bf16_of_tritons_client_is_accepted_as_float32(loose: Server) -> None:
    x = np.array([[1.5, -2.0, 0.25, 3.0]], np.float32)
    item = InferInput("x", [1, 4], "BF16").set_data_from_numpy(x.astype(ml_dtypes.bfloat16))
    assert loose.client.infer("loose", [item]).as_numpy("y").tolist() == [[1.5, 0.0, 0.25, 3.0]]


# --- behind proxies, and from browsers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fronted(app: Path, models: dict[str, Path]) -> Iterator[Server]:  # noqa: F811
    """A server that proxies and pages in browsers reach, by its knobs."""
    values = {
        "server.path_prefix": "/models/mlp",
        "server.forwarded": True,
        "log.level": "debug",
        "server.cors": ["https://app.example.org", "http://localhost:3000"],
    }
    knobs = json.dumps({"digest": "sha256:" + "1" * 64, "values": values})
    with running(app, models["mlp"], f"--knobs={knobs}") as server:
        yield server


def test_paths_are_found_below_the_prefix_and_without_it(fronted: Server, mlp: Server) -> None:
    for path in ("/models/mlp/v2/models/mlp/infer", "/v2/models/mlp/infer"):
        assert curl(fronted, path, "-d", question())[0] == 200
    assert curl(fronted, "/models/mlp/v2/health/ready")[0] == 200
    assert curl(fronted, "/models/mlpx/v2/health/ready")[0] == 404
    assert curl(mlp, "/models/mlp/v2/health/ready")[0] == 404
    with InferenceServerClient(f"127.0.0.1:{fronted.port}/models/mlp") as client:
        assert client.infer("mlp", [tensor("x", sample(2))]).as_numpy("score").shape == (2, 3)


def test_client_address_is_the_trusted_proxy_s(fronted: Server, app: Path, models: dict) -> None:  # noqa: F811
    forwarded = ["-H", "X-Forwarded-For: 203.0.113.9, 198.51.100.7"]
    curl(fronted, "/v2/health/live", *forwarded)
    fronted.wait_until(lambda: "198.51.100.7" in {line["client"] for line in fronted.events("request")})
    with running(app, models["mlp"], "--log-level", "debug") as plain:
        curl(plain, "/v2/health/live", *forwarded)
        plain.wait_for("request")
        assert {line["client"].rpartition(":")[0] for line in plain.events("request")} == {"127.0.0.1"}


def test_cors_allows_configured_origins(fronted: Server, mlp: Server) -> None:
    preflight = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: POST"]
    status, headers, _ = curl(fronted, "/v2/models/mlp/infer", *preflight, "-H", "Origin: https://app.example.org")
    assert (status, headers["access-control-allow-origin"]) == (204, "https://app.example.org")
    assert "POST" in headers["access-control-allow-methods"]
    assert "inference-header-content-length" in headers["access-control-allow-headers"]
    status, headers, _ = curl(fronted, "/v2/models/mlp/infer", "-d", question(), "-H", "Origin: http://localhost:3000")
    assert (status, headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
    assert (headers["vary"], "retry-after" in headers["access-control-expose-headers"]) == ("origin", True)
    for server, origin in ((fronted, "https://evil.example"), (mlp, "https://app.example.org")):
        status, headers, _ = curl(server, "/v2/models/mlp/infer", *preflight, "-H", f"Origin: {origin}")
        assert (status, "access-control-allow-origin" in headers) == (405, False)


def test_preflight_needs_no_token(app: Path, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "tokens").write_text("a-token-of-this-site\n")
    with running(app, models["mlp"], "--cors", "*", "--tokens", str(tmp_path / "tokens")) as server:
        origin = ["-H", "Origin: https://anywhere.example"]
        status, headers, _ = curl(server, "/v2", "-X", "OPTIONS", "-H", "Access-Control-Request-Method: GET", *origin)
        assert (status, headers["access-control-allow-origin"]) == (204, "*")
        status, headers, _ = curl(server, "/v2", *origin)
        assert (status, headers["access-control-allow-origin"]) == (401, "*")


def test_openapi_document_describes_requests_and_answers(fronted: Server, loose: Server) -> None:
    status, _, body = curl(loose, "/openapi.json")
    document = json.loads(body)
    assert (status, document["openapi"], document["servers"]) == (200, "3.1.0", [{"url": "/"}])
    for path, item in document["paths"].items():
        (method,) = item
        forwarded, _, _ = curl(loose, path, *(["-d", "{}"] if method == "post" else []))
        assert forwarded == (400 if method == "post" else 200), path
    schemas = document["components"]["schemas"]

    def valid(name: str, value: object) -> bool:
        return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **document}).is_valid(value)

    valid_request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}]}
    assert valid("InferenceRequest", valid_request)
    status, _, body = curl(loose, "/v2/models/loose/infer", "-d", json.dumps(valid_request))
    assert status == 200 and valid("InferenceResponse", json.loads(body))
    for wrong in (
        {"name": "y"},
        {"datatype": "FP64"},
        {"shape": [2, 5]},
        {"shape": [513, 4]},
        {"shape": [2]},
        {"data": ["1"] * 8},
    ):
        bad = {"inputs": [valid_request["inputs"][0] | wrong]}
        assert not valid("InferenceRequest", bad), wrong
        status, _, body = curl(loose, "/v2/models/loose/infer", "-d", json.dumps(bad))
        assert status == 400 and valid("Error", json.loads(body))
    assert set(schemas) == {"InferenceRequest", "InferenceResponse", "Error"}
    words = ["-H", "X-Forwarded-Proto: https", "-H", "X-Forwarded-Host: api.example.org"]
    forwarded = json.loads(curl(fronted, "/models/mlp/openapi.json", *words)[2])
    assert forwarded["servers"] == [{"url": "https://api.example.org/models/mlp"}]
    assert json.loads(curl(fronted, "/openapi.json")[2])["servers"] == [{"url": "/models/mlp"}]
