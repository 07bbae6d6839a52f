# SPDX-License-Identifier: Apache-2.0
"""Our own server as an adapter of the suite; runs in the installation's environment.

`options.command` is the command line of the server, without address; `options.knobs` the document of knobs that it is
started with when the suite sets some.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from suite import kit, servers


class Adapter(kit.Adapter):
    """One server process."""

    def __init__(self) -> None:
        self._server: servers.Server | None = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "serve"}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        port, rpc = servers.free_ports(2)
        command = [*message["options"]["command"], "--host", "127.0.0.1", "--port", str(port)]
        endpoints = {"http": f"http://127.0.0.1:{port}"}
        if importlib.util.find_spec("grpc"):  # locks of older bundles do not hold it
            command += ["--grpc-port", str(rpc)]
            endpoints["grpc"] = f"127.0.0.1:{rpc}"
        if message.get("knobs"):
            command.append(f"--knobs={json.dumps(message['options']['knobs'])}")
        here = Path.cwd()
        (here / "server.log").unlink(missing_ok=True)  # that of the run before would answer for this one
        self._server = servers.Server(command, servers.environment(), here, here / "server.log")
        self._server.wait(port, "/v2/health/ready")
        ready = _event(self._server.log, "ready")
        return {
            "pid": self._server.process.pid,
            "version": json.loads(servers.get(port, "/v2")[1])["version"],
            "engine": f"onnxruntime {ready['runtime_version']}",
            "provider": ready["provider"],
            "device": "cpu" if ready["provider"] == "CPUExecutionProvider" else ready["provider"],
            "endpoints": endpoints,
            "knobs": _used(port, message.get("knobs", {})),
        }

    def stop(self) -> dict[str, Any]:
        return self._server.stop() if self._server else {}


def _used(port: int, knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the server's values of the knobs that were set."""
    if not knobs:
        return {}
    values = json.loads(servers.get(port, "/v2/knobs")[1])["values"]
    return {name: values.get(name) for name in knobs}


def _event(log: Path, name: str) -> dict[str, Any]:
    """Return the first event of that name in the server's log."""
    rows = (json.loads(row) for row in log.read_text("utf-8").splitlines() if row.startswith("{"))
    return next(row for row in rows if row.get("event") == name)


if __name__ == "__main__":
    kit.run(Adapter())
