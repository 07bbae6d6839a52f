# SPDX-License-Identifier: Apache-2.0
"""What serving adds to a run: p50 over HTTP against the same runtime in this process, on three sizes of request.

    python tests/benchmarks/bench_serve.py [--requests 300] [--rounds 3]

One client, one request at a time, binary tensors both ways, client and server on the same cores. Rounds interleave
the ways of asking, so that a noisy minute hits all of them. The raw client is a keep-alive socket and shows the
server's own cost; Triton's client adds its own. Takes about 15 s with the defaults.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from packager.runtimes.onnxruntime.session import open_session
from tritonclient.http import InferenceServerClient, InferInput

Ask = Callable[[], object]
RANDOM = np.random.default_rng(0)
SHAPES = {"mlp": [1, 64], "cnn": [1, 3, 32, 32], "image": [1, 3, 224, 224]}


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((RANDOM.standard_normal(shape) * 0.1).astype(np.float32), name)


def graph(name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[object]]:
    node = helper.make_node
    if name == "mlp":
        nodes = [node("Gemm", ["x", "a", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "c"], ["y"])]
        return nodes, [weight("a", 64, 128), weight("b", 128), weight("c", 128, 10)], ["batch", 10]
    if name == "cnn":
        nodes = [
            node("Conv", ["x", "k"], ["h"], pads=[1] * 4),
            node("Relu", ["h"], ["r"]),
            node("Conv", ["r", "l"], ["g"], pads=[1] * 4, strides=[2, 2]),
            node("GlobalAveragePool", ["g"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ]
        return nodes, [weight("k", 32, 3, 3, 3), weight("l", 64, 32, 3, 3)], ["batch", 64]
    return [node("Relu", ["x"], ["y"])], [], ["batch", *SHAPES["image"][1:]]


def write(name: str, directory: Path) -> Path:
    """Write model and configuration; return the configuration's path."""
    nodes, weights, out = graph(name)
    shape = ["batch", *SHAPES[name][1:]]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    model = helper.make_model(
        helper.make_graph(nodes, name, ports[:1], ports[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, directory / f"{name}.onnx")
    config = {
        "name": name,
        "version": "1.0.0",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": f"{name}.onnx",
        "interface": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": shape}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": out}],
            "dimensions": {"batch": {"min": 1, "max": 64}},
        },
    }
    path = directory / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def served(config: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager.server", str(config), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        if not any('"event":"ready"' in line for line in process.stderr or ()):
            raise SystemExit("the server did not become ready")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def raw_client(port: int, name: str, item: InferInput) -> Ask:
    body, length = InferenceServerClient.generate_request_body([item])
    request = (
        f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {length}\r\n\r\n"
    ).encode() + body
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> bytes:
        connection.sendall(request)
        data = connection.recv(1 << 20)
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 20)
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(data[:500].decode(errors="replace"))
        missing = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]) - len(rest)
        while missing > 0:
            missing -= len(connection.recv(1 << 20))
        return head

    return ask


def ways(port: int, name: str, model: Path) -> dict[str, Ask]:
    x = RANDOM.standard_normal(SHAPES[name]).astype(np.float32)
    item = InferInput("x", SHAPES[name], "FP32").set_data_from_numpy(x)
    session = open_session(model, threads=1)
    client = InferenceServerClient(f"127.0.0.1:{port}")
    expected = session.run({"x": x})[0]
    if client.infer(name, [item]).as_numpy("y").tobytes() != expected.tobytes():
        raise SystemExit(f"{name}: the answer over HTTP differs from the one in this process")
    return {
        "run": lambda: session.run({"x": x}),
        "raw": raw_client(port, name, item),
        "triton": lambda: client.infer(name, [item]).as_numpy("y"),
    }


def timed(ask: Ask, count: int) -> list[float]:
    """Return the milliseconds of `count` calls, after a tenth as many that do not count."""
    times = []
    for index in range(count + count // 10):
        started = time.perf_counter()
        ask()
        if index >= count // 10:
            times.append((time.perf_counter() - started) * 1000)
    return times


def measure(name: str, directory: Path, requests: int, rounds: int) -> dict[str, list[float]]:
    config = write(name, directory)
    with served(config) as port:
        asks = ways(port, name, directory / f"{name}.onnx")
        results: dict[str, list[float]] = {way: [] for way in asks}
        for _ in range(rounds):
            for way, ask in asks.items():
                results[way] += timed(ask, requests)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=300, help="per way and round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    arguments = parser.parse_args()
    row = "{:6} {:>9} {:>9} | {:>9} {:>9} {:>9} | {:>9} {:>9} {:>9}"
    print(row.format("ms", "body KB", "run p50", "raw p50", "raw p99", "added", "triton", "p99", "added"))
    with tempfile.TemporaryDirectory() as directory:
        for name, shape in SHAPES.items():
            results = measure(name, Path(directory), arguments.requests, arguments.rounds)
            p50 = {way: statistics.median(times) for way, times in results.items()}
            p99 = {way: float(np.percentile(times, 99)) for way, times in results.items()}
            figures = (
                p50["run"],
                p50["raw"],
                p99["raw"],
                p50["raw"] - p50["run"],
                p50["triton"],
                p99["triton"],
                p50["triton"] - p50["run"],
            )
            kilobytes = f"{np.prod(shape) * 4 / 1000:.1f}"
            print(row.format(name, kilobytes, *(f"{figure:.3f}" for figure in figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
