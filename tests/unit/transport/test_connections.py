# SPDX-License-Identifier: Apache-2.0
"""Connections to registries: kept while they live, through proxies of both kinds, with certificates checked."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from packager.errors import UsageError
from packager.transport.registry.connections import Connections, speaks_tls
from packager.transport.registry.deadline import Pace
from packager.workspace import Workspace
from tests.support import pki

HERE = "127.0.0.1"


@dataclass
class Server:
    """A server, or a proxy that forwards to it, with the request lines it saw and the number of connections."""

    port: int = 0
    lines: list[str] = field(default_factory=list)
    connections: int = 0


@contextlib.contextmanager
def serving(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None
) -> Iterator[Server]:
    seen = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5

        def setup(self) -> None:
            seen.connections += 1
            super().setup()

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError):
                super().handle_one_request()

        def do_GET(self) -> None:
            seen.lines.append(self.requestline)
            answer(self)

        do_CONNECT = do_POST = do_GET

        def log_message(self, *rest: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, object]:
            raw, peer = super().get_request()
            return (tls.wrap_socket(raw, server_side=True) if tls else raw), peer

        def handle_error(self, *rest: object) -> None:
            pass

    with Quiet((HERE, 0), Handler) as server:
        seen.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


def say_hello(handler: http.server.BaseHTTPRequestHandler, *headers: tuple[str, str]) -> None:
    handler.send_response(200)
    for header in headers:
        handler.send_header(*header)
    handler.send_header("Content-Length", "5")
    handler.send_header("WWW-Authenticate", "Basic")
    handler.send_header("WWW-Authenticate", "Bearer")
    handler.end_headers()
    handler.wfile.write(b"hello")


def forward(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Act as a proxy that says itself what is asked of it in the clear, and connects what is not."""
    if handler.command != "CONNECT":
        say_hello(handler)
        return
    host, port = handler.path.rsplit(":", 1)
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with socket.create_connection((host, int(port))) as there:
        back = threading.Thread(target=pump, args=(there, handler.connection))
        back.start()
        pump(handler.connection, there)
        back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate from it for this machine."""
    folder, now = tmp_path_factory.mktemp("papers"), datetime.now(UTC)
    authority = pki.root()
    authority.save(folder, "ca")
    names = [x509.IPAddress(ipaddress.ip_address(HERE))]
    used = {"start": now - timedelta(1), "end": now + timedelta(1), "purposes": [ExtendedKeyUsageOID.SERVER_AUTH]}
    authority.issue("server", names=names, **used).save(folder, "server")  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def tls(papers: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers / "server.pem", papers / "server.key")
    return context


def connections(papers: Path, proxy: str | None = None, most: int = 2) -> Connections:
    context = ssl.create_default_context(cafile=papers / "ca.pem")
    return Connections(
        lambda: context, lambda scheme, host: proxy, Pace(), most=most, connect_seconds=5, read_seconds=5
    )


def get(opened: Connections, url: str) -> bytes:
    response = opened.request("GET", url, {}, None)
    assert response.headers["www-authenticate"] == "Basic, Bearer"
    data = response.read(100)
    response.release()
    return data


def test_a_connection_serves_the_next_request_until_the_server_closes_it(papers: Path) -> None:
    with serving(say_hello, None) as server:
        opened = connections(papers)
        for _ in range(3):
            assert get(opened, f"http://{HERE}:{server.port}/v2/?a=b c") == b"hello"
        assert server.connections == 1
        assert server.lines[0] == "GET /v2/?a=b%20c HTTP/1.1"
    with serving(lambda handler: say_hello(handler, ("Connection", "close")), None) as server:
        for _ in range(2):
            get(opened, f"http://{HERE}:{server.port}/")
        assert server.connections == 2


def test_a_body_that_is_cut_off_is_no_answer(papers: Path) -> None:
    def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "6")
        handler.end_headers()
        handler.wfile.write(b"hello")
        handler.close_connection = True

    with serving(cut, None) as server:
        response = connections(papers).request("GET", f"http://{HERE}:{server.port}/", {}, None)
        with pytest.raises(http.client.IncompleteRead):
            response.read(100)


def test_an_answer_before_the_end_of_the_body_counts_and_its_connection_does_not(papers: Path) -> None:
    with serving(say_hello, None) as server:
        opened = connections(papers)
        pieces = (bytes(1 << 20) for _ in range(64))
        url = f"http://{HERE}:{server.port}/"
        response = opened.request("POST", url, {"Content-Length": str(64 << 20), "Connection": "close"}, pieces)
        assert response.status == 200
        response.release()
        assert not any(opened._idle.values())


@pytest.mark.parametrize("secured", [False, True], ids=["http-proxy", "https-proxy"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies(papers: Path, tls: ssl.SSLContext, scheme: str, secured: bool) -> None:
    with (
        serving(say_hello, tls if scheme == "https" else None) as server,
        serving(forward, tls if secured else None) as proxy,
    ):
        opened = connections(papers, f"{'https' if secured else 'http'}://{HERE}:{proxy.port}")
        for _ in range(2):
            assert get(opened, f"{scheme}://{HERE}:{server.port}/v2/") == b"hello"
        there = f"{HERE}:{server.port}"
        wanted = [f"CONNECT {there} HTTP/1.0"] if scheme == "https" else [f"GET http://{there}/v2/ HTTP/1.1"] * 2
        assert [line.replace("1.1", "1.0") for line in proxy.lines] == [line.replace("1.1", "1.0") for line in wanted]
        assert proxy.connections == 1
        for idle in opened._idle.values():
            idle.pop().close()


def test_unknown_kind_of_proxy_is_refused(papers: Path) -> None:
    with pytest.raises(UsageError, match="socks5://proxy"):
        connections(papers, "socks5://proxy:1080").request("GET", "http://registry/", {}, None)


def test_certificates_are_checked(papers: Path, tls: ssl.SSLContext) -> None:
    with serving(say_hello, tls) as server:
        url = f"https://{HERE}:{server.port}/"
        assert get(connections(papers), url) == b"hello"
        stranger = Connections(
            ssl.create_default_context, lambda *_: None, Pace(), most=1, connect_seconds=5, read_seconds=5
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            stranger.request("GET", url, {}, None)
        with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
            connections(papers).request("GET", url.replace(HERE, "localhost"), {}, None)
        assert server.lines == ["GET / HTTP/1.1"]


def test_whether_a_server_speaks_tls(tls: ssl.SSLContext) -> None:
    with serving(say_hello, tls) as secured, serving(say_hello, None) as plain:
        assert speaks_tls(HERE, secured.port, 5)
        assert not speaks_tls(HERE, plain.port, 5)
        assert secured.lines == []
    assert speaks_tls(HERE, plain.port, 5)  # nothing listens: the request itself says so


def test_proxies_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    here = Workspace.default()
    assert here.registry_settings().proxy("https", "registry.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    proxy = here.registry_settings().proxy
    assert proxy("https", "registry.example") == "http://proxy:3128"
    assert proxy("http", "registry.example") is proxy("https", "localhost") is None
