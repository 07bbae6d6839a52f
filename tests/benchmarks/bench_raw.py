# SPDX-License-Identifier: Apache-2.0
"""What a raw request costs over its parts: `python -m tests.benchmarks.bench_raw [REQUESTS] [PIPELINES …]`.

One server and one client on this machine, in one run: rounds of three measurements in changing order. p50 in
milliseconds of a raw request (`POST /predict`, JSON, one row), of the same row through the pipeline in this process
without the graph, and of a request with the tensors that the pipeline makes (Open Inference Protocol, binary). The
overhead is the first less the two others.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.protocol.interface import Interface
from tests.support.raw_models import MODELS, Made
from tests.unit.pipelines.test_served import serving
from tests.unit.pipelines.test_ways import CASES

REQUESTS, WARM, ROUNDS = 200, 20, 4


def p50(work: Callable[[], object], count: int) -> float:
    """Return the median of some calls in milliseconds."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found) * 1000


def raw_request(port: int, row: Mapping[str, Any]) -> Callable[[], None]:
    """Return a call of `/predict` on a connection that stays open."""
    plain = {name: base64.b64encode(cell).decode() if isinstance(cell, bytes) else cell for name, cell in row.items()}
    body, connection = json.dumps({"rows": [plain]}), http.client.HTTPConnection("127.0.0.1", port)

    def ask() -> None:
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(data.decode())

    return ask


def tensor_request(port: int, feeds: Mapping[str, Any]) -> Callable[[], None]:
    """Return a call with the tensors of a row, their message written before: the protocol, binary both ways."""
    inputs = []
    for name, array in feeds.items():
        inputs.append(tritonclient.http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask() -> None:
        connection.request("POST", "/v2/models/model/infer", body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(data.decode())

    return ask


def in_process(pipeline: Pipeline, row: Mapping[str, Any], results: Mapping[str, Any]) -> Callable[[], None]:
    """Return a call that prepares a row and makes an answer of results, without the graph between."""

    def work() -> None:
        pipeline.answers(results, pipeline.prepare([row]))

    return work


def measure(name: str, folder: Path, count: int) -> list[float]:
    """Return the three medians of a pipeline, each the median of its rounds."""
    import onnxruntime

    made: Made = MODELS[name](folder)
    spec, rows = CASES[name]
    made.step(folder / "pipeline", spec if isinstance(spec, dict) else {"task": spec}, strings=20)
    row = rows[0]
    pipeline = open_pipeline(folder / "pipeline", Interface.from_json(made.interface))
    feeds = dict(pipeline.prepare([row]).feeds)
    session = onnxruntime.InferenceSession(made.graph / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    results = dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds), strict=True))
    with serving(made, folder / "pipeline") as client:
        port = int(client.address.rpartition(":")[2])
        calls = [raw_request(port, row), in_process(pipeline, row, results), tensor_request(port, feeds)]
        for call in calls:
            p50(call, WARM)
        found: list[list[float]] = [[], [], []]
        for turn in range(ROUNDS):
            for place in (0, 1, 2) if turn % 2 == 0 else (2, 1, 0):
                found[place].append(p50(calls[place], count // ROUNDS))
    return [statistics.median(values) for values in found]


def busiest(seconds: float = 2.0) -> str:
    """Return what else uses the processors for some seconds: names of programs with their shares of one core."""
    before = ticks()
    time.sleep(seconds)
    shares: Counter[str] = Counter()
    for (process, name), used in ticks().items():
        if process != os.getpid():
            shares[name] += used - before.get((process, name), used)
    per_second = os.sysconf("SC_CLK_TCK") * seconds / 100
    shown = [f"{name} {used / per_second:.0f} %" for name, used in shares.most_common(4) if used / per_second >= 5]
    return ", ".join(shown) or "nothing above 5 %"


def ticks() -> dict[tuple[int, str], int]:
    """Return the processor ticks of every process, by its number and name."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        number, _, name = head.partition(" (")
        fields = tail.split()
        found[int(number), name] = int(fields[11]) + int(fields[12])
    return found


def main() -> None:
    """Measure and print."""
    words = sys.argv[1:]
    count = int(words.pop(0)) if words and words[0].isdigit() else REQUESTS
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; besides: {busiest()}")
    print("p50 in ms          raw request   pipeline alone   tensor request   overhead")
    for name in words or CASES:
        with tempfile.TemporaryDirectory() as place:
            raw, alone, tensors = measure(name, Path(place), count)
        print(f"{name:18} {raw:11.2f} {alone:16.2f} {tensors:16.2f} {raw - alone - tensors:10.2f}", flush=True)
    print(f"load after: {os.getloadavg()[0]:.1f}; besides: {busiest()}")


if __name__ == "__main__":
    main()
