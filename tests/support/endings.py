# SPDX-License-Identifier: Apache-2.0
"""Servers behind a service, under load, while one of them ends as clusters and balancers make servers end.

A `Service` is what kube-proxy is to a cluster: connections go to one of the endpoints that it knows at that moment,
and stays there. Clients over HTTP choose an endpoint for each connection, those over gRPC reach one through a forwarder
of bytes. None retries a request that has left: one that is not answered with 200 and the runtime's own bytes is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conformance"))

from suite import protobuf

MAIN = """
import json, sys
from packager.server.process.supervisor import Plan, Supervisor
processes, port, grpc_port, drain, *words = sys.argv[1:]
plan = Plan(tuple(words), "r1", int(processes), "127.0.0.1", int(port), int(grpc_port), float(drain), {})
say = lambda name, level=20, **fields: print(json.dumps({"event": name, **fields}), file=sys.stderr, flush=True)
sys.exit(Supervisor(lambda: plan, lambda: None, say).run())
"""
PATIENCE = 30.0
# Retries stay as grpc has them: without a policy in the channel only a call that no server has seen is sent again, which
# happens inside the client when GOAWAY has come between choosing a connection and writing to it (ADR 254).
CHANNEL = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(eq=False)
class Pod:
    """A server: `processes` below a supervisor, or one without any where that is 0, as in a container."""

    app: Path
    config: Path
    processes: int
    options: tuple[str, ...] = ()
    drain: float = 30.0
    port: int = 0
    grpc_port: int = 0
    lines: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[Pod]:
        self.port, self.grpc_port = free_port(), free_port()
        places = ("--port", str(self.port), "--grpc-port", str(self.grpc_port), "--drain", str(self.drain))
        words = [sys.executable, "-I", str(self.app), str(self.config), *places, *self.options]
        if self.processes:
            numbers = map(str, (self.processes, self.port, self.grpc_port, self.drain))
            words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(self.app)!r}){MAIN}", *numbers, *words]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()))
        reader.start()
        try:
            self.until(lambda: len(self.events("ready")) >= max(1, self.processes))
            yield self
        finally:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            reader.join()
            self.process.stderr.close()  # type: ignore[union-attr]

    def events(self, name: str) -> list[dict]:
        return [line for line in map(json.loads, list(self.lines)) if line["event"] == name]

    def until(self, what: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.lines[-20:]
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Send a probe on a separate connection. Raises OSError if it ends without an answer, as a killed process does."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: probe\r\n\r\n")
            answer = connection.recv(4096)
        if not answer:
            raise ConnectionResetError("the connection ended without an answer")
        return answer.startswith(b"HTTP/1.1 200")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process started, by what Linux lists of its threads; none once it has ended."""
    listed = (file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for text in listed for child in text.split()]


