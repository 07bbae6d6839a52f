# SPDX-License-Identifier: Apache-2.0
"""A closed loop of HTTP clients: each connection sends the next request as soon as it has the answer to the last.

One `select` loop over plain sockets, so that the clients cost little beside the server that shares their cores.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from packager.errors import StepError

_TIMEOUT = 60.0  # seconds without any answer
_MAX_HEAD = 64 << 10
_LEAST = 10  # answers of a load


@dataclass(frozen=True, slots=True)
class Load:
    """What one load gave: the milliseconds of every request, sorted, and the seconds in which they ended."""

    milliseconds: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the nearest-rank percentile, `share` between 0 and 1, in milliseconds; NaN without an answer."""
        if not self.milliseconds:
            return math.nan
        return self.milliseconds[max(0, math.ceil(share * len(self.milliseconds)) - 1)]


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    next: int
    began: float = 0.0
    data: bytearray = field(default_factory=bytearray)
    wanted: int = -1


def run_load(port: int, requests: Sequence[bytes], clients: int, seconds: float, warm_up: float = 0.5) -> Load:
    """Send `requests` in turn to a server on this machine, on `clients` connections, for `seconds` after a warm-up.

    It takes longer where fewer than ten answers came in that time. Raises StepError where the server closes a
    connection, answers anything but 200, or answers nothing for a minute.
    """
    times: list[float] = []
    began = time.perf_counter()
    start, least = began + warm_up, began + warm_up + seconds
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for number in range(clients):
            try:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT))
            except OSError as error:
                raise StepError(f"the server takes no connection: {error}") from None
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(connection, number)
            selector.register(connection, selectors.EVENT_READ, client)
            _send(client, requests)
        heard = time.perf_counter()
        while (now := time.perf_counter()) < least or len(times) < _LEAST:
            for key, _ in selector.select(0.1):
                if _answered(key.data):
                    heard = time.perf_counter()
                    if key.data.began >= start:
                        times.append((heard - key.data.began) * 1000)
                    _send(key.data, requests)
            if now - heard > _TIMEOUT:
                raise StepError(f"the server answered nothing for {_TIMEOUT:.0f} s")
        ended = time.perf_counter()
    return Load(tuple(sorted(times)), ended - start)


def _send(client: _Client, requests: Sequence[bytes]) -> None:
    client.data.clear()
    client.wanted = -1
    raw = requests[client.next % len(requests)]
    client.next += 1
    client.began = time.perf_counter()
    try:
        client.connection.sendall(raw)
    except OSError as error:
        raise StepError(f"the server closed a connection: {error}") from None


def _answered(client: _Client) -> bool:
    """Take in what arrived; True if the answer is whole."""
    try:
        part = client.connection.recv(1 << 20)
    except OSError as error:
        raise StepError(f"the server closed a connection: {error}") from None
    if not part:
        raise StepError("the server closed a connection", hint="look at what it logs: `packager serve`")
    client.data += part
    if client.wanted < 0:
        end = client.data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            if len(client.data) > _MAX_HEAD:
                raise StepError("the server speaks no HTTP")
            return False
        head = bytes(client.data[:end]).lower()
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        length = fields.get(b"content-length", b"").strip()
        if head.split(b" ", 2)[1:2] != [b"200"] or not length.isdigit():
            shown = bytes(client.data[end + 4 : end + 300]).decode("utf-8", "replace")
            raise StepError(
                f"the server refuses a reference input: {head.split(bytes([13]))[0].decode('ascii', 'replace')} {shown}"
            )
        client.wanted = end + 4 + int(length)
    return len(client.data) >= client.wanted
