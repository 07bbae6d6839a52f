# SPDX-License-Identifier: Apache-2.0
"""A registry in memory for what the one real registry at hand cannot do: sessions that survive a cut, the referrers
API with pages, tokens, redirects, servers that are busy, lie, or know no ranges. It follows distribution-spec v1.1.

Faults are switched on by fields; `log` holds one row per request, with the bytes that moved each way.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Row:
    """One request."""

    method: str
    path: str
    status: int
    received: int
    sent: int
    headers: dict[str, str]


@dataclass
class Stub:
    """The registry's content and its habits."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    sessions: dict[str, bytearray] = field(default_factory=dict)
    log: list[Row] = field(default_factory=list)
    referrers_api: bool = False
    page: int = 100
    ranges: bool = True
    mounts: bool = True
    token_user: tuple[str, str] | None = None
    token_uses: int = 1 << 30  # requests after which a token is no longer accepted
    refresh_token: str | None = None
    busy: int = 0  # answer this many requests with 429
    retry_after: str | None = None
    cut_upload: list[int] = field(default_factory=list)  # bytes after which the next uploads are cut
    cut_download: list[int] = field(default_factory=list)
    lie: bool = False  # flip a byte of every blob that is read
    redirect: str | None = None  # another origin that serves blobs
    port: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def rows(self, method: str, pattern: str) -> list[Row]:
        return [row for row in self.log if row.method == method and re.search(pattern, row.path)]


@contextlib.contextmanager
def serving(**habits: Any) -> Iterator[Stub]:
    """Run a registry on a free port."""
    stub = Stub(**habits)

    class Handler(_Handler):
        registry = stub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.port = server.server_port
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]  # clients hang up here a lot
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


class _Cut(Exception):
    """The connection ends here, without an answer."""


