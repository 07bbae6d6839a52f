# SPDX-License-Identifier: Apache-2.0
"""A real `mlserver`: serve rendered directories as one repository on loopback, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.lock import environments
from tests.support.environments import CACHE
from tests.support.triton_servers import free_ports


@dataclass(frozen=True)
class Running:
    """Addresses of HTTP (with `http://`) and gRPC, and the log."""

    http: str
    grpc: str
    log: Path


def python(directory: Path) -> Path:
    """Return an interpreter with what the rendered directory installs, by its own versions."""
    lines = [
        row.rstrip(" \\") for row in (directory / "requirements.txt").read_text().splitlines() if row[:1] not in " #"
    ]
    return environments.ensure_environment(tuple(lines), "3.11", CACHE / "environments")


@contextmanager
def served(home: Path, *directories: Path) -> Iterator[Running]:
    """Serve directories, the first of which says what is installed. Raises AssertionError with the log's end."""
    executable = python(directories[0])
    repository = home / "repository"
    repository.mkdir(parents=True)
    for number, directory in enumerate(directories):
        (repository / str(number)).symlink_to(directory, target_is_directory=True)
    http, grpc, metrics = free_ports(3)
    settings = json.loads((directories[0] / "settings.json").read_text())
    settings |= {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (repository / "settings.json").write_text(json.dumps(settings))
    log = home / "mlserver.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [executable.parent / "mlserver", "start", repository],
            env={"PATH": f"{executable.parent}:/usr/bin:/bin", "HOME": str(home)},
            cwd=home,
            stdout=sink,
            stderr=sink,
        )
    names = [json.loads((directory / "model-settings.json").read_text())["name"] for directory in directories]
    try:
        for name in names:  # the server itself is ready before its models are
            _wait(f"http://127.0.0.1:{http}/v2/models/{name}/ready", process, log)
        yield Running(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])
