# SPDX-License-Identifier: Apache-2.0
"""A real `bentoml`: build a rendered directory, serve the Bento on loopback, in an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packager.lock import environments
from tests.support.environments import CACHE
from tests.support.triton_servers import free_ports

TOOLS = ("bentoml==1.4.39", "onnx==1.20.1", "uv==0.13.8")  # onnx for `bentoml.onnx`, uv for `bentoml build`


def python(directory: Path) -> Path:
    """Return an interpreter with what the rendered directory asks for."""
    lines = [
        row.rstrip(" \\") for row in (directory / "requirements.txt").read_text().splitlines() if row[:1] not in " #"
    ]
    return environments.ensure_environment(
        (*(line for line in lines if not line.startswith("bentoml")), *TOOLS), "3.11", CACHE / "environments"
    )


def environment(executable: Path, home: Path) -> dict[str, str]:
    """Return the variables of a process that uses it, with a store of its own."""
    return {
        "PATH": f"{executable.parent}:/usr/bin:/bin",
        "HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }


@contextmanager
def served(directory: Path, tag: str, home: Path) -> Iterator[tuple[str, Path]]:
    """Build the Bento, serve it, and yield its address and the log."""
    executable = python(directory)
    variables = environment(executable, home)
    version = tag.partition(":")[2]
    command = [executable.parent / "bentoml", "build", "--version", version]
    done = subprocess.run(command, cwd=directory, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (port,) = free_ports(1)
    log = home / "bentoml.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [executable.parent / "bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)],
            env=variables,
            cwd=home,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError(log.read_text()[-3000:])
        yield f"http://127.0.0.1:{port}", log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
