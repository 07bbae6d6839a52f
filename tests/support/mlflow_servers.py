# SPDX-License-Identifier: Apache-2.0
"""A real `mlflow server` for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A tracking server that is starting up; `address` waits until it answers."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        for _ in range(1200):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5),
            ):
                return f"http://127.0.0.1:{self.port}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.25)
        raise TimeoutError(self.log.read_text())


@contextlib.contextmanager
def mlflow_server(home: Path, **variables: str) -> Iterator[Server]:
    """Start a server that keeps its artifacts itself, and end it; it needs many seconds until it answers."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{home}/server.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("wb") as log:
        environment = os.environ | quiet | variables
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        yield Server(process, port, home / "log")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
