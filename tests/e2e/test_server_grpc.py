# SPDX-License-Identifier: Apache-2.0
"""The gRPC side of the real server, through the suite's own client, whose codec shares nothing with the server's."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conformance"))

from packager.lock import environments
from suite import contract, protobuf
from suite.adapter import RefusedError
from suite.oip import ServerFaultError
from suite.rpc import Rpc
from tests.e2e.test_server import (  # noqa: F401 - `app` and `models` are fixtures
    MAX_BODY,
    app,
    command,
    end,
    every_type,
    free_port,
    in_process,
    models,
    running,
    sample,
)


def client(config: Path, port: int) -> Rpc:
    document = {**json.loads(config.read_text()), "targets": {}}
    path = config.parent / "contract.json"
    path.write_text(json.dumps(document))
    return Rpc({"grpc": f"127.0.0.1:{port}"}, config.parent.name, contract.read(path), 20)


@contextlib.contextmanager
def serving(app: Path, config: Path, *options: str) -> Iterator[tuple[Any, Rpc, int]]:  # noqa: F811
    port = free_port()
    with running(app, config, "--grpc-port", str(port), *options) as server:
        rpc = client(config, port)
        yield server, rpc, port
        rpc.close()


@pytest.fixture(scope="module")
def mlp(app: Path, models: dict[str, Path]) -> Iterator[tuple[Any, Rpc, int]]:  # noqa: F811
    with serving(app, models["mlp"], "--max-body", str(MAX_BODY), "--max-in-flight", "4") as found:
        yield found


def test_answer_equals_the_library_s(mlp: Any, models: dict[str, Path]) -> None:  # noqa: F811
    _, rpc, _ = mlp
    x = sample(5)
    got = rpc.infer({"x": x})
    for name, expected in zip(("score", "label"), in_process(models["mlp"], {"x": x}), strict=True):
        assert (got[name].dtype, got[name].tobytes()) == (expected.dtype, expected.tobytes())


def test_metadata_equals_http_s(mlp: Any) -> None:
    server, rpc, _ = mlp
    status, _, body = server.request("GET", "/v2/models/mlp")
    document = json.loads(body)
    assert status == 200 and rpc.metadata() == {role: document[role] for role in ("inputs", "outputs")}
    assert rpc.ready()
    assert protobuf.text(rpc.call("ServerMetadata", b""), 1) == "packager"


def test_every_type_comes_back_bit_for_bit(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with serving(app, models["echo"]) as (_, rpc, _):
        feeds = {f"{name}_in": array for name, array in every_type().items()}
        got = rpc.infer(feeds)
        for name, array in every_type().items():
            answer = got[f"{name}_out"]
            same = answer.tolist() == array.tolist() if name == "string" else answer.tobytes() == array.tobytes()
            assert same, name


def tensor(name: str, datatype: str, shape: tuple[int, ...], contents: bytes = b"", parameters: bytes = b"") -> bytes:
    parts = protobuf.block(1, name) + protobuf.block(2, datatype) + protobuf.packed(3, shape)
    return protobuf.block(5, parts + parameters + (protobuf.block(5, contents) if contents else b""))


def question(*inputs: bytes, raw: tuple[bytes, ...] = (), model: str = "mlp", version: str = "") -> bytes:
    head = protobuf.block(1, model) + protobuf.block(2, version)
    return head + b"".join(inputs) + b"".join(protobuf.block(7, item) for item in raw)


ROW = sample(1).tobytes()
BAD = {
    "not a message": (b"\xff\xff\xff", "INVALID_ARGUMENT", "not a message"),
    "length beyond the end": (b"\x0a\xff\x7f", "INVALID_ARGUMENT", "not a message"),
    "a group": (b"\x0b\x0c", "INVALID_ARGUMENT", "not a message"),
    "endless varint": (b"\x08" + b"\x80" * 20, "INVALID_ARGUMENT", "not a message"),
    "other model": (question(model="other"), "NOT_FOUND", "unknown model `other`: this server has `mlp`"),
    "other version": (question(version="9"), "NOT_FOUND", "unknown version `9`"),
    "no input": (question(), "INVALID_ARGUMENT", "input `x` is missing"),
    "unknown input": (question(tensor("z", "FP32", (1, 8)), raw=(ROW,)), "INVALID_ARGUMENT", "unknown input `z`"),
    "twice": (
        question(tensor("x", "FP32", (1, 8)), tensor("x", "FP32", (1, 8)), raw=(ROW, ROW)),
        "INVALID_ARGUMENT",
        "appears twice",
    ),
    "other datatype": (
        question(tensor("x", "FP64", (1, 8)), raw=(ROW,)),
        "INVALID_ARGUMENT",
        "expected datatype FP32, got `FP64`",
    ),
    "other shape": (question(tensor("x", "FP32", (1, 7)), raw=(ROW,)), "INVALID_ARGUMENT", "expected 8, got 7"),
    "negative size": (question(tensor("x", "FP32", (-1, 8)), raw=(ROW,)), "INVALID_ARGUMENT", "a list of sizes"),
    "too large": (question(tensor("x", "FP32", (65, 8)), raw=(ROW,)), "INVALID_ARGUMENT", "`batch` of 1 to 64, got 65"),
    "data cut short": (
        question(tensor("x", "FP32", (1, 8)), raw=(ROW[:-1],)),
        "INVALID_ARGUMENT",
        "of 32 for its shape, got 31",
    ),
    "no data": (question(tensor("x", "FP32", (1, 8))), "INVALID_ARGUMENT", "either `contents` or `raw_input_contents`"),
    "data twice": (
        question(tensor("x", "FP32", (1, 8), b"\x32\x04abcd"), raw=(ROW,)),
        "INVALID_ARGUMENT",
        "either `contents`",
    ),
    "more data than inputs": (
        question(tensor("x", "FP32", (1, 8)), raw=(ROW, ROW)),
        "INVALID_ARGUMENT",
        "expected 1 `raw_input",
    ),
    "shared memory": (
        question(
            tensor("x", "FP32", (1, 8), parameters=protobuf.block(4, protobuf.block(1, "shared_memory_region"))),
            raw=(ROW,),
        ),
        "INVALID_ARGUMENT",
        "is not offered",
    ),
    "too many bytes": (question(raw=(b"x" * MAX_BODY,)), "RESOURCE_EXHAUSTED", ""),
    "unknown output": (
        question(tensor("x", "FP32", (1, 8)), protobuf.block(6, protobuf.block(1, "q")), raw=(ROW,)),
        "INVALID_ARGUMENT",
        "unknown output `q`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_name_the_defect(mlp: Any, case: str) -> None:
    _, rpc, _ = mlp
    message, code, sentence = BAD[case]
    with pytest.raises(RefusedError) as caught:
        try:
            rpc.call("ModelInfer", message)
        except ServerFaultError as error:  # what is not read to its end is cut where the connection is of age just then
            assert "max_age" in str(error)
            rpc.call("ModelInfer", message)
    assert f"gRPC {code}" in str(caught.value) and sentence in str(caught.value)
    assert rpc.infer({"x": sample(1)})


def test_typed_contents_equal_raw_ones(mlp: Any, models: dict[str, Path]) -> None:  # noqa: F811
    _, rpc, _ = mlp
    answer = rpc.call("ModelInfer", question(tensor("x", "FP32", (1, 8), protobuf.block(6, ROW))))
    raw = protobuf.blocks(answer, 6)[0]
    assert raw == in_process(models["mlp"], {"x": np.frombuffer(ROW, "f4").reshape(1, 8)})[0].tobytes()


def test_selected_output_is_returned_alone(mlp: Any) -> None:
    _, rpc, _ = mlp
    message = question(tensor("x", "FP32", (1, 8)), protobuf.block(6, protobuf.block(1, "label")), raw=(ROW,))
    found = rpc.call("ModelInfer", message)
    assert [protobuf.text(protobuf.parse(item), 1) for item in protobuf.blocks(found, 5)] == ["label"]


def test_unknown_methods_are_unimplemented(mlp: Any) -> None:
    with pytest.raises(RefusedError, match="UNIMPLEMENTED"):
        mlp[1].call("RepositoryIndex", b"")


def test_admission_is_shared_with_http(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    """Both transports together never hold more than the limit; the rest get RESOURCE_EXHAUSTED at once and may retry."""
    with serving(app, models["slow"], "--max-in-flight", "1") as (server, rpc, _), ThreadPoolExecutor(2) as pool:
        busy = pool.submit(rpc.infer, {"rounds": np.array([3000], np.int64)})
        deadline = time.monotonic() + 10
        while b"packager_server_requests_in_flight 1.0" not in server.request("GET", "/metrics")[2]:
            assert time.monotonic() < deadline and not busy.done()
        with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED: 1 requests are in flight"):
            rpc.infer({"rounds": np.array([0], np.int64)})
        assert set(busy.result()) == {"sum"}


def test_a_request_in_flight_is_answered_before_the_stop(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with serving(app, models["slow"]) as (server, rpc, _), ThreadPoolExecutor(1) as pool:
        busy = pool.submit(rpc.infer, {"rounds": np.array([3000], np.int64)})
        while b"packager_server_requests_in_flight 1.0" not in server.request("GET", "/metrics")[2]:
            assert not busy.done()
        assert server.stop() == 0
        assert set(busy.result()) == {"sum"}


def test_taken_grpc_port_is_reported(app: Path, models: dict[str, Path], mlp: Any) -> None:  # noqa: F811
    arguments = command(app, models["mlp"], free_port(), "--grpc-port", str(mlp[2]))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3 and "cannot listen on" in done.stderr and "hint:" in done.stderr


def test_cancelled_call_costs_nothing(mlp: Any) -> None:
    _, rpc, port = mlp
    message = rpc.encode({"x": sample(4)})
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(20):
            method.future(message).cancel()
    deadline = time.monotonic() + 30
    while True:
        try:
            assert rpc.infer({"x": sample(4)})
            return
        except RefusedError as error:  # grpcio counts calls until it has seen that they are cancelled
            assert "Concurrent RPC limit" in str(error) and time.monotonic() < deadline


@pytest.mark.slow
def test_tritons_own_grpc_client(mlp: Any, tmp_path: Path) -> None:
    """Unchanged, in a separate environment: what its examples do, and eight clients at once."""
    python = environments.ensure_environment(["tritonclient[grpc]==2.73.0", "numpy==2.4.6"], "3.11", tmp_path)
    program = textwrap.dedent("""
        import sys, numpy, concurrent.futures as futures
        import tritonclient.grpc as triton
        client = triton.InferenceServerClient(sys.argv[1])
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mlp", "1.4.0")
        assert client.get_model_metadata("mlp").versions == ["1.4.0"]
        def ask(seed):
            x = numpy.random.default_rng(seed).standard_normal((1 + seed % 4, 8)).astype("f4")
            item = triton.InferInput("x", list(x.shape), "FP32")
            item.set_data_from_numpy(x)
            answer = client.infer("mlp", [item], request_id=str(seed), outputs=[triton.InferRequestedOutput("score")])
            assert answer.as_numpy("score").shape == (len(x), 3) and answer.get_response().id == str(seed)
        with futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(200)))
        try:
            client.infer("absent", [triton.InferInput("x", [1, 8], "FP32")])
        except triton.InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND", error
        else:
            raise SystemExit("an absent model answered")
        print("ok")
    """)
    done = subprocess.run(
        [str(python), "-c", program, f"127.0.0.1:{mlp[2]}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "ok", done.stderr