class _Handler(BaseHTTPRequestHandler):
    registry: Stub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        self.received = 0
        try:
            self._route()
            if self.received < int(self.headers.get("Content-Length") or 0):
                self.close_connection = True  # refused without reading
        except (_Cut, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        cuts = self.registry.cut_download
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names = {"Content-Length": str(len(data)), **names}
        if self.command == "HEAD":
            data = b""
        elif cuts and "/blobs/" in self.path and len(data) > cuts[0]:
            data = data[: cuts.pop(0)]
            self.close_connection = True
        # logged before it is sent: a client that has its answer finds the row
        self.registry.log.append(Row(self.command, self.path, status, self.received, len(data), dict(self.headers)))
        self.send_response(status)
        for name, value in names.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _body(self, into: bytearray) -> None:
        left = int(self.headers.get("Content-Length") or 0)
        cuts = self.registry.cut_upload
        cut = cuts.pop(0) if cuts and left > cuts[0] else None
        while left:
            data = self.rfile.read(min(left, 65536 if cut is None else max(min(65536, cut - self.received), 1)))
            if not data:
                raise _Cut
            into += data
            self.received += len(data)
            left -= len(data)
            if cut is not None and self.received >= cut:
                self.registry.log.append(Row(self.command, self.path, 0, self.received, 0, dict(self.headers)))
                raise _Cut

    def _route(self) -> None:
        stub, url = self.registry, urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/token":
            return self._token(query)
        if not self._allowed():
            challenge = f'Bearer realm="http://{stub.host}/token",service="stub"'
            return self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate=challenge)
        if stub.busy:
            stub.busy -= 1
            more = {"Retry_After": stub.retry_after} if stub.retry_after else {}
            return self._answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', **more)
        if url.path == "/v2/":
            return self._answer(200, b"{}")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|referrers)/(.+)", url.path)
        if not match:
            return self._answer(404)
        name, kind, what = match.groups()
        return getattr(self, f"_{kind}")(name.removesuffix("/blobs"), what, query)

    def _allowed(self) -> bool:
        stub = self.registry
        if stub.token_user is None and stub.refresh_token is None:
            return True
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        left = stub.tokens.get(token, 0)
        stub.tokens[token] = left - 1
        return left > 0

    def _token(self, query: dict[str, list[str]]) -> None:
        stub, body = self.registry, bytearray()
        self._body(body)
        form = parse_qs(body.decode())
        expected = "Basic " + base64.b64encode(":".join(stub.token_user or ("", "")).encode()).decode()
        good = (
            form.get("refresh_token") == [stub.refresh_token] if form else self.headers.get("Authorization") == expected
        )
        if not good:
            return self._answer(401)
        stub.scopes += query.get("scope", []) + form.get("scope", [])
        token = f"token-{len(stub.tokens)}"
        stub.tokens[token] = stub.token_uses
        return self._answer(200, json.dumps({"token": token}).encode())

    def _manifests(self, name: str, what: str, query: object) -> None:
        stub = self.registry
        if self.command == "PUT":
            data = bytearray()
            self._body(data)
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            for key in {what, digest}:
                stub.manifests[name, key] = self.headers["Content-Type"], bytes(data)
            return self._answer(201, Docker_Content_Digest=digest, OCI_Subject="sha256:lie")
        if (name, what) not in stub.manifests:
            return self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        kind, found = stub.manifests[name, what]
        return self._answer(200, found, Content_Type=kind)

    def _referrers(self, name: str, digest: str, query: dict[str, list[str]]) -> None:
        if not self.registry.referrers_api:
            return self._answer(404, b"404 page not found")
        rows = []
        for (where, key), (kind, data) in sorted(self.registry.manifests.items()):
            value = json.loads(data)
            if where == name and key.startswith("sha256:") and value.get("subject", {}).get("digest") == digest:
                rows.append(
                    {"mediaType": kind, "digest": key, "size": len(data), "artifactType": value["artifactType"]}
                )
        start = int(query.get("from", ["0"])[0])
        end = start + self.registry.page
        more = {"Link": f'</v2/{name}/referrers/{digest}?from={end}>; rel="next"'} if end < len(rows) else {}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows[start:end]}
        return self._answer(200, json.dumps(index).encode(), Content_Type=INDEX, **more)

    def _blobs(self, name: str, what: str, query: dict[str, list[str]]) -> None:
        stub = self.registry
        if what.startswith("uploads/") or what == "uploads":
            return self._upload(name, what.removeprefix("uploads").strip("/"), query)
        if (name, what) not in stub.blobs:
            return self._answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        data = stub.blobs[name, what]
        if stub.redirect and self.command == "GET":
            return self._answer(307, Location=f"{stub.redirect}/v2/{name}/blobs/{what}")
        if stub.lie:
            data = data[:-1] + bytes([data[-1] ^ 1])
        match = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        if match and stub.ranges:
            start = int(match[1])
            return self._answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        return self._answer(200, data)

    def _upload(self, name: str, session: str, query: dict[str, list[str]]) -> None:
        stub = self.registry
        if self.command == "POST":
            source, mounted = query.get("from", [""])[0], query.get("mount", [""])[0]
            if stub.mounts and (source, mounted) in stub.blobs:
                stub.blobs[name, mounted] = stub.blobs[source, mounted]
                return self._answer(201)
            session = f"s{next(stub.numbers)}"
            stub.sessions[session] = bytearray()
            return self._answer(202, Location=f"/v2/{name}/blobs/uploads/{session}")
        if session not in stub.sessions:
            return self._answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        data, here = stub.sessions[session], f"/v2/{name}/blobs/uploads/{session}"
        if self.command == "DELETE":
            return self._answer(204)
        if self.command in ("PATCH", "PUT"):
            start = re.match(r"([0-9]+)-", self.headers.get("Content-Range", ""))
            if start and int(start[1]) != len(data):
                return self._answer(416, Location=here, Range=f"0-{max(len(data) - 1, 0)}")
            self._body(data)
        if self.command == "PUT":
            digest = query["digest"][0]
            if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                return self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            stub.blobs[name, digest] = bytes(stub.sessions.pop(session))
            return self._answer(201, Location=f"/v2/{name}/blobs/{digest}")
        status = 204 if self.command == "GET" else 202
        return self._answer(status, Location=here, Range=f"0-{max(len(data) - 1, 0)}")
