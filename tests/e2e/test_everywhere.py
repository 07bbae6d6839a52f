# SPDX-License-Identifier: Apache-2.0
"""One bundle, unchanged bytes, everywhere: the same question has the same answer, and the suite passes on each endpoint.

Our own server, a real Triton over HTTP and gRPC, a Bento, a container of podman and runc without a network, and a unit in a
bubblewrap root with systemd's hardening.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from packager.runtimes.triton.conform import deviations

from tests.e2e.conftest import Project
from tests.e2e.test_systemd import host
from tests.support import bentos_served, systemd_units
from tests.support.containers import Engine, inside
from tests.support.triton_servers import free_ports, tritonserver

pytestmark = pytest.mark.slow
__all__ = ["host"]  # a fixture
BUNDLE = "1.2.3.bundle.tar"
KNOWN = deviations("2.51.0")  # what that Triton does with malformed bodies, whatever the model
IMAGES = np.random.default_rng(11).random((5, 1, 8, 8), dtype=np.float32)

ASK = """
import json, sys, urllib.request
head, rows = json.loads(sys.argv[2]), bytes.fromhex(sys.stdin.read())
text = json.dumps(head).encode()
headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
request = urllib.request.Request(sys.argv[1] + "/v2/models/cnn/infer", text + rows, headers)
with urllib.request.urlopen(request, timeout=30) as answer:
    length = int(answer.headers["Inference-Header-Content-Length"])
    print(answer.read()[length:].hex())
"""


class Place:
    """A deployment: its addresses, and how a command of this host reaches them."""

    def __init__(
        self, http: str, grpc: str | None = None, reach: Callable[..., list[str]] = lambda *words: [*words]
    ) -> None:
        self.http, self.grpc, self.reach = http, grpc, reach

    def ask(self) -> np.ndarray:
        """Send the images in the binary form."""
        size = {"parameters": {"binary_data_size": IMAGES.nbytes}}
        head = {
            "inputs": [{"name": "image", "shape": list(IMAGES.shape), "datatype": "FP32", **size}],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
        command = self.reach(sys.executable, "-c", ASK, self.http, json.dumps(head))
        done = subprocess.run(command, input=IMAGES.tobytes().hex(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return np.frombuffer(bytes.fromhex(done.stdout), np.float32).reshape(len(IMAGES), -1)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def serving(project: Project, tmp_path: Path) -> Iterator[Place]:
    http, grpc = free_ports(2)
    project.run("install", BUNDLE, tmp_path / "site", "--key", "release.pub")
    command = [
        sys.executable,
        "-m",
        "packager",
        "serve",
        tmp_path / "site",
        "--port",
        str(http),
        "--grpc-port",
        str(grpc),
    ]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{http}"
        wait(url, process, tmp_path / "serve.log")
        yield Place(url, f"grpc://127.0.0.1:{grpc}")
    finally:
        process.terminate()
        process.wait(60)


def wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5)
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


@contextlib.contextmanager
def triton(project: Project, tmp_path: Path) -> Iterator[Place]:
    project.run("render", "triton", BUNDLE, tmp_path / "models", "--key", "release.pub", "--backend", "python")
    (tmp_path / "triton").mkdir()
    no_gpu = ("--pinned-memory-pool-byte-size", "0", "--allow-gpu-metrics", "false")  # else it warns that there is none
    with tritonserver(tmp_path / "models", tmp_path / "triton", "--load-model", "cnn", *no_gpu) as server:
        yield Place(f"http://{server.http}", f"grpc://{server.grpc}")
        rows = [row for row in server.log.read_text().splitlines() if re.match(r"[EW][0-9]{4} ", row)]
        assert not [row for row in rows if "CudaDriverHelper" not in row], "but for the driver that a CPU host lacks"


@contextlib.contextmanager
def bento(project: Project, tmp_path: Path) -> Iterator[Place]:
    project.run("render", "bentoml", BUNDLE, tmp_path / "bento", "--key", "release.pub")
    home = tmp_path / "home"
    home.mkdir()
    with bentos_served.served(tmp_path / "bento", "cnn:1.2.3", home) as (url, log):
        yield Place(url)
        assert not [row for row in log.read_text().splitlines() if "[ERROR]" in row or "Traceback" in row], (
            "so is BentoML's"
        )


@contextlib.contextmanager
def container(project: Project, tmp_path: Path, root: Path) -> Iterator[Place]:
    engine, tag = Engine(tmp_path), "localhost/packager-test-everywhere"
    base = engine.base(root)
    project.run("render", "container", BUNDLE, tmp_path / "image", "--key", "release.pub", "--base", base)
    try:
        engine.build(tmp_path / "image", tag)
        with engine.running(tag) as (name, pid):
            assert engine.healthy(name), engine.logs(name)
            yield Place("http://127.0.0.1:8000", reach=lambda *words: inside(pid, *words))
    finally:
        engine.remove(tag)


@contextlib.contextmanager
def unit(project: Project, tmp_path: Path, host) -> Iterator[Place]:
    root, folder, binds = host
    with systemd_units.service(folder, "cnn", root, binds, tmp_path, watchdog=30) as manager:
        assert "READY=1" in manager.notices(120, until="READY=1"), manager.log.read_text()
        yield Place(f"http://{manager.address}")


@pytest.mark.parametrize("kind", ["serve", "triton", "bentoml", "container", "systemd"])
def test_the_same_bundle_answers_the_same_everywhere(
    kind: str, deployable: Project, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = deployable.folder / BUNDLE
    before, identity = digest(bundle), deployable.run("inspect", BUNDLE, "--json")["digest"]
    places = {
        "serve": lambda: serving(deployable, tmp_path),
        "triton": lambda: triton(deployable, tmp_path),
        "bentoml": lambda: bento(deployable, tmp_path),
        "container": lambda: container(deployable, tmp_path, request.getfixturevalue("root_filesystem")),
        "systemd": lambda: unit(deployable, tmp_path, request.getfixturevalue("host")),
    }
    deployable.run("unpack", BUNDLE, tmp_path / "plain", "--key", "release.pub")
    expected = onnxruntime.InferenceSession(tmp_path / "plain" / "model" / "model.onnx").run(None, {"image": IMAGES})[0]
    with places[kind]() as place:
        got = place.ask()
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)
        endpoints = ["--endpoint", place.http, *(["--endpoint", place.grpc] if place.grpc else [])]
        # Not L5: how fast it is on a host that runs other tests is no law.
        done = deployable.run(
            "conform",
            BUNDLE,
            *endpoints,
            "--key",
            "release.pub",
            "--level",
            "L4",
            "--json",
            code=None,
            prefix=tuple(place.reach()),
        )
    checks = [check for cell in done["cells"] for check in cell["checks"]]
    counts = {word: sum(check["outcome"] == word for check in checks) for word in ("pass", "skip", "fail")}
    failed = {check["name"]: check for check in checks if check["outcome"] == "fail"}
    assert set(failed) <= set(KNOWN if kind == "triton" else ()), failed
    assert counts["pass"] > 25
    assert digest(bundle) == before
    assert deployable.run("verify", BUNDLE, "--key", "release.pub", "--json")["digest"] == identity
    with capsys.disabled():
        print(f"\n{kind}: largest difference {np.abs(got - expected).max():.2e}; {counts} {sorted(failed)}")
