# SPDX-License-Identifier: Apache-2.0
"""Receive MLflow's webhooks: signed, fresh, never seen before; and answer `/metrics` and `/healthz`.

A webhook is believed if its HMAC-SHA256 over `ID.TIME.BODY` is that of the shared secret, its time is within five
minutes of ours, and its id is new. What it says is then treated as what the registry shows: a version to release.

Sources: MLflow 3 (`mlflow/webhooks/delivery.py`), Standard Webhooks 1.0.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import UsageError

TOLERANCE = 300.0  # seconds between the time of a webhook and ours
_MAX_BODY = 64 << 10
_MAX_THREADS = 16
_TIMEOUT = 10.0  # seconds of a connection without a byte
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TIME = re.compile(r"[0-9]{1,12}")


class RefusedError(Exception):
    """A request that is not believed: the status of the answer, and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook that is believed: its id, what it is about (`model_version_alias.created`), and the data."""

    id: str
    event: str
    data: Mapping[str, JSON]


def check(secret: bytes, headers: Mapping[str, str], body: bytes, now: float) -> Delivery:
    """Return what a webhook says; the names of `headers` are in lower case. Raises RefusedError.

    Nothing of the body is parsed before its signature holds.
    """
    identity, time = headers.get("x-mlflow-delivery-id") or "", headers.get("x-mlflow-timestamp") or ""
    if not _ID.fullmatch(identity) or not _TIME.fullmatch(time):
        raise RefusedError(401, "no id or time")
    expected = hmac.new(secret, f"{identity}.{time}.".encode() + body, hashlib.sha256).digest()
    words = (headers.get("x-mlflow-signature") or "")[:1024].split(" ")
    given = [word.removeprefix("v1,") for word in words if word.startswith("v1,")]
    if not any(hmac.compare_digest(base64.b64encode(expected), word.encode("utf-8", "replace")) for word in given):
        raise RefusedError(401, "signature")
    if abs(now - int(time)) > TOLERANCE:
        raise RefusedError(401, "time")
    try:
        value = json.loads(body)
        event, data = f"{value['entity']}.{value['action']}", value["data"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RefusedError(400, "body") from None
    if not isinstance(data, dict):
        raise RefusedError(400, "body")
    return Delivery(identity, event, data)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the server asks its owner: to take a webhook (RefusedError: not), for metrics, whether all is well."""

    receive: Callable[[Mapping[str, str], bytes], None] | None
    metrics: Callable[[], tuple[str, bytes]]
    healthy: Callable[[], bool]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], answers: Answers, context: ssl.SSLContext | None) -> None:
        self.answers, self.context = answers, context
        self._free = threading.BoundedSemaphore(_MAX_THREADS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()  # the backlog of the kernel holds what is more
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or speaks no TLS, is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT
    server_version, sys_version = "packager", ""

    def setup(self) -> None:
        if self.server.context is not None:  # in the thread of the request: a slow handshake holds up no other
            self.request.settimeout(_TIMEOUT)
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        if self.path == "/metrics":
            kind, text = self.server.answers.metrics()
            self._answer(200, text, kind)
        elif self.path == "/healthz":
            healthy = self.server.answers.healthy()
            self._answer(200 if healthy else 503, b"ok\n" if healthy else b"the registry does not answer\n")
        else:
            self._answer(404, b"not found\n")

    def do_POST(self) -> None:
        receive = self.server.answers.receive
        if self.path != "/webhook" or receive is None:
            self._answer(404, b"not found\n")
            return
        length = self.headers.get("Content-Length") or ""
        if not length.isascii() or not length.isdigit() or int(length[:12]) > _MAX_BODY:
            self._answer(413, b"expected at most 64 KiB\n")
            return
        body = self.rfile.read(int(length))
        try:
            receive({name.lower(): value for name, value in self.headers.items()}, body)
        except RefusedError as refused:
            self._answer(refused.status, f"refused: {refused.reason}\n".encode())
        else:
            self._answer(202, b"")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Counters say how many there were; what strangers send is not printed."""


def listen(
    place: tuple[str, int], answers: Answers, certificate: Path | None = None, key: Path | None = None
) -> ThreadingHTTPServer:
    """Listen and answer in a thread until `shutdown`. Raises UsageError where that is impossible."""
    context = None
    try:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate, key, password="")
        server = _Server(place, answers, context)
    except ssl.SSLError as error:
        raise UsageError(f"cannot use `{certificate}`: {error.reason}", hint="give a PEM chain and its key") from None
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {place[0]}:{place[1]}: {error}", hint="choose another --listen") from None
    threading.Thread(target=server.serve_forever, name="webhooks", daemon=True).start()
    return server
