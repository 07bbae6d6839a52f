# SPDX-License-Identifier: Apache-2.0
"""Helpers of the demos: print a command, run it, and serve while a block runs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Walk:
    """A sequence of commands in one folder with its own store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **QUIET, **ONE_THREAD, "PACKAGER_STORE": str(folder / "store")}
        self.environment.pop("MLFLOW_TRACKING_URI", None)
        self.started = time.monotonic()

    def step(self, title: str) -> None:
        """Print the title of a step and the seconds since the start."""
        print(f"\n[{time.monotonic() - self.started:5.1f} s] {title}", flush=True)

    def program(self, file: Path, *arguments: str | Path) -> dict[str, Any]:
        """Run a Python program, show its progress, and return the JSON document in its last line."""
        command = [sys.executable, str(file), *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"demo: {file.name} ended with exit code {done.returncode}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def packager(self, *arguments: str) -> dict[str, Any]:
        """Run `packager`, show the command, and return its JSON document."""
        print(f"    $ packager {shlex.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "packager", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"demo: the command above ended with exit code {done.returncode}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def proved(self, text: str) -> None:
        """Say what the last command proved."""
        print(f"    {text}", flush=True)

    @contextmanager
    def serving(self, directory: str) -> Iterator[str]:
        """Serve an installation on a free port; yield its address; stop it by its process id."""
        port = free_port()
        print(f"    $ packager serve {directory} --port {port} &", flush=True)
        command = [sys.executable, "-m", "packager", "serve", directory, "--port", str(port)]
        server = subprocess.Popen(command, cwd=self.folder, env=self.environment)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/v2/health/ready", server)
            yield f"127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)
            self.proved(f"server drained and ended with exit code {server.wait(30)}")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return once `url` answers 200; end the program if the server dies or takes a minute."""
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"demo: the server ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit("demo: the server was not ready within a minute")
