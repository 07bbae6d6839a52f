# SPDX-License-Identifier: Apache-2.0
"""A server in a control group: it knows what it may have, and what rendered deployments give it is enough."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from onnx import helper

from packager.server.config import read as config_of
from packager.server.process import host_limits
from tests.e2e.test_server import Server, app, command, end, free_port, head, models, receive, value, write  # noqa: F401
from tests.unit.server.test_host_limits import group

MIB = 2**20


class Inside:
    """A server that is started in control groups."""

    def __init__(self, app: Path, config: Path, groups: list[Path], *options: str) -> None:  # noqa: F811
        self.port = free_port()
        joined = "".join(f"echo $$ > {place}/cgroup.procs; " for place in groups)
        words = ["sh", "-c", f'{joined}exec "$@"', "sh", *command(app, config, self.port, *options)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        self.server = Server(self.process, self.port)
        self.reader = threading.Thread(target=lambda: self.server.lines.extend(self.process.stderr or ()))

    def __enter__(self) -> Server:
        self.reader.start()
        self.server.wait_for("ready", 60)
        return self.server

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.reader.join()
        self.process.stderr.close()  # type: ignore[union-attr]


def test_a_quota_decides_how_many_runs_there_are_at_once(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    quota = {"cpu.max": "100000 100000", "cpu.cfs_quota_us": "100000"}
    with group("cpu", quota) as place, Inside(app, models["mlp"], [place]) as server:
        logged = server.events("starting")[0]
        assert (logged["cpus"], logged["workers"]) == (1.0, 1)
    with Inside(app, models["mlp"], []) as server:
        cores = len(os.sched_getaffinity(0))
        assert server.events("starting")[0]["workers"] == host_limits.read_allowance().whole_cpus <= cores


def test_insufficient_memory_is_logged_at_the_start(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    with group("memory", {"memory.max": str(400 * MIB), "memory.limit_in_bytes": str(400 * MIB)}) as place:
        with Inside(app, models["mlp"], [place]) as server:
            assert server.events("starting")[0]["memory"] == 400 * MIB
            (logged,) = server.events("memory may not suffice")
            assert logged["limit"] == 400 * MIB < logged["needed"] < 513 * MIB
        with Inside(app, models["mlp"], [place], "--max-body", str(8 * MIB)) as server:
            assert not server.events("memory may not suffice")


@pytest.mark.slow  # fills the memory of a deployment
def test_deployment_memory_suffices_for_all_clients(app: Path, tmp_path: Path) -> None:  # noqa: F811
    """Bodies as large as they may be, more of them at once than may be held, in the memory that is given."""
    most = 16 * MIB
    ports = [value(name, "float32", ["batch", 1024]) for name in ("x", "y")]
    config = write(tmp_path / "wide", [helper.make_node("Relu", ["x"], ["y"])], ports[:1], ports[1:])
    document = json.loads(config.read_text())
    document["interface"]["dimensions"] = {"batch": {"min": 1}}
    config.write_text(json.dumps(document))
    given = host_limits.memory_needed(MIB, 1, 0, most, config_of(config).interface.traffic())
    rows = (most - 4096) // 4096
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 1024], "parameters": {"binary_data_size": rows * 4096}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = text + bytes(rows * 4096)
    header = head("POST", "/v2/models/wide/infer", content_length=len(body), inference_header_content_length=len(text))
    statuses: list[int] = []

    def send_one(server: Server) -> None:
        for _ in range(6):
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", server.port), timeout=60) as place:
                place.sendall(header + body)
                statuses.append(receive(place)[0])

    limit = {"memory.max": str(given), "memory.limit_in_bytes": str(given)}
    with group("memory", limit) as place, Inside(app, config, [place], "--max-body", str(most)) as server:
        clients = [threading.Thread(target=send_one, args=(server,)) for _ in range(10)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert server.process.poll() is None, server.lines[-5:]
        assert not server.events("memory may not suffice")
        assert statuses.count(200) > 5, statuses
        events = place / "memory.events"
        assert not events.exists() or "oom_kill 0" in events.read_text()