@dataclass
class Service:
    """Endpoints that can be taken away, and a forwarder of bytes to one of them for each connection."""

    pods: list[Pod]
    port: int = 0

    def endpoint(self) -> Pod:
        return random.choice(self.pods)

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Forward connections to the gRPC ports of the endpoints."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._forward, "127.0.0.1", 0), loop).result()
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(_cancelled(server), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self.endpoint().grpc_port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
    finally:
        with contextlib.suppress(OSError):
            writer.close()


async def _cancelled(server: asyncio.Server) -> None:
    """Close what is left of the connections that were forwarded."""
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Lost(Exception):
    """A request that was not answered as it should have been."""


@dataclass
class Load:
    """Clients of one model that send requests until they are stopped; `kinds`: how many of each."""

    service: Service
    model: str
    x: np.ndarray
    expected: bytes
    kinds: dict[str, int]
    options: list[tuple[str, int]] = field(default_factory=lambda: CHANNEL)
    answered: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        header = json.dumps(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": list(self.x.shape),
                        "parameters": {"binary_data_size": self.x.nbytes},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        size = len(header) + self.x.nbytes
        self._question = (
            f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nHost: service\r\nContent-Length: {size}\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\n\r\n".encode()
            + header
            + self.x.tobytes()
        )
        port = protobuf.block(1, "x") + protobuf.block(2, "FP32") + protobuf.packed(3, self.x.shape)
        self._message = protobuf.block(1, self.model) + protobuf.block(5, port) + protobuf.block(7, self.x.tobytes())

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        ways = {
            "http, kept": self._kept,
            "http, kept, with pauses": self._paused,
            "http, new": self._new,
            "grpc, kept": self._channel,
            "grpc, new": self._channels,
        }
        threads = [
            threading.Thread(target=ways[kind], args=(kind,)) for kind, n in self.kinds.items() for _ in range(n)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join()

    @property
    def asked(self) -> int:
        return self.answered.total() + self.lost.total()

    def _count(self, kind: str, send_one: Callable[[], bool]) -> bool:
        """Send once; return whether the connection may be used again."""
        began = time.monotonic()
        try:
            again = send_one()
        except (OSError, Lost, grpc.RpcError) as error:
            reason = error.code() if isinstance(error, grpc.RpcError) else f"{type(error).__name__} {error}"
            with self._lock:
                self.lost[f"{kind}: {reason}"] += 1
            time.sleep(0.05)
            return False
        with self._lock:
            self.answered[kind] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
        return again

    def _kept(self, kind: str, pause: float = 0.0) -> None:
        connection: socket.socket | None = None
        while not self.stopped.is_set():
            if connection and select.select([connection], [], [], 0)[0]:  # it was closed; every pool looks
                connection.close()
                connection = None

            def send_one() -> bool:
                nonlocal connection
                connection = connection or self._connect()
                return self._ask(connection)

            if not self._count(kind, send_one) and connection:
                connection.close()
                connection = None
            self.stopped.wait(pause)
        if connection:
            connection.close()

    def _paused(self, kind: str) -> None:
        self._kept(kind, 0.2)

    def _new(self, kind: str) -> None:
        def send_one() -> bool:
            with self._connect() as connection:
                return self._ask(connection)

        while not self.stopped.is_set():
            self._count(kind, send_one)
            time.sleep(0.001)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.service.endpoint().port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _ask(self, connection: socket.socket) -> bool:
        connection.sendall(self._question)
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                raise Lost("closed without an answer")
            data += part
        top, _, body = data.partition(b"\r\n\r\n")
        rows = top.decode().lower().split("\r\n")
        fields = dict(row.split(": ", 1) for row in rows[1:])
        while len(body) < int(fields["content-length"]):
            part = connection.recv(65536)
            if not part:
                raise Lost("closed within an answer")
            body += part
        if " 200 " not in rows[0]:
            raise Lost(f"{rows[0]}: {body[:100]!r}")
        if body[int(fields["inference-header-content-length"]) :] != self.expected:
            raise Lost("another answer")
        return fields.get("connection") != "close"

    def _channels(self, kind: str) -> None:
        def send_one() -> bool:
            with self._open() as channel:
                return self._call(channel)

        while not self.stopped.is_set():
            self._count(kind, send_one)

    def _channel(self, kind: str) -> None:
        with self._open() as channel:
            while not self.stopped.is_set():
                self._count(kind, lambda: self._call(channel))

    def _open(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.service.port}", self.options)

    def _call(self, channel: grpc.Channel) -> bool:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        fields = protobuf.parse(method(self._message, timeout=PATIENCE))
        if protobuf.blocks(fields, 6)[0] != self.expected:
            raise Lost("another answer")
        return True


@dataclass
class Ended:
    """How a server ended: exit code, seconds from the signal to the end, and to the first probe that failed."""

    code: int
    took: float
    unready: float | None


def ended_by_a_cluster(service: Service, pod: Pod, notice: float, lag: float) -> Ended:
    """End a pod as Kubernetes does: its endpoint goes `lag` seconds after preStop begins, SIGTERM follows `notice`."""
    began = time.monotonic()
    remover = threading.Timer(lag, lambda: service.pods.remove(pod))
    remover.start()
    time.sleep(notice)
    ended = _ended(pod, lambda: time.monotonic() - began > lag + 0.2, 0.02)
    remover.join()
    return ended


def ended_behind_a_balancer(service: Service, pod: Pod, interval: float, failures: int) -> Ended:
    """End a server at once; the balancer takes it out when so many probes in a row have failed."""
    failed = 0

    def probed(ready: bool) -> None:
        nonlocal failed
        failed = 0 if ready else failed + 1
        if failed == failures and pod in service.pods:
            service.pods.remove(pod)

    return _ended(pod, lambda: pod not in service.pods, interval, probed)


def _ended(
    pod: Pod, out: Callable[[], bool], interval: float, probed: Callable[[bool], None] = lambda ready: None
) -> Ended:
    """Send SIGTERM and probe while the server is an endpoint; wait for its end."""
    began, unready = time.monotonic(), None
    pod.process.send_signal(signal.SIGTERM)
    while not out():
        try:
            ready = pod.is_ready()
        except OSError:
            ready = False
        if not ready and unready is None:
            unready = time.monotonic() - began
        probed(ready)
        time.sleep(interval)
    code = pod.process.wait(pod.drain + 30)
    return Ended(code, time.monotonic() - began, unready)
