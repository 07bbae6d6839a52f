# SPDX-License-Identifier: Apache-2.0
"""`tritonserver` as an adapter of the suite: a model repository from the contract, explicit loading, loopback only."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from suite import contract, kit, servers
from suite.contract import Contract, Port

_TYPES = {"BOOL": "TYPE_BOOL", "BYTES": "TYPE_STRING"}
_SERVER = Path("pytriton") / "tritonserver"


class Adapter(kit.Adapter):
    """One server with one model, which can be unloaded and loaded."""

    def __init__(self) -> None:
        self._server: servers.Server | None = None
        self._packages = Path(sysconfig.get_path("platlib"))
        self._prefix = "conform-none"

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "triton"}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        here = Path.cwd()
        name = message["name"]
        promise = contract.read(_lowered(here, message))
        self._write(here, name, promise, message)
        http, grpc = servers.free_ports(2)
        self._prefix = f"conform-{http}-"
        self._server = servers.Server(
            self._command(here, name, http, grpc), self._environment(), here, here / "server.log"
        )
        self._server.wait(http, "/v2/health/ready")
        report = json.loads((here / "report.json").read_text())
        return {
            **report,
            "pid": self._server.process.pid,
            "version": json.loads(servers.get(http, "/v2")[1])["version"],
            "device": "cpu",
            "endpoints": {"http": f"http://127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"},
            "repository": True,
            "batching": _batched(promise),
            "knobs": _used(http, name, report, message.get("knobs", {})),
        }

    def _write(self, here: Path, name: str, promise: Contract, message: dict[str, Any]) -> None:
        """Write the model repository and the backend directory, both from nothing."""
        repository, backend = here / "repository", here / "backends" / "python"
        for folder in (repository, backend.parent):
            shutil.rmtree(folder, ignore_errors=True)
        (repository / name / "1").mkdir(parents=True)
        model = message["options"].get("model") or str(Path(__file__).parent / "model.py")
        shutil.copy(model, repository / name / "1" / "model.py")
        (repository / name / "config.pbtxt").write_text(config(name, promise, message, here / "report.json"))
        backend.mkdir(parents=True)
        origin, python = self._packages / _SERVER, f"{sys.version_info[0]}.{sys.version_info[1]}"
        for file in (
            "backends/python/libtriton_python.so",
            "backends/python/triton_python_backend_utils.py",
            f"python_backend_stubs/{python}/triton_python_backend_stub",
        ):
            shutil.copy(origin / file, backend)

    def _command(self, here: Path, name: str, http: int, grpc: int) -> list[str]:
        return [
            str(self._packages / _SERVER / "bin" / "tritonserver"),
            "--model-repository",
            str(here / "repository"),
            "--backend-directory",
            str(here / "backends"),
            "--http-address",
            "127.0.0.1",
            "--http-port",
            str(http),
            "--grpc-address",
            "127.0.0.1",
            "--grpc-port",
            str(grpc),
            "--allow-metrics",
            "false",
            "--model-control-mode",
            "explicit",
            "--load-model",
            name,
            "--disable-auto-complete-config",
            "--backend-config",
            f"python,shm-region-prefix-name={self._prefix}",
            "--strict-readiness",
            "true",
            "--exit-timeout-secs",
            "20",
        ]

    def _environment(self) -> dict[str, str]:
        """Return exactly what the stub's interpreter needs to find itself, its packages and its libraries."""
        base = Path(sys.base_prefix)
        libraries = f"{self._packages / 'nvidia_pytriton.libs'}:{base / 'lib'}"
        # The stub finds its packages through the first `python3` on PATH and reads no other variable.
        path = f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"
        return servers.environment(PATH=path, LD_LIBRARY_PATH=libraries)

    def stop(self) -> dict[str, Any]:
        report = self._server.stop() if self._server else {}
        for left in Path("/dev/shm").glob(f"{self._prefix}*"):  # noqa: S108 - Triton's own choice
            left.unlink(missing_ok=True)
        return report


def _lowered(here: Path, message: dict[str, Any]) -> Path:
    """Return the contract to hold requests against: with fewer rows if the knob `batch.max` is lower."""
    path, most = Path(message["contract"]), message.get("knobs", {}).get("batch.max")
    if most is None:
        return path
    document, batch = json.loads(path.read_bytes()), contract.read(path).batch
    document["interface"]["dimensions"][batch]["max"] = most
    lowered = here / "lowered-contract.json"
    lowered.write_text(json.dumps(document))
    return lowered


def _batched(promise: Contract) -> bool:
    """Triton adds the batch dimension itself, which takes ports that have another one beside it."""
    ports = (*promise.inputs, *promise.outputs)
    return promise.batch is not None and all(len(port.shape) > 1 for port in ports)


def _used(http: int, name: str, report: dict[str, Any], knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs that were set, as read back from the server's configuration and the session."""
    if not knobs:
        return {}
    found = json.loads(servers.get(http, f"/v2/models/{name}/config")[1])
    batching = found.get("dynamic_batching") or {}
    used = {
        "batch.max": found.get("max_batch_size") or report["rows"],
        "triton.instances": sum(int(group["count"]) for group in found["instance_group"]),
        "triton.queue_delay": int(batching.get("max_queue_delay_microseconds", 0)),
        "triton.max_queue": int((batching.get("default_queue_policy") or {}).get("max_queue_size", 0)),
        "triton.threads": report["threads"],
        "runtime.threads": report["threads"],
    }
    return {name: used[name] for name in knobs}


def config(name: str, promise: Contract, message: dict[str, Any], report: Path) -> str:
    """Return config.pbtxt for the contract."""
    batched, knobs = _batched(promise), message.get("knobs", {})
    most = promise.dimensions[promise.batch][1] if batched and promise.batch else 0
    rows = [f"name: {json.dumps(name)}", 'backend: "python"', f"max_batch_size: {most}"]
    for role, ports in (("input", promise.inputs), ("output", promise.outputs)):
        rows += [f"{role} {{ {_port(port, batched)} }}" for port in ports]
    rows.append(f"instance_group {{ kind: KIND_CPU count: {knobs.get('triton.instances', 1)} }}")
    if batched:
        delay, queue = knobs.get("triton.queue_delay", 500), knobs.get("triton.max_queue", 0)
        policy = f"default_queue_policy {{ max_queue_size: {queue} }}"
        rows.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay} {policy} }}")
    threads = knobs.get("triton.threads", knobs.get("runtime.threads", message.get("threads", 1)))
    values = {
        "model": message["model"],
        "contract": str(_lowered(report.parent, message)),
        "threads": str(threads),
        "suite": str(Path(kit.__file__).parent.parent),
        "report": str(report),
    }
    rows += [
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        for key, value in values.items()
    ]
    return "\n".join(rows) + "\n"


def _port(port: Port, batched: bool) -> str:
    sizes = [size if isinstance(size, int) else -1 for size in port.shape[1 if batched else 0 :]]
    kind = _TYPES.get(port.datatype, f"TYPE_{port.datatype}")
    return f"name: {json.dumps(port.name)} data_type: {kind} dims: {sizes}"


if __name__ == "__main__":
    kit.run(Adapter())
