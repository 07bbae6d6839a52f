# SPDX-License-Identifier: Apache-2.0
"""BentoML as an adapter of the suite: `bentoml serve`, one worker, loopback only; the adapter speaks its HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path
from typing import Any

from suite import contract, kit, servers, wire


class Adapter(kit.Adapter):
    """One service."""

    def __init__(self) -> None:
        self._server: servers.Server | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._port = 0

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "bentoml"}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        folder = Path.cwd() / "service"
        folder.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parent / "service.py", folder / "conform_service.py")
        settings = {key: message[key] for key in ("model", "contract")}
        (folder / "conform.json").write_text(json.dumps(settings))
        (self._port,) = servers.free_ports(1)
        environment = servers.environment(BENTOML_HOME=str(folder / "home"), BENTOML_DO_NOT_TRACK="True")
        command = [
            servers.program("bentoml", environment),
            "serve",
            "conform_service:Conform",
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
        ]
        self._server = servers.Server(command, environment, folder, folder / "server.log")
        self._server.wait(self._port, "/readyz", 180)
        self._contract = contract.read(Path(message["contract"]))
        return {**self._ask("/about", {}), "device": "cpu", "remote": True}

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the interface that the service enforces; BentoML itself describes only JSON."""
        ports = {"inputs": self._contract.inputs, "outputs": self._contract.outputs}
        return {
            role: [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in found]
            for role, found in ports.items()
        }

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return wire.unpack_all(self._ask("/infer", {"inputs": wire.pack_all(feeds)}))

    def _ask(self, path: str, document: dict[str, Any]) -> Any:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        self._connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        body = answer.read()
        if 400 <= answer.status < 500:
            raise kit.BadRequestError(body.decode("utf-8", "replace")[:500])
        if answer.status != 200:
            raise kit.BrokenRuntimeError(f"HTTP {answer.status}: {body[:300]!r}")
        return json.loads(body)

    def stop(self) -> dict[str, Any]:
        return self._server.stop() if self._server else {}


if __name__ == "__main__":
    kit.run(Adapter())
