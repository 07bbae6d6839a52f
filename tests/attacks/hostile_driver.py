# SPDX-License-Identifier: Apache-2.0
"""Send hostile requests to a server process, and watch its memory and its health meanwhile."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc

from tests.attacks import hostile_requests as hostile

MIB = 1 << 20
TIMEOUT = 300


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(config: Path, tree: Path) -> Iterator[tuple[int, int, int]]:
    """Run the server of a checkout; yield its two ports and its process id."""
    ports = free_port(), free_port()
    words = ["--port", str(ports[0]), "--grpc-port", str(ports[1]), "--read-timeout", "5", "--body-timeout", "5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "packager.server", str(config), *words], cwd=tree, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        if not any('"event":"ready"' in line for line in process.stderr):
            raise SystemExit("the server did not become ready")
        threading.Thread(target=drain, args=(process.stderr,), daemon=True).start()
        yield *ports, process.pid
    finally:
        process.terminate()
        process.wait(60)


def drain(stream: Any) -> None:
    for _ in stream:
        pass


def memory(pid: int, row: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{row}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024


def settle(pid: int) -> float:
    """Forget the peak so far; return the memory now, MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


def watch(port: int, line: Connection) -> None:
    """Request health until stopped; send back the seconds of every response."""
    seconds: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        line.send([])
        while not (seconds and line.poll(0.02)):
            began = time.perf_counter()
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n")
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                raise SystemExit("health was refused")
            seconds.append(time.perf_counter() - began)
    line.send(seconds)


@contextlib.contextmanager
def watched(port: int) -> Iterator[list[float]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=watch, args=(port, theirs))
    process.start()
    theirs.close()  # so that its end is noticed
    found: list[float] = ours.recv()
    try:
        yield found
    finally:
        ours.send(None)
        found += ours.recv() if ours.poll(TIMEOUT) else []
        process.join()


def send_http(port: int, raw: bytes, *, end: bool = False) -> str:
    """Return the status, or `closed`; `end` says at once that nothing follows."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(raw)
            if end:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            data = connection.recv(65536)
            return data[9:12].decode() if data.startswith(b"HTTP/1.1 ") else "closed"
    return "closed"


def send_grpc(call: Any, message: bytes) -> str:
    try:
        call(message, timeout=TIMEOUT)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def channel(port: int) -> Any:
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)


def infer(channel: Any) -> Any:
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


def attack(http: int, rpc: int, requests: list[tuple[str, str | bytes, int]], clients: int) -> Counter[str]:
    with channel(rpc) as line, ThreadPoolExecutor(clients) as pool:
        call = infer(line)

        def send(request: tuple[str, str | bytes, int]) -> str:
            way, what, size = request
            if way == "http":
                ready = isinstance(what, bytes)
                return send_http(http, what if ready else hostile.POSTS[what](size).wire(), end=ready)
            return send_grpc(call, what if isinstance(what, bytes) else hostile.MESSAGES[what](size))

        return Counter(pool.map(send, requests))


def alone(config: Path, tree: Path, way: str, name: str, size: int) -> dict[str, Any]:
    """Send one crafted request to a server of its own; return what it cost."""
    request: Any = (hostile.MESSAGES if way == "grpc" else hostile.POSTS)[name](size)
    raw = request if way == "grpc" else request.wire()
    with served(config, tree) as (http, rpc, pid), channel(rpc) as line:
        assert send_http(http, hostile.good_post().wire()) == "200"
        assert send_grpc(infer(line), hostile.good_message()) == "OK"
        before = settle(pid)
        with watched(http) as seconds:
            began = time.perf_counter()
            answer = send_http(http, raw) if way == "http" else send_grpc(infer(line), raw)
            spent = time.perf_counter() - began
        return {
            "answer": answer,
            "MiB": round(len(raw) / MIB, 1),
            "seconds": round(spent, 2),
            "memory, MiB": round(memory(pid, "VmHWM") - before, 1),
            "slowest health, ms": round(max(seconds) * 1000),
        }
