# SPDX-License-Identifier: Apache-2.0
"""Overload and malformed requests: memory stays bounded, other clients are served, the server recovers.

Every test has a healthy client on a separate connection throughout, and prints what it measured.
"""

from __future__ import annotations

import contextlib
import random
import re
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from packager.server.grpc.messages import encode_field, encode_varint
from tests.e2e.test_server import (  # noqa: F401 - `app` and `models` are fixtures
    GOOD,
    INFER,
    RANDOM,
    Server,
    app,
    free_port,
    head,
    models,
    receive,
    rounds,
    running,
    sample,
    tensor,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20


def memory(server: Server, row: str = "VmRSS") -> float:
    """Megabytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{row}:\s+(\d+) kB", text)[1]) / 1024


@dataclass
class Healthy:
    """One client that repeatedly requests health and an answer."""

    server: Server
    raw: bytes
    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def send_requests(self) -> None:
        with self.server.connect() as connection:
            connection.settimeout(30)
            while not (self.seconds and self.over.wait(0.02)):
                began = time.monotonic()
                for raw in (head("GET", "/v2/health/live"), self.raw):
                    connection.sendall(raw)
                    self.statuses[receive(connection)[0]] += 1
                self.seconds.append(time.monotonic() - began)


@contextlib.contextmanager
def healthy(server: Server, raw: bytes) -> Iterator[Healthy]:
    client = Healthy(server, raw)
    thread = threading.Thread(target=client.send_requests)
    thread.start()
    try:
        yield client
    finally:
        client.over.set()
        thread.join()


def report(capsys: Any, name: str, server: Server, before: float, client: Healthy, **more: object) -> None:
    with capsys.disabled():
        print(
            f"\n{name}: memory {before:.0f} -> {memory(server):.0f} MB (peak {memory(server, 'VmHWM'):.0f}); healthy "
            f"client {dict(client.statuses)}, median {np.median(client.seconds) * 1000:.1f} ms, worst "
            f"{max(client.seconds) * 1000:.0f} ms; {more}"
        )


GOOD_RAW = head("POST", INFER, content_length=len(GOOD)) + GOOD


def recovered(server: Server) -> None:
    for _ in range(20):
        assert server.exchange(GOOD_RAW)[0] == 200
    text = server.request("GET", "/metrics")[2]
    assert b"packager_server_requests_in_flight 0.0" in text


def test_ten_times_its_capacity(app: Path, models: dict[str, Path], capsys: Any) -> None:  # noqa: F811
    """Admitted requests are answered, the rest get 429 at once with `Retry-After`."""
    with running(app, models["slow"], "--workers", "1", "--max-in-flight", "8") as server:
        item = rounds(server, 0.05)
        raw, length = InferenceServerClient.generate_request_body([item])
        question = (
            head("POST", "/v2/models/slow/infer", content_length=len(raw), inference_header_content_length=length) + raw
        )
        before, end = memory(server), time.monotonic() + 8
        found: Counter[int] = Counter()
        refusals: list[float] = []

        def send_requests(_: int) -> None:
            with server.connect() as connection:
                connection.settimeout(60)
                while time.monotonic() < end:
                    began = time.monotonic()
                    connection.sendall(question)
                    status, headers, _ = receive(connection)
                    found[status] += 1
                    if status == 429:
                        refusals.append(time.monotonic() - began)
                        assert int(headers["retry-after"]) >= 1
                        time.sleep(0.05)

        with healthy(server, head("GET", "/v2/health/ready")) as client, ThreadPoolExecutor(80) as pool:
            list(pool.map(send_requests, range(80)))
        report(
            capsys,
            "10 x capacity",
            server,
            before,
            client,
            answers=dict(found),
            refused_ms=round(float(np.median(refusals)) * 1000, 1),
        )
        assert set(found) == {200, 429}
        assert set(client.statuses) == {200}
        assert memory(server) - before < 50
        assert server.exchange(question)[0] == 200


def test_slow_and_silent_and_vanishing_clients(app: Path, models: dict[str, Path], capsys: Any) -> None:  # noqa: F811
    limits = ("--body-timeout", "2", "--read-timeout", "2", "--max-in-flight", "8")
    with running(app, models["mlp"], *limits) as server:
        before = memory(server)
        with healthy(server, GOOD_RAW) as client:
            slow = [server.connect() for _ in range(150)]
            silent = [server.connect() for _ in range(150)]
            for connection in slow:
                connection.sendall(head("POST", INFER, content_length=MIB + 8192))  # about the most its contract allows
            for _ in range(6):
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"x")
                time.sleep(0.5)
            answers = Counter(outcome(connection) for connection in slow)
            for connection in silent:  # a reset instead of a goodbye
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            time.sleep(1)
        report(capsys, "300 slow, silent and vanishing", server, before, client, slow=dict(answers))
        assert set(client.statuses) == {200}
        assert answers[408] == 150
        assert memory(server) - before < 50
        recovered(server)


def outcome(connection: socket.socket) -> int:
    with connection:
        try:
            return receive(connection)[0]
        except OSError:
            return -1


def test_bodies_of_a_gigabyte(app: Path, models: dict[str, Path], capsys: Any) -> None:  # noqa: F811
    with running(app, models["mlp"], "--max-body", str(16 * MIB)) as server:
        before, piece = memory(server), bytes(4 * MIB)
        openings = {
            "announced": (head("POST", INFER, content_length=1 << 30), lambda: piece),
            "chunked": (head("POST", INFER, transfer_encoding="chunked"), lambda: b"400000\r\n" + piece + b"\r\n"),
        }
        statuses, sent = {}, {}
        with healthy(server, GOOD_RAW) as client:
            for name, (opening, part) in openings.items():
                with server.connect() as connection:
                    sent[name] = 0
                    with contextlib.suppress(OSError):
                        connection.sendall(opening)
                        for _ in range(256):
                            connection.sendall(part())
                            sent[name] += 4
                    statuses[name] = outcome(connection)
        report(capsys, "1 GB bodies", server, before, client, statuses=statuses, sent_mb=sent)
        assert set(client.statuses) == {200}
        assert all(status in (413, 0, -1) for status in statuses.values())
        assert memory(server, "VmHWM") - before < 120
        recovered(server)


def test_malformed_requests(app: Path, models: dict[str, Path], capsys: Any) -> None:  # noqa: F811
    """Mutations of good requests: an answer, a refusal, a closed connection, never 5xx and never the end."""
    dice, port = random.Random(0), free_port()
    raw, length = InferenceServerClient.generate_request_body([tensor("x", sample(2))])
    binary = head("POST", INFER, content_length=len(raw), inference_header_content_length=length) + raw
    x = sample(2)
    item = encode_field(1, "x") + encode_field(2, "FP32") + encode_field(3, b"".join(map(encode_varint, x.shape)))
    message = encode_field(1, "mlp") + encode_field(5, item) + encode_field(7, x.tobytes())
    with running(app, models["mlp"], "--grpc-port", str(port), "--read-timeout", "1", "--body-timeout", "1") as server:
        before, statuses, codes = memory(server), Counter(), Counter()
        with healthy(server, GOOD_RAW) as client, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

            def send(data: bytes) -> int:
                with server.connect() as connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                    return receive(connection)[0]
                return 0

            with ThreadPoolExecutor(16) as pool:
                statuses.update(pool.map(send, [mutated(dice, dice.choice((GOOD_RAW, binary))) for _ in range(3000)]))
            for _ in range(1500):
                try:
                    infer(mutated(dice, message), timeout=10)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
        report(capsys, "malformed", server, before, client, http=dict(statuses), grpc=dict(codes))
        assert set(client.statuses) == {200}
        assert all(status < 500 for status in statuses)
        assert set(codes) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
        assert memory(server) - before < 80
        assert not server.events("request failed")
        recovered(server)


def mutated(dice: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw))
        match dice.randrange(4):
            case 0:
                raw[at] = dice.randrange(256)
            case 1:
                del raw[at : at + dice.randint(1, 20)]
            case 2:
                raw[at:at] = dice.randbytes(dice.randint(1, 20))
            case _:
                raw[at:at] = raw[at : at + dice.randint(1, 40)]
        if not raw:
            return b"\0"
    return bytes(raw)


def test_ten_thousand_connections(app: Path, models: dict[str, Path], capsys: Any) -> None:  # noqa: F811
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < 11_000:
        pytest.skip(f"this user may open {most} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with running(app, models["mlp"]) as server:
        before, began, crowd = memory(server), time.monotonic(), []
        with healthy(server, GOOD_RAW) as client:
            try:
                for _ in range(10_000):
                    crowd.append(server.connect())
                spent = time.monotonic() - began
                statuses_by_index = dict.fromkeys(range(0, 10_000, 97), 0)
                for index in statuses_by_index:
                    crowd[index].sendall(GOOD_RAW)
                    statuses_by_index[index] = receive(crowd[index])[0]
                held = memory(server)
                late = server.exchange(GOOD_RAW)[0]
            finally:
                for connection in crowd:
                    connection.close()
        time.sleep(2)
        report(capsys, "10,000 connections", server, before, client, held_mb=round(held), connect_s=round(spent, 1))
        assert set(statuses_by_index.values()) == {200}
        assert late == 200
        assert set(client.statuses) == {200}
        assert held - before < 400
        recovered(server)
