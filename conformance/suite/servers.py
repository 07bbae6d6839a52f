# SPDX-License-Identifier: Apache-2.0
"""For adapters of servers: free ports, start, wait until ready, stop, and report how it ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from suite.kit import UnavailableError


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def get(port: int, path: str, seconds: float = 5.0) -> tuple[int, bytes]:
    """Return status and body of a GET, (0, b"") when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class Server:
    """A server process whose output goes to `log`. It stays in the adapter's process group and dies with it."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self.log, self._sink = log, log.open("ab")
        self.process = subprocess.Popen(
            command, env=environment, cwd=str(folder), stdin=subprocess.DEVNULL, stdout=self._sink, stderr=self._sink
        )

    def wait(self, port: int, path: str, seconds: float = 120.0) -> None:
        """Return when `path` answers 200. Raises RuntimeError with the end of the log when that never happens."""
        end = time.monotonic() + seconds
        while get(port, path)[0] != 200:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self.process.returncode}: {self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"the server is not ready after {seconds:.0f} s: {self.tail()}")
            time.sleep(0.05)

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_bytes()[-1500:].decode("utf-8", "replace").strip()

    def stop(self, seconds: float = 30.0) -> dict[str, Any]:
        """End the server; return how long that took, its exit code, and whether it had to be killed."""
        started = time.monotonic()
        graceful = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                graceful = False
                self.process.kill()
                self.process.wait()
        self._sink.close()
        return {"code": self.process.returncode, "seconds": time.monotonic() - started, "graceful": graceful}


def program(name: str, environment: dict[str, str]) -> str:
    """Return the path of a program beside this interpreter. Raises UnavailableError."""
    path = Path(environment["VIRTUAL_ENV"]) / "bin" / name
    if not path.is_file():
        raise UnavailableError(f"`{name}` is not installed in this environment")
    return str(path)


def environment(**more: str) -> dict[str, str]:
    """Return what a server gets to see: this process's few variables and `more`."""
    names = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "ORT_DISABLE_TELEMETRY")
    kept = {name: os.environ[name] for name in names if name in os.environ}  # noqa: TID251
    return {**kept, "VIRTUAL_ENV": sys.prefix, **more}
