# SPDX-License-Identifier: Apache-2.0
"""A closed loop of HTTP clients in one thread: each connection asks again as soon as it has its answer.

One `select` loop over plain sockets, so that the client costs little beside the server that shares its cores. An
answer counts when its status is 200; anything else ends the measurement.
"""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Measured:
    """Milliseconds of every request, and what was answered per second."""

    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))

    @property
    def rate(self) -> float:
        return len(self.milliseconds) / self.seconds


@dataclass
class _Client:
    connection: socket.socket
    began: float = 0.0
    data: bytearray = field(default_factory=bytearray)
    wanted: int = -1


def request(path: str, body: bytes, **headers: str) -> bytes:
    """Return the bytes of a POST; underscores in names of headers become hyphens."""
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def load(port: int, raw: bytes, connections: int, seconds: float, warm_up: float = 0.3) -> Measured:
    """Ask `raw` on so many connections for so long, after a warm-up that does not count."""
    found, selector = Measured(), selectors.DefaultSelector()
    began = time.perf_counter()
    start, end = began + warm_up, began + warm_up + seconds
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(connection)
        selector.register(connection, selectors.EVENT_READ, client)
        _ask(client, raw)
    try:
        while time.perf_counter() < end:
            for key, _ in selector.select(1.0):
                client = key.data
                if _answered(client):
                    now = time.perf_counter()
                    if client.began >= start and now <= end:
                        found.milliseconds.append((now - client.began) * 1000)
                    _ask(client, raw)
    finally:
        for key in list(selector.get_map().values()):
            key.data.connection.close()
    found.seconds = seconds
    return found


def paced(port: int, raw: bytes, count: int, pause: float) -> Measured:
    """Ask `raw` on one connection `count` times, idle for `pause` seconds before each: a server under low load."""
    found, began = Measured(), time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(connection)
        for _ in range(count):
            time.sleep(pause)
            _ask(client, raw)
            while not _answered(client):
                pass
            found.milliseconds.append((time.perf_counter() - client.began) * 1000)
    found.seconds = time.perf_counter() - began
    return found


def _ask(client: _Client, raw: bytes) -> None:
    client.data.clear()
    client.wanted, client.began = -1, time.perf_counter()
    client.connection.sendall(raw)


def _answered(client: _Client) -> bool:
    """Take in what arrived; True if the answer is whole."""
    part = client.connection.recv(1 << 20)
    if not part:
        raise SystemExit("the server closed a connection")
    client.data += part
    if client.wanted < 0:
        end = client.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(client.data[:end]).lower()
        if b" 200 " not in head[:20]:
            raise SystemExit(bytes(client.data[:500]).decode(errors="replace"))
        if b"\r\ncontent-length:" not in head:  # `inference-header-content-length` is another field
            raise SystemExit("an answer without Content-Length")
        client.wanted = end + 4 + int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
    return len(client.data) >= client.wanted
