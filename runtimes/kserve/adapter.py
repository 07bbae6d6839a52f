# SPDX-License-Identifier: Apache-2.0
"""KServe's model server as an adapter of the suite: one process, loopback only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from suite import kit, servers


class Adapter(kit.Adapter):
    """One server process."""

    def __init__(self) -> None:
        self._server: servers.Server | None = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "kserve"}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        here = Path.cwd()
        http, grpc = servers.free_ports(2)
        # `kserve` is also the name of the folder this file lies in: the program must not find that one first
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).parent / "model.py"),
            message["name"],
            message["model"],
            message["contract"],
            str(here / "report.json"),
            str(http),
            str(grpc),
        ]
        self._server = servers.Server(command, servers.environment(), here, here / "server.log")
        self._server.wait(http, f"/v2/models/{message['name']}/ready")
        return {
            **json.loads((here / "report.json").read_text()),
            "version": json.loads(servers.get(http, "/v2")[1])["version"],
            "device": "cpu",
            "endpoints": {"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"},
        }

    def stop(self) -> dict[str, Any]:
        return self._server.stop() if self._server else {}


if __name__ == "__main__":
    kit.run(Adapter())
