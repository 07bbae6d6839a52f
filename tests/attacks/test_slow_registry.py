# SPDX-License-Identifier: Apache-2.0
"""A registry that never stops answering: each answer has an end, and it is not asked again.

Every answer here would be complete in the end, so that a reader without a deadline succeeds, or reads on and on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from packager.errors import SourceError
from packager.transport.registry import reference
from packager.transport.registry.deadline import Pace
from packager.transport.registry.repository import Repository
from packager.transport.registry.wire import Patience, Settings
from packager.types import Blob

Answer = Callable[[socket.socket, str], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
PIECES = 400  # of 10 ms each: far more than the deadline, and not for ever


def dribble(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.01)


def slow_head(connection: socket.socket, path: str) -> None:
    dribble(connection, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * PIECES)
    connection.sendall(b"\r\nContent-Length: 2\r\n\r\n{}")


def slow_body(connection: socket.socket, path: str) -> None:
    connection.sendall(HEAD % PIECES)
    dribble(connection, b"{" + b" " * (PIECES - 2) + b"}")


def interim_answers(connection: socket.socket, path: str) -> None:
    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
    connection.sendall(HEAD % 2 + b"{}")


def endless_headers(connection: socket.socket, path: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"Content-Length: 2\r\n\r\n{}")


def slow_trailers(connection: socket.socket, path: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    dribble(connection, b"X: y\r\n" * (PIECES // 6))
    connection.sendall(b"\r\n")


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[tuple[int, list[str]]]:
    """Serve `GET /v2/` soundly and everything else by `answer`; yield the port and the paths that were asked for."""
    listener, asked = socket.create_server(("127.0.0.1", 0)), []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += (data := connection.recv(4096))
                    if not data:
                        return
                path = request.split(b" ")[1].decode()
                if path == "/v2/":
                    connection.sendall(HEAD % 2 + b"{}")
                    continue
                asked.append(path)
                answer(connection, path)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.close()


def repository(port: int) -> Repository:
    settings = Settings(plain_http=True, pace=Pace(answer=0.5, rate=2000), patience=Patience(2, 0.01, 0.01))
    return Repository(reference.parse(f"oci://127.0.0.1:{port}/a/b:1"), settings)


@pytest.mark.parametrize("answer", [slow_head, slow_body, slow_trailers])
def test_an_answer_has_an_end(answer: Answer) -> None:
    with serving(answer) as (port, asked):
        with pytest.raises(SourceError, match="takes too long"):
            repository(port).manifest("1")
        assert len(asked) == 1, "who is that slow is not asked again"


@pytest.mark.parametrize("answer", [interim_answers, endless_headers])
def test_what_is_no_answer_is_refused(answer: Answer) -> None:
    with serving(answer) as (port, _), pytest.raises(SourceError):
        repository(port).manifest("1")


def test_slow_blob_is_abandoned() -> None:
    with serving(slow_body) as (port, asked):
        with (
            pytest.raises(SourceError, match="takes too long"),
            repository(port).open(Blob("sha256:" + "0" * 64, PIECES)) as blob,
        ):
            blob.read(PIECES)
        assert len(asked) == 1


def test_a_large_blob_may_take_longer_than_an_answer() -> None:
    """It is the rate that counts: twice the deadline, at more than the least rate."""
    size = 1 << 20

    def steadily(connection: socket.socket, path: str) -> None:
        connection.sendall(HEAD % size)
        for _ in range(20):
            connection.sendall(bytes(size // 20))
            time.sleep(0.05)
        connection.sendall(bytes(size - size // 20 * 20))

    with serving(steadily) as (port, _), repository(port).open(Blob("sha256:" + "0" * 64, size)) as blob:
        got = 0
        while data := blob.read(65536):
            got += len(data)
        assert got == size


def test_slow_download_over_many_connections_is_abandoned() -> None:
    """Each connection brings one byte and breaks: progress, and no end."""

    def crumb(connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100000\r\n\r\n" + b"x")
        time.sleep(0.05)
        connection.shutdown(socket.SHUT_RDWR)

    with serving(crumb) as (port, asked):
        with (
            pytest.raises(SourceError, match="takes too long"),
            repository(port).open(Blob("sha256:" + "0" * 64, 500)) as blob,
        ):
            while blob.read(500):
                pass
        assert len(asked) < 100
