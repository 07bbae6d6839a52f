# SPDX-License-Identifier: Apache-2.0
"""Triton's own clients against our server, unchanged: configuration, statistics, and load.

NVIDIA's example programs and `perf_analyzer` are not ours to copy. Where they are (`PACKAGER_TRITON_EXAMPLES`: the folder
`src/python/examples` of triton-inference-server/client; `PACKAGER_PERF_ANALYZER`: the program), they are run as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as rpc
import tritonclient.http as http
from onnx import helper
from tritonclient.utils import InferenceServerException

from tests.e2e.test_server import app, free_port, running, value, write  # noqa: F401 - `app` is a fixture

EXAMPLES = {  # of NVIDIA, by the model they use: sum and difference of two rows of 16 integers
    "http": ("simple_http_infer_client", "simple_http_async_infer_client", "simple_http_aio_infer_client"),
    "grpc": (
        "simple_grpc_infer_client",
        "simple_grpc_async_infer_client",
        "simple_grpc_aio_infer_client",
        "simple_grpc_keepalive_client",
        "simple_grpc_custom_args_client",
        "grpc_explicit_int_content_client",
    ),
}


@pytest.fixture(scope="module")
def simple(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:  # noqa: F811
    """NVIDIA's model `simple`, served; addresses by protocol."""
    ports = [[value(f"{kind}{n}", "int32", ["batch", 16]) for n in (0, 1)] for kind in ("INPUT", "OUTPUT")]
    nodes = [helper.make_node(op, ["INPUT0", "INPUT1"], [f"OUTPUT{n}"]) for n, op in enumerate(("Add", "Sub"))]
    config = write(tmp_path_factory.mktemp("triton") / "simple", nodes, *ports, limit=8)
    port = free_port()
    with running(app, config, "--grpc-port", str(port)) as server:
        yield {"http": f"127.0.0.1:{server.port}", "grpc": f"127.0.0.1:{port}"}


def infer_sum(module: Any, client: Any, seed: int) -> None:
    """Send one request of binary tensors; the answer must be exact."""
    random = np.random.default_rng(seed)
    feeds = [random.integers(-99, 99, (1 + seed % 4, 16), dtype=np.int32) for _ in range(2)]
    items = [module.InferInput(f"INPUT{n}", list(array.shape), "INT32") for n, array in enumerate(feeds)]
    for item, array in zip(items, feeds, strict=True):
        item.set_data_from_numpy(array)
    answer = client.infer("simple", items)
    assert (answer.as_numpy("OUTPUT0") == feeds[0] + feeds[1]).all()
    assert (answer.as_numpy("OUTPUT1") == feeds[0] - feeds[1]).all()


def test_configuration_and_statistics_agree_over_both_protocols(simple: dict[str, str]) -> None:
    web, remote = http.InferenceServerClient(simple["http"]), rpc.InferenceServerClient(simple["grpc"])
    over_http, config = web.get_model_config("simple"), remote.get_model_config("simple").config
    assert (over_http["max_batch_size"], config.max_batch_size) == (8, 8)
    for member in ("input", "output"):
        found = [(port.name, list(port.dims)) for port in getattr(config, member)]
        assert found == [(port["name"], port["dims"]) for port in over_http[member]]
        assert {port["data_type"] for port in over_http[member]} == {"TYPE_INT32"}
        assert {port.data_type for port in getattr(config, member)} == {8}, "TYPE_INT32 of model_config.proto"

    def counted(client: Any) -> tuple[int, int, int]:
        found = client.get_inference_statistics("simple")
        one = found["model_stats"][0] if isinstance(found, dict) else found.model_stats[0]
        if isinstance(one, dict):
            return one["inference_count"], one["execution_count"], one["inference_stats"]["success"]["count"]
        return one.inference_count, one.execution_count, one.inference_stats.success.count

    rows, runs, requests = counted(web)
    infer_sum(http, web, 2)
    infer_sum(rpc, remote, 3)
    assert counted(web) == counted(remote) == (rows + 7, runs + 2, requests + 2)
    for client in (web, remote):
        with pytest.raises(InferenceServerException, match="Request for unknown model `other`"):
            client.get_inference_statistics("other")
        with pytest.raises(InferenceServerException, match="unknown version `9`"):
            client.get_model_config("simple", "9")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("http", http), ("grpc", rpc)])
def test_load_as_perf_analyzer_makes_it(simple: dict[str, str], name: str, module: Any, capsys: Any) -> None:
    """Clients in a closed loop, each its own connection: every answer exact, throughput printed by concurrency."""
    for clients in (1, 4, 16):
        counts, end = [0] * clients, time.monotonic() + 2
        problems: list[BaseException] = []

        def loop(number: int, counts: list[int] = counts, end: float = end) -> None:
            client = module.InferenceServerClient(simple[name])
            try:
                while time.monotonic() < end:
                    infer_sum(module, client, number * 1000 + counts[number])
                    counts[number] += 1
            except Exception as error:  # what a client meets is the finding
                problems.append(error)  # noqa: B023
            finally:
                client.close()

        threads = [threading.Thread(target=loop, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not problems and all(counts), problems
        with capsys.disabled():
            print(f"\n{name}: {clients} clients, {sum(counts) / 2:.0f} requests/s")


def given(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"${variable} is not set")
    return Path(os.environ[variable])


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "program"), [(p, name) for p, names in EXAMPLES.items() for name in names])
def test_the_examples_of_nvidia(simple: dict[str, str], protocol: str, program: str) -> None:
    folder = given("PACKAGER_TRITON_EXAMPLES")
    command = [sys.executable, str(folder / f"{program}.py"), "-u", simple[protocol]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_of_nvidia(simple: dict[str, str], protocol: str, capsys: Any) -> None:
    command = [
        str(given("PACKAGER_PERF_ANALYZER")),
        "-m",
        "simple",
        "-u",
        simple[protocol],
        "-i",
        protocol,
        "--concurrency-range",
        "1:4:3",
        "-p",
        "1000",
        "-s",
        "999",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0 and "Concurrency: 4, throughput:" in done.stdout, done.stdout + done.stderr
    with capsys.disabled():
        print("\n" + "\n".join(row for row in done.stdout.splitlines() if row.startswith("Concurrency")))
