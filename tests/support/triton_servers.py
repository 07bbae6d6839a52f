# SPDX-License-Identifier: Apache-2.0
"""A real `tritonserver` from NVIDIA's wheels, in a separate environment, on loopback."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packager.lock import environments
from tests.support.environments import CACHE

REQUIREMENTS = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.23.2")
RAW = ("orjson", "pillow", "tokenizers")
"""What a pipeline runs on besides, in the versions of this environment."""
PYTHON = "3.11"
FILES = (
    "backends/python/libtriton_python.so",
    "backends/python/triton_python_backend_utils.py",
    f"python_backend_stubs/{PYTHON}/triton_python_backend_stub",
)


@dataclass
class Server:
    """Where it listens, and what it wrote."""

    http: str
    grpc: str
    metrics: str
    log: Path


@contextmanager
def tritonserver(repository: Path | str, work: Path, *options: str, raw: bool = False, **more: str) -> Iterator[Server]:
    """Run a server on `repository`, with `more` in its environment and explicit model control, until the block ends.

    With `raw` its Python has the libraries of pipelines as well.
    """
    needed = (*REQUIREMENTS, *(f"{name}=={version(name)}" for name in RAW)) if raw else REQUIREMENTS
    python = environments.ensure_environment(needed, PYTHON, CACHE / "environments")
    packages = python.parent.parent / "lib" / f"python{PYTHON}" / "site-packages"
    backend = work / "backends" / "python"
    backend.mkdir(parents=True)
    for name in FILES:
        shutil.copy(packages / "pytriton" / "tritonserver" / name, backend)
    base = subprocess.run(
        [python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    )
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{Path(base.stdout.strip()) / 'lib'}"
    ports = free_ports(3)
    prefix = f"packager-{ports[0]}-"
    command = [
        packages / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        "--model-repository",
        repository,
        "--backend-directory",
        work / "backends",
        "--http-address",
        "127.0.0.1",
        "--http-port",
        str(ports[0]),
        "--grpc-address",
        "127.0.0.1",
        "--grpc-port",
        str(ports[1]),
        "--metrics-address",
        "127.0.0.1",
        "--metrics-port",
        str(ports[2]),
        "--model-control-mode",
        "explicit",
        "--disable-auto-complete-config",
        "--backend-config",
        f"python,shm-region-prefix-name={prefix}",
        "--exit-timeout-secs",
        "20",
        *options,
    ]
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(work), "LD_LIBRARY_PATH": libraries, **more}
    log = work / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(list(map(str, command)), env=environment, cwd=work, stdout=sink, stderr=sink)
    try:
        _wait(process, f"http://127.0.0.1:{ports[0]}/v2/health/live", log)
        yield Server(*(f"127.0.0.1:{port}" for port in ports), log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in Path("/dev/shm").glob(f"{prefix}*"):
            left.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that are free."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    numbers = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return numbers


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])
