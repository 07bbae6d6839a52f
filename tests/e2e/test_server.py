# SPDX-License-Identifier: Apache-2.0
"""The real server process, as it is installed: copied files, isolated interpreter, real sockets, Triton's client."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import packager.runtimes.onnxruntime as runtime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import packager.server as server

MAX_BODY = 1 << 20
ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
RANDOM = np.random.default_rng(0)


# --- models --------------------------------------------------------------------------------------------------------


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape)


def ports(values):
    names = {code: name for name, code in ONNX_TYPES.items()}
    return [
        {
            "name": v.name,
            "dtype": names[v.type.tensor_type.elem_type],
            "shape": [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
        }
        for v in values
    ]


def write(directory: Path, nodes, inputs, outputs, initialisers=(), limit: int = 64) -> Path:
    """Write model and configuration; return the configuration's path."""
    graph = helper.make_graph(nodes, directory.name, inputs, outputs, list(initialisers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    directory.mkdir()
    onnx.save(model, directory / "model.onnx")
    config = {
        "name": directory.name,
        "version": "1.4.0",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": "model.onnx",
        "interface": {
            "inputs": ports(inputs),
            "outputs": ports(outputs),
            "dimensions": {"batch": {"min": 1, "max": limit}},
        },
    }
    path = directory / "serve.json"
    path.write_text(json.dumps(config))
    return path


def mlp(root: Path) -> Path:
    weights = [
        numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("a", (8, 32)), ("b", (32,)), ("c", (32, 3)), ("d", (3,)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c", "d"], ["score"]),
        helper.make_node("ArgMax", ["score"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [value("score", "float32", ["batch", 3]), value("label", "int64", ["batch"])]
    return write(root / "mlp", nodes, [value("x", "float32", ["batch", 8])], outputs, weights)


def echo(root: Path) -> Path:
    """A model with an input and an equal output of every type."""
    names = list(ONNX_TYPES)
    return write(
        root / "echo",
        [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in names],
        [value(f"{name}_in", name, ["batch", 2]) for name in names],
        [value(f"{name}_out", name, ["batch", 2]) for name in names],
    )


def slow(root: Path, name: str = "slow", least: int = 20) -> Path:
    """A model whose run time its input sets: `rounds` + `least` products of 256 x 256 matrices."""
    square = numpy_helper.from_array(np.eye(256, dtype=np.float32), "square")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("MatMul", ["state", "square"], ["next"])],
        "body",
        [value("i", "int64", []), value("go", "bool", []), value("state", "float32", [256, 256])],
        [value("on", "bool", []), value("next", "float32", [256, 256])],
    )
    nodes = [
        helper.make_node("Add", ["rounds", "least"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "square"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
    ]
    constants = [square, numpy_helper.from_array(np.array([least], np.int64), "least")]
    return write(root / name, nodes, [value("rounds", "int64", [1])], [value("sum", "float32", [])], constants)


def sly(root: Path) -> Path:
    """The slow model, quick on zeros: warm-up takes it for a short one."""
    return slow(root, "sly", 0)


def picky(root: Path) -> Path:
    """A model that fails on values its interface allows."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32), "secret_table")
    node = helper.make_node("Gather", ["secret_table", "index"], ["y"])
    return write(
        root / "picky", [node], [value("index", "int64", ["batch"])], [value("y", "float32", ["batch"])], [table]
    )


# --- the process ---------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A running server, what it wrote to stderr, and the means to talk to it."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def client(self) -> InferenceServerClient:
        return InferenceServerClient(f"127.0.0.1:{self.port}", concurrency=4)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, list(self.lines)) if line["event"] == name]

    def wait_until(self, what: Callable[[], object], seconds: float = 20) -> None:
        """Wait for what the log is about to say: a line arrives a moment after the answer that it is about."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end and self.process.poll() is None, self.lines
            time.sleep(0.01)

    def wait_for(self, name: str, seconds: float = 20) -> dict[str, Any]:
        self.wait_until(lambda: self.events(name), seconds)
        return self.events(name)[0]

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):  # a server that refuses may close before it has read all
                connection.sendall(raw)
            return receive(connection)

    def request(self, method: str, path: str, body: bytes = b"", **headers: Any) -> tuple[int, dict[str, str], bytes]:
        return self.exchange(head(method, path, **{"content_length": len(body), **headers}) + body)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def head(method: str, path: str, **headers: Any) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {content}\r\n" for name, content in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode()


def receive(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one response; status 0 means the connection was closed without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return 0, {}, data
        data += part
    top, _, body = data.partition(b"\r\n\r\n")
    rows = top.decode().split("\r\n")
    headers = {name.lower(): content for name, content in (row.split(": ", 1) for row in rows[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        part = connection.recv(65536)
        if not part:
            return 0, {}, data
        body += part
    return int(rows[0].split()[1]), headers, body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """The server as an installation has it: its own files and one runtime, below an empty `packager`."""
    packages = tmp_path_factory.mktemp("app") / "packager"
    (packages / "runtimes" / "onnxruntime").mkdir(parents=True)
    shutil.copytree(server.__path__[0], packages / "server", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(runtime.__path__[0]) / "session.py", packages / "runtimes" / "onnxruntime")
    for package in (packages, packages / "runtimes", packages / "runtimes" / "onnxruntime"):
        (package / "__init__.py").write_text("")
    main = "import sys\nfrom packager.server.__main__ import main\nsys.exit(main())\n"
    (packages.parent / "__main__.py").write_text(main)
    return packages.parent


def command(app: Path, config: Path, port: int, *arguments: str) -> list[str]:
    return [sys.executable, "-I", str(app), str(config), "--port", str(port), *arguments]


@contextlib.contextmanager
def running(app: Path, config: Path, *arguments: str) -> Iterator[Server]:
    port = free_port()
    process = subprocess.Popen(command(app, config, port, *arguments), stderr=subprocess.PIPE, text=True)
    started = Server(process, port)
    reader = threading.Thread(target=lambda: started.lines.extend(process.stderr))  # type: ignore[arg-type]
    reader.start()
    try:
        started.wait_for("ready")
        yield started
    finally:
        end(process)
        reader.join()
        process.stderr.close()  # type: ignore[union-attr]


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {make.__name__: make(root) for make in (mlp, echo, slow, sly, picky)}


@pytest.fixture(scope="module")
def mlp_server(app, models) -> Iterator[Server]:
    with running(app, models["mlp"], "--max-body", str(MAX_BODY), "--body-timeout", "60") as started:
        yield started


@pytest.fixture(scope="module")
def echo_server(app, models) -> Iterator[Server]:
    with running(app, models["echo"]) as started:
        yield started


def in_process(config: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(config.parent / "model.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> InferInput:
    item = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return item.set_data_from_numpy(array, binary_data=binary)


def sample(rows: int) -> np.ndarray:
    return RANDOM.standard_normal((rows, 8)).astype(np.float32)


# --- Triton's client, unchanged ------------------------------------------------------------------------------------


def test_health_and_metadata(mlp_server):
    client = mlp_server.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1.4.0")
    assert not client.is_model_ready("mlp", "2.0.0")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
    expected = {
        "name": "mlp",
        "versions": ["1.4.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
        "parameters": {"digest": "sha256:" + "0" * 64, "target": "onnxruntime-cpu-fp32"},
    }
    assert client.get_model_metadata("mlp") == expected
    assert client.get_model_metadata("mlp", "1.4.0") == expected


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_answers_are_the_runtime_s_bits(mlp_server, models, binary_in, binary_out, rows):
    x = sample(rows)
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "score")]
    result = mlp_server.client.infer(
        "mlp", [tensor("x", x, binary=binary_in)], outputs=outputs, request_id="r-1", model_version="1.4.0"
    )
    score, label = in_process(models["mlp"], {"x": x})
    assert result.as_numpy("score").tobytes() == score.tobytes()
    assert result.as_numpy("label").tobytes() == label.tobytes()
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "mlp", "1.4.0")
    assert [output["name"] for output in response["outputs"]] == ["label", "score"]


def test_default_outputs_and_missing_id(mlp_server):
    result = mlp_server.client.infer("mlp", [tensor("x", sample(2))])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["score", "label"]
    assert "id" not in result.get_response()


def test_a_subset_of_outputs(mlp_server):
    result = mlp_server.client.infer("mlp", [tensor("x", sample(2))], outputs=[InferRequestedOutput("label")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["label"]
    assert result.as_numpy("score") is None


def test_concurrent_requests_get_their_answers(mlp_server, models):
    client = mlp_server.client
    batches = [sample(1 + i % 7) for i in range(40)]
    handles = [
        client.async_infer("mlp", [tensor("x", x, binary=bool(i % 2))], request_id=str(i))
        for i, x in enumerate(batches)
    ]
    for i, (x, handle) in enumerate(zip(batches, handles, strict=True)):
        result = handle.get_result()
        assert result.get_response()["id"] == str(i)
        assert result.as_numpy("score").tobytes() == in_process(models["mlp"], {"x": x})[0].tobytes()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_requests(mlp_server, models, algorithm, binary):
    x = sample(3)
    result = mlp_server.client.infer(
        "mlp",
        [tensor("x", x, binary=binary)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("score").tobytes() == in_process(models["mlp"], {"x": x})[0].tobytes()


def every_type() -> dict[str, np.ndarray]:
    feeds = {}
    for name in ONNX_TYPES:
        if name == "string":
            array = np.array([["", "é\U0001f600"], ["a\0b", "x" * 300]], dtype=object)
        elif name == "bool":
            array = np.array([[True, False], [False, True]])
        elif name.startswith("float"):
            info = np.finfo(name)
            array = np.array([[info.max, info.smallest_subnormal], [-0.0, 1 / 3]], dtype=name)
        else:
            info = np.iinfo(name)
            array = np.array([[info.max, info.min], [0, 1]], dtype=name)
        feeds[name] = array
    return feeds


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_type_comes_back_bit_for_bit(echo_server, binary_in, binary_out):
    feeds = every_type()
    result = echo_server.client.infer(
        "echo",
        [tensor(f"{name}_in", array, binary=binary_in) for name, array in feeds.items()],
        outputs=[InferRequestedOutput(f"{name}_out", binary_data=binary_out) for name in feeds],
    )
    for name, array in feeds.items():
        got = result.as_numpy(f"{name}_out")
        if name == "string":
            got = np.vectorize(lambda item: item.decode() if isinstance(item, bytes) else item, otypes=[object])(got)
            assert got.tolist() == array.tolist()
        else:
            assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())


def test_nan_travels_in_binary_and_is_refused_in_json(echo_server):
    feeds = every_type()
    feeds["float32"] = np.array([[0x7FC00001, 0xFF800000]] * 2, np.uint32).view(np.float32)
    items = [tensor(f"{name}_in", array) for name, array in feeds.items()]
    client = echo_server.client
    exact = client.infer("echo", items, outputs=[InferRequestedOutput("float32_out")]).as_numpy("float32_out")
    assert exact.tobytes() == feeds["float32"].tobytes()
    with pytest.raises(InferenceServerException, match="holds NaN or infinity") as caught:
        client.infer("echo", items, outputs=[InferRequestedOutput("float32_out", binary_data=False)])
    assert caught.value.status() == "406"


@pytest.mark.parametrize(
    ("model", "version", "item", "status", "sentence"),
    [
        ("other", "", tensor("x", sample(1)), "404", "unknown model `other`: this server has `mlp`"),
        ("mlp", "9", tensor("x", sample(1)), "404", "unknown version `9`: this server has `1.4.0`"),
        ("mlp", "", tensor("y", sample(1)), "400", "unknown input `y`"),
        ("mlp", "", tensor("x", sample(1).astype(np.float64)), "400", "expected datatype FP32, got `FP64`"),
        ("mlp", "", tensor("x", sample(65)), "400", "expected `batch` of 1 to 64, got 65"),
        ("mlp", "", tensor("x", sample(1)[:, :7].copy()), "400", "does not fit [batch, 8]: expected 8, got 7"),
    ],
)
def test_refusals_raise_the_client_library_s_exception(mlp_server, model, version, item, status, sentence):
    with pytest.raises(InferenceServerException) as caught:
        mlp_server.client.infer(model, [item], model_version=version)
    assert caught.value.status() == status
    assert sentence in caught.value.message()


# --- raw bytes -----------------------------------------------------------------------------------------------------

INFER = "/v2/models/mlp/infer"
GOOD = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1, 2, 3, 4, 5, 6, 7, 8]}]}
).encode()
NAMED = {"inference_header_content_length": len(GOOD)}
HEAD_32 = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "parameters": {"binary_data_size": 32}}]}
).encode()


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


RAW = {
    "chunked": (head("POST", INFER, transfer_encoding="chunked") + chunked(GOOD[:10], GOOD[10:]), 200, "outputs"),
    "binary data in chunks": (
        head("POST", INFER, transfer_encoding="Chunked", inference_header_content_length=len(HEAD_32))
        + chunked(HEAD_32, bytes(20), bytes(12)),
        200,
        "outputs",
    ),
    "gzip in chunks": (
        head("POST", INFER, transfer_encoding="chunked", content_encoding="gzip")
        + chunked(gzip.compress(GOOD)[:9], gzip.compress(GOOD)[9:]),
        200,
        "outputs",
    ),
    "chunks and a trailer": (
        head("POST", INFER, transfer_encoding="chunked") + chunked(GOOD)[:-2] + b"X-Sum: 1\r\n\r\n",
        400,
        "with a trailer",
    ),
    "another coding": (
        head("POST", INFER, transfer_encoding="gzip, chunked") + chunked(GOOD),
        400,
        "expected `Transfer-",
    ),
    "gzip": (
        head("POST", INFER, content_length=len(gzip.compress(GOOD)), content_encoding="gzip", **NAMED)
        + gzip.compress(GOOD),
        200,
        "outputs",
    ),
    "wrong method": (head("GET", INFER), 405, "expected method POST, got `GET`"),
    "wrong method for health": (head("DELETE", "/v2/health/live"), 405, "expected method GET, HEAD"),
    "unknown path": (head("GET", "/v3"), 404, "unknown path `/v3`"),
    "unknown end of path": (head("GET", "/v2/models/mlp/absent"), 404, "unknown path `/v2/models/mlp/absent`"),
    "short version path": (head("GET", "/v2/models/mlp/versions/"), 404, "unknown version ``"),
    "models without a name": (head("GET", "/v2/models/"), 404, "unknown model ``"),
    "no body": (head("POST", INFER, content_length=0), 400, "not JSON"),
    "not JSON": (head("POST", INFER, content_length=1) + b"{", 400, "not JSON"),
    "trailing bytes": (
        head("POST", INFER, content_length=len(GOOD) + 1, **NAMED) + GOOD + b"x",
        400,
        "expected no bytes behind the last input, got 1",
    ),
    "header length too long": (
        head("POST", INFER, content_length=2, inference_header_content_length=3) + b"{}",
        400,
        "`Inference-Header-Content-Length`: expected 1 to 2, got `3`",
    ),
    "header length is a word": (
        head("POST", INFER, content_length=2, inference_header_content_length="x") + b"{}",
        400,
        "expected 1 to 2, got `x`",
    ),
    "header length of many digits": (
        head("POST", INFER, content_length=2, inference_header_content_length="9" * 9999) + b"{}",
        400,
        "`Inference-Header-Content-Length`: expected 1 to 2, got `999",
    ),
    "body too large": (
        head("POST", INFER, content_length=MAX_BODY + 1) + b"x" * 1000,
        413,
        f"at most {MAX_BODY} bytes",
    ),
    "body absurdly large": (head("POST", INFER, content_length=2**63), 413, f"at most {MAX_BODY} bytes"),
    "chunks too large": (
        head("POST", INFER, transfer_encoding="chunked") + chunked(*[b"x" * 65536] * 17),
        413,
        f"at most {MAX_BODY} bytes",
    ),
    "too many chunks": (
        head("POST", INFER, transfer_encoding="chunked") + chunked(*[b" "] * 65537),
        413,
        "at most 65536 chunks",
    ),
    "short length beside long chunks": (
        head("POST", INFER, content_length=5, transfer_encoding="chunked") + chunked(GOOD),
        200,
        "outputs",
    ),
    "inflates too far": (
        head("POST", INFER, content_length=len(gzip.compress(b"\0" * 2 * MAX_BODY)), content_encoding="gzip")
        + gzip.compress(b"\0" * 2 * MAX_BODY),
        413,
        "after inflating",
    ),
    "not gzip": (head("POST", INFER, content_length=4, content_encoding="gzip") + b"abcd", 400, "is not gzip data"),
    "unknown encoding": (
        head("POST", INFER, content_length=4, content_encoding="br") + b"abcd",
        415,
        "expected gzip or deflate, got `br`",
    ),
    "broken chunk": (head("POST", INFER, transfer_encoding="chunked") + b'3\r\n{"i\r\nZZ\r\n', 400, "cut, garbled"),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_requests(mlp_server, case):
    raw, status, sentence = RAW[case]
    got, headers, body = mlp_server.exchange(raw)
    assert (got, headers["content-type"]) == (status, "application/json")
    answer = json.loads(body)
    assert sentence in (answer["error"] if status != 200 else body.decode())
    assert ("allow" in headers) == (status == 405)


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (head("GET", "/v2", x="a" * 1_000_000), {431, 0}),
        (head("GET", "/v2", **{f"x{i}": i for i in range(200)}), {431}),
        (head("POST", INFER, content_length="5, 6") + GOOD, {400}),
        (head("POST", INFER, transfer_encoding="gzip") + GOOD, {400}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {0}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello, TLS\r\n\r\n", {400, 0}),
    ],
)
def test_what_is_not_http_11_is_refused_by_the_http_layer(mlp_server, raw, statuses):
    with contextlib.suppress(ConnectionResetError):
        assert mlp_server.exchange(raw)[0] in statuses
    assert mlp_server.client.is_server_live()


def test_a_connection_survives_a_refusal(mlp_server):
    with mlp_server.connect() as connection:
        for _ in range(3):
            connection.sendall(head("POST", INFER, content_length=1) + b"{")
            assert receive(connection)[0] == 400
            connection.sendall(head("POST", INFER, content_length=len(GOOD)) + GOOD)
            assert receive(connection)[0] == 200


def test_head_has_no_body(mlp_server):
    with mlp_server.connect() as connection:
        connection.sendall(head("HEAD", "/v2/health/ready"))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


def test_many_tiny_chunks_are_refused(mlp_server):
    def peak() -> int:
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{mlp_server.process.pid}/status").read_text())[1])

    mlp_server.exchange(head("POST", INFER, content_length=len(GOOD)) + GOOD)
    before = peak()
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    for _ in range(5):
        with mlp_server.connect() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head("POST", INFER, transfer_encoding="chunked"))
            for _ in range(600):
                connection.sendall(chunk)
    assert mlp_server.client.is_server_live()
    assert peak() - before < 16 * 1024


def test_metrics_count_what_happened(app, models):
    with running(app, models["mlp"]) as started:
        client = started.client
        client.infer("mlp", [tensor("x", sample(5))])
        client.infer("mlp", [tensor("x", sample(1))])
        with pytest.raises(InferenceServerException):
            client.infer("mlp", [tensor("y", sample(1))])
        status, headers, body = started.request("GET", "/metrics")
        text = body.decode()
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
        for line in (
            'packager_server_requests_total{code="200",route="infer"} 2.0',
            'packager_server_requests_total{code="400",route="infer"} 1.0',
            "packager_server_request_duration_seconds_count 3.0",
            "packager_server_run_duration_seconds_count 2.0",
            "packager_server_batch_rows_sum 6.0",
            "packager_server_requests_in_flight 0.0",
            "packager_server_ready 1.0",
        ):
            assert line in text.splitlines()
        info = re.search(r"packager_bundle_info\{(.*)\} 1\.0", text)[1]
        for label in (
            'name="mlp"',
            'version="1.4.0"',
            'provider="CPUExecutionProvider"',
            f'digest="sha256:{"0" * 64}"',
            f'runtime_version="{onnxruntime.__version__}"',
        ):
            assert label in info
        assert "process_resident_memory_bytes" in text
        assert "_created" not in text
        openmetrics = started.request("GET", "/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert openmetrics[1]["content-type"].startswith("application/openmetrics-text")
        assert openmetrics[2].endswith(b"# EOF\n")


def test_start_and_stop_are_logged_and_requests_are_not(app, models):
    with running(app, models["mlp"]) as started:
        started.client.infer("mlp", [tensor("x", sample(1))])
        assert started.stop() == 0
    logged = [json.loads(line) for line in started.lines]
    events = [line for line in logged if line["event"] != "memory in huge pages"]  # comes when it is done, if it is
    assert [line["event"] for line in events] == ["starting", "ready", "draining", "stopped"]
    starting = {key: events[0][key] for key in ("host", "port", "model", "version", "digest", "target")}
    assert starting == {
        "host": "127.0.0.1",
        "port": started.port,
        "model": "mlp",
        "version": "1.4.0",
        "digest": "sha256:" + "0" * 64,
        "target": "onnxruntime-cpu-fp32",
    }
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in events)


def test_level_debug_logs_requests(app, models):
    with running(app, models["mlp"], "--log-level", "debug") as started:
        assert not started.client.is_model_ready("other")
        line = started.wait_for("request")
        assert (line["method"], line["path"], line["status"]) == ("GET", "/v2/models/other/ready", 404)


# --- trouble -------------------------------------------------------------------------------------------------------


def test_failing_run_is_500_with_the_reason_only_in_the_log(app, models):
    with running(app, models["picky"]) as started:
        client = started.client
        for _ in range(2):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("picky", [tensor("index", np.array([4]))])
            assert caught.value.status() == "500"
            assert caught.value.message() == "the request failed inside the server; its log has the reason"
            assert client.infer("picky", [tensor("index", np.array([2]))]).as_numpy("y").tolist() == [2.0]
        logged = started.wait_for("request failed")
        assert "indices element out of data bounds" in logged["traceback"]
        assert started.stop() == 0


def rounds(started: Server, seconds: float) -> InferInput:
    """Return an input for the slow model that takes about so long on this machine."""
    per_round = started.wait_for("ready")["run_ms"] / 1000 / 20
    return tensor("rounds", np.array([int(seconds / per_round)]))


@contextlib.contextmanager
def in_flight(started: Server, seconds: float) -> Iterator[list[Any]]:
    """Have a request of about so many seconds run; yield the list that its result or exception goes to."""
    item, results = rounds(started, seconds), []

    def send_one():
        try:
            results.append(started.client.infer("slow", [item]).as_numpy("sum"))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=send_one)
    thread.start()
    end = time.monotonic() + 10
    while b"requests_in_flight 1.0" not in started.request("GET", "/metrics")[2]:
        assert time.monotonic() < end
    yield results
    thread.join()


def test_long_run_blocks_no_other_and_full_server_refuses(app, models):
    with running(app, models["slow"], "--max-in-flight", "1") as started:
        assert started.wait_for("ready")["inline_bytes"] == 0
        with in_flight(started, 1.2) as results:
            began = time.monotonic()
            assert started.client.is_server_ready()
            assert time.monotonic() - began < 0.3
            raw, _ = InferenceServerClient.generate_request_body([tensor("rounds", np.array([1]), binary=False)])
            status, headers, body = started.request("POST", "/v2/models/slow/infer", raw)
            assert (status, int(headers["retry-after"]) >= 1) == (429, True)
            assert "in flight" in json.loads(body)["error"]
            assert not results
        assert results == [256.0]


def test_slow_values_move_runs_off_the_event_loop(app, models):
    with running(app, models["sly"]) as started:
        assert started.wait_for("ready")["inline_bytes"] > 0
        item = tensor("rounds", np.array([1000]))
        assert started.client.infer("sly", [item]).as_numpy("sum") == 256.0
        assert started.wait_for("runs moved to threads")["took_ms"] > 50
        handle = (client := started.client).async_infer("sly", [item])
        began = time.monotonic()
        while not client.is_server_live():
            pass
        assert time.monotonic() - began < 1
        assert handle.get_result().as_numpy("sum") == 256.0
        assert len(started.events("runs moved to threads")) == 1


def until_it_listens(started: Server) -> None:
    limit = time.monotonic() + 10
    while True:
        try:
            return started.connect().close()
        except ConnectionRefusedError:
            assert time.monotonic() < limit
            time.sleep(0.01)


SLUGGISH = """
import time
def open_session(path, *, threads, device="cpu"):
    print("opening", flush=True)
    time.sleep(60)
"""


def test_loading_server_is_live_not_ready_and_stoppable(app, models, tmp_path):
    own = shutil.copytree(app, tmp_path / "app")
    (own / "packager/runtimes/slug_gish").mkdir()
    (own / "packager/runtimes/slug_gish/__init__.py").write_text("")
    (own / "packager/runtimes/slug_gish/session.py").write_text(SLUGGISH)
    config = models["mlp"].parent / "sluggish.json"
    config.write_text(json.dumps(json.loads(models["mlp"].read_text()) | {"runtime": "slug-gish"}))
    port = free_port()
    process = subprocess.Popen(command(own, config, port), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "opening\n"  # type: ignore[union-attr]
        started = Server(process, port)
        client = started.client
        until_it_listens(started)
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("mlp")
        assert client.get_model_metadata("mlp")["name"] == "mlp"
        with pytest.raises(InferenceServerException, match="the model is still loading") as caught:
            client.infer("mlp", [tensor("x", sample(1))])
        assert caught.value.status() == "503"
        began = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - began < 5
    finally:
        end(process)
        process.stdout.close()  # type: ignore[union-attr]
        process.stderr.close()  # type: ignore[union-attr]


def test_sigterm_lets_requests_finish_while_readiness_is_off(app, models):
    with running(app, models["slow"]) as started, started.connect() as idle:
        with in_flight(started, 1.5) as results:
            started.process.send_signal(signal.SIGTERM)
            started.wait_for("draining")
            status, headers, body = started.request("GET", "/v2/health/ready")
            assert (status, json.loads(body), headers["connection"]) == (503, {"ready": False}, "close")
            assert started.request("GET", "/v2/health/live")[0] == 200
            assert not results
        assert results == [256.0]
        assert started.process.wait(5) == 0
        assert idle.recv(1) == b""
    assert started.events("stopped")[0]["abandoned"] == 0


def test_sigterm_waits_no_longer_than_drain(app, models):
    with running(app, models["slow"], "--drain", "0.3") as started:
        with in_flight(started, 4.0) as results:
            began = time.monotonic()
            assert started.stop() == 0
            assert time.monotonic() - began < 2.0
        assert isinstance(results[0], Exception)
    assert started.events("stopped")[0]["abandoned"] == 1


def test_a_second_signal_ends_the_drain(app, models):
    with running(app, models["slow"]) as started, in_flight(started, 4.0):
        started.process.send_signal(signal.SIGINT)
        started.wait_for("draining")
        assert started.stop() == 0


def test_slow_and_silent_clients_lose_their_connection(app, models):
    limits = ("--read-timeout", "0.5", "--body-timeout", "0.5", "--max-connections", "8")
    with running(app, models["mlp"], *limits) as started:
        openings = {
            "silent": b"",
            "half a head": b"POST /v2",
            "half a body": head("POST", INFER, content_length=len(GOOD)) + GOOD[:10],
            "half a chunk": head("POST", INFER, transfer_encoding="chunked") + b"ff\r\nabc",
        }
        connections = {name: started.connect() for name in openings}
        began = time.monotonic()
        for name, raw in openings.items():
            connections[name].sendall(raw)
        answers = {name: receive(connection)[0] for name, connection in connections.items()}
        assert time.monotonic() - began < 3
        assert answers == {"silent": 0, "half a head": 0, "half a body": 408, "half a chunk": 408}
        for connection in connections.values():
            connection.close()


def test_connections_above_the_cap_wait_and_are_served_later(app, models):
    with running(app, models["mlp"], "--max-connections", "3") as started:
        first = [started.connect() for _ in range(3)]
        for connection in first:
            connection.sendall(head("GET", "/v2/health/live"))
            assert receive(connection)[0] == 200
        with started.connect() as late:
            late.sendall(head("GET", "/v2/health/live"))
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.recv(1)
            late.settimeout(5)
            first[0].close()
            assert receive(late)[0] == 200
        for connection in first:
            connection.close()


def failed(app: Path, config: Path, port: int | None = None, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        command(app, config, port or free_port(), *arguments), capture_output=True, text=True, timeout=30, check=False
    )
    message = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, "\n".join(message)


def test_bad_configuration_or_model_exits_with_code_4(app, models, tmp_path):
    config = json.loads(models["mlp"].read_text())

    def variant(name: str, model: bytes = b"", **changes: Any) -> Path:
        place = tmp_path / name
        place.mkdir()
        (place / "model.onnx").write_bytes(model)
        (place / "serve.json").write_text(json.dumps(config | changes))
        return place / "serve.json"

    good = (models["mlp"].parent / "model.onnx").read_bytes()
    interface = json.loads(json.dumps(config["interface"]))
    interface["inputs"][0]["dtype"] = "float64"
    cases = {
        tmp_path / "nowhere.json": "cannot be read: No such file or directory",
        variant("unknown-key", good, colour="red"): "`the document` has an unknown key `colour`",
        variant("no-model", good, artefact="absent.onnx"): "absent.onnx` is not there",
        variant("not-a-model", b"not a model"): "onnxruntime cannot load",
        variant("half-a-model", good[: len(good) // 2]): "onnxruntime cannot load",
        variant("unknown-runtime", good, runtime="abacus"): "runtime `abacus` cannot be imported",
        variant("other-interface", good, interface=interface): "to be float64 ['batch', 8], got float32",
    }
    for path, sentence in cases.items():
        code, message = failed(app, path)
        assert (code, message.startswith("error: ")) == (4, True), message
        assert sentence in message
        assert len(message.splitlines()) == 1 + message.count("\nhint: ")


def test_taken_port_exits_with_code_3_and_a_hint(app, models, mlp_server):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for port in (other.getsockname()[1], mlp_server.port):
            code, message = failed(app, models["mlp"], port)
            assert code == 3
            assert f"cannot listen on `127.0.0.1:{port}`: Address already in use" in message
            assert "\nhint: " in message
    code, message = failed(app, models["mlp"], None, "--host", "203.0.113.1")
    assert (code, "cannot listen" in message) == (3, True)


def test_usage_errors_end_with_code_2(app, models):
    assert failed(app, models["mlp"], 70000)[0] == 2
    assert failed(app, models["mlp"], None, "--drain", "-1")[0] == 2


def test_the_environment_of_the_caller_is_not_needed(app, models):
    process = subprocess.Popen(
        command(app, models["mlp"], port := free_port()), env={}, cwd="/", stderr=subprocess.PIPE, text=True
    )
    try:
        assert any('"event":"ready"' in line for line in process.stderr)  # type: ignore[union-attr]
        assert InferenceServerClient(f"127.0.0.1:{port}").is_server_ready()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        end(process)
        process.stderr.close()  # type: ignore[union-attr]
