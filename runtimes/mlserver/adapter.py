# SPDX-License-Identifier: Apache-2.0
"""MLServer as an adapter of the suite: settings from the contract, one process, loopback only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from suite import contract, kit, servers
from suite.contract import Port


class Adapter(kit.Adapter):
    """One server process."""

    def __init__(self) -> None:
        self._server: servers.Server | None = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "mlserver"}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        here = Path.cwd()
        folder = here / "mlserver"
        folder.mkdir(exist_ok=True)
        http, grpc, metrics = servers.free_ports(3)
        self._write(folder, here / "report.json", message, (http, grpc, metrics))
        environment = servers.environment()
        command = [servers.program("mlserver", environment), "start", str(folder)]
        self._server = servers.Server(command, environment, folder, here / "server.log")
        self._server.wait(http, f"/v2/models/{message['name']}/ready")
        return {
            **json.loads((here / "report.json").read_text()),
            "version": json.loads(servers.get(http, "/v2")[1])["version"],
            "device": "cpu",
            "endpoints": {"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}", "binary": False},
        }

    def _write(self, folder: Path, report: Path, message: dict[str, Any], ports: tuple[int, int, int]) -> None:
        shutil.copy(Path(__file__).parent / "model.py", folder / "conform_model.py")
        promise = contract.read(Path(message["contract"]))
        settings = {
            "host": "127.0.0.1",
            "http_port": ports[0],
            "grpc_port": ports[1],
            "metrics_port": ports[2],
            "parallel_workers": 0,
            "metrics_dir": str(folder / "metrics"),
            "debug": False,
        }
        extra = {"model": message["model"], "contract": message["contract"], "report": str(report)}
        model = {
            "name": message["name"],
            "implementation": "conform_model.Model",
            "parameters": {"version": "1", "extra": extra},
            "inputs": [_port(port) for port in promise.inputs],
            "outputs": [_port(port) for port in promise.outputs],
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))

    def stop(self) -> dict[str, Any]:
        return self._server.stop() if self._server else {}


def _port(port: Port) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in port.shape]
    return {"name": port.name, "datatype": port.datatype, "shape": shape}


if __name__ == "__main__":
    kit.run(Adapter())
