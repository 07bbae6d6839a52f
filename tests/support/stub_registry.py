# SPDX-License-Identifier: Apache-2.0
"""A registry in memory for what the one real registry at hand cannot do: sessions that survive a cut, the referrers
API with pages, tokens, redirects, servers that are busy, lie, or know no ranges. It follows distribution-spec v1.1.

Faults are switched on by fields; `log` holds one row per request, with the bytes that moved each way. `HABITS` has what
registries that people use were reported to do, by name, each with where it was reported.
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
MiB = 1 << 20


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
    largest: int | None = None  # bytes of a request's body that it takes
    too_large: int = 413  # what it answers to more
    least: int | None = None  # bytes of every piece but the last
    most: int | None = None  # bytes of a piece that it states, and takes
    patched: int = 202  # what it answers to a piece
    stale_range: bool = False  # `Range` stays at the end of the first piece
    start_range: str | None = None  # `Range` of an empty session
    moving: bool = False  # every answer names another address of the session
    mute_login: bool = False  # a 401 does not say how to log in
    basic_user: tuple[str, str] | None = None  # writing needs a password; `/v2/` and reading are open
    denies: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # method of manifests to what it answers
    untags: bool = True  # whether a tag can be deleted by itself
    port: int = 0
    firsts: dict[str, int] = field(default_factory=dict)  # where the first piece of a session ended
    tokens: dict[str, int] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def rows(self, method: str, pattern: str) -> list[Row]:
        return [row for row in self.log if row.method == method and re.search(pattern, row.path)]


# What each was reported to do. Nobody's source was at hand: these are reports of users and maintainers.
HABITS: dict[str, dict[str, Any]] = {
    # ocx-sh/ocx#237, wasmCloud/wash-archive#268, oras-project/rust-oci-client#37: 416 REQUESTED_RANGE_NOT_SATISFIABLE
    # "the request body is too large and exceeds the maximum permissible limit of 4.00MiB"
    "ghcr": {"largest": 4 * MiB, "too_large": 416, "token_user": ("ada", "s3cret")},
    # aws/containers-roadmap#2831: PATCH is answered 201, and `Range` stays where the first piece ended;
    # dotnet/sdk-container-builds#424: all parts but the last have at least 5 MB
    "ecr": {"patched": 201, "stale_range": True, "least": 5 * MiB, "token_user": ("AWS", "s3cret")},
    # goharbor/harbor#23015: 413 above some 20 MB; opencontainers/artifacts#55: the address of a session has a state
    "acr": {"largest": 20 * MiB, "moving": True, "token_user": ("ada", "s3cret")},
    # goharbor/harbor#21640 and nginx's client_max_body_size: a proxy that takes 1 MiB
    "harbor": {"largest": 1 * MiB, "token_user": ("robot$ci", "s3cret")},
    # project-zot/zot#2928 and #3538: anonymousPolicy, `/v2/` answers 200 to anonymous clients, a push is answered 401
    "zot": {"basic_user": ("ada", "s3cret"), "referrers_api": True},
    # helm/helm#30987: an empty session has `Range: bytes=0--1`, addresses are whole
    "quay": {"start_range": "bytes=0--1", "token_user": ("acme+robot", "s3cret")},
    # opencontainers/distribution-spec 1.1, `OCI-Chunk-Min-Length`; its issue 485 proposes the other
    "stated": {"least": 8 * MiB, "most": 9 * MiB},
}


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

    def _refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), **headers)

    def _stranger(self) -> bool:
        """Whether an anonymous client writes."""
        if self.registry.basic_user is None or self.command in ("GET", "HEAD"):
            return False
        expected = base64.b64encode(":".join(self.registry.basic_user).encode()).decode()
        return self.headers.get("Authorization") != f"Basic {expected}"

    def _route(self) -> None:
        stub, url = self.registry, urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/token":
            return self._token(query)
        if not self._allowed():
            challenge = f'Bearer realm="http://{stub.host}/token",service="stub"'
            return self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate=challenge)
        if self._stranger():
            how = {} if stub.mute_login else {"WWW_Authenticate": 'Basic realm="stub"'}
            return self._refuse(401, "UNAUTHORIZED", "authentication required", **how)
        if stub.busy:
            stub.busy -= 1
            more = {"Retry_After": stub.retry_after} if stub.retry_after else {}
            return self._answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', **more)
        if url.path == "/v2/":
            return self._answer(200, b"{}")
        if url.path.endswith("/tags/list"):
            return self._tags(url.path.removeprefix("/v2/").removesuffix("/tags/list"), query)
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
            return self._answer(401, b'{"details":"incorrect username or password"}')
        stub.scopes += query.get("scope", []) + form.get("scope", [])
        token = f"token-{len(stub.tokens)}"
        stub.tokens[token] = stub.token_uses
        return self._answer(200, json.dumps({"token": token}).encode())

    def _tags(self, name: str, query: dict[str, list[str]]) -> None:
        tags = sorted(key for where, key in self.registry.manifests if where == name and ":" not in key)
        if not tags:
            return self._refuse(404, "NAME_UNKNOWN", "repository name not known to registry")
        after = [tag for tag in tags if tag > query.get("last", [""])[0]]
        page = after[: self.registry.page]
        more = {"Link": f'</v2/{name}/tags/list?last={page[-1]}>; rel="next"'} if after[len(page) :] else {}
        return self._answer(200, json.dumps({"name": name, "tags": page}).encode(), **more)

    def _manifests(self, name: str, what: str, query: object) -> None:
        stub = self.registry
        if self.command in stub.denies:
            return self._refuse(*stub.denies[self.command])
        if self.command == "DELETE" and ":" not in what and not stub.untags:
            return self._refuse(405, "UNSUPPORTED", "The operation is unsupported.")
        if self.command == "DELETE" and (name, what) in stub.manifests:
            _, data = stub.manifests.pop((name, what))
            if ":" in what:
                stub.manifests = {key: row for key, row in stub.manifests.items() if key[0] != name or row[1] != data}
            return self._answer(202)
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

    def _open_session(self, name: str, query: dict[str, list[str]]) -> None:
        stub = self.registry
        source, mounted = query.get("from", [""])[0], query.get("mount", [""])[0]
        if stub.mounts and (source, mounted) in stub.blobs:
            stub.blobs[name, mounted] = stub.blobs[source, mounted]
            return self._answer(201)
        session = f"s{next(stub.numbers)}"
        stub.sessions[session] = bytearray()
        stated = {"OCI_Chunk_Min_Length": stub.least, "OCI_Chunk_Max_Length": stub.most} if stub.most else {}
        more = {"Range": stub.start_range} if stub.start_range else {}
        return self._answer(
            202,
            Location=f"/v2/{name}/blobs/uploads/{session}",
            **more,
            **{key: str(value) for key, value in stated.items()},
        )

    def _refused(self, held: int, query: dict[str, list[str]]) -> bool:
        """Answer bytes that the registry does not take, and say so."""
        stub, size = self.registry, int(self.headers.get("Content-Length") or 0)
        if stub.moving and query.get("_state", ["0"]) != [str(held)]:
            self._refuse(404, "BLOB_UPLOAD_UNKNOWN", "the state is of another request")
        elif size > (stub.largest or stub.most or size):
            words = f"the request body is too large and exceeds the maximum permissible limit of {stub.largest} bytes"
            self._refuse(stub.too_large, "SIZE_INVALID", words)
        elif self.command == "PATCH" and size < (stub.least or 0):
            self._refuse(400, "LAYER_PART_TOO_SMALL", "all layer parts except the last are larger")
        else:
            return False
        return True

    def _upload(self, name: str, session: str, query: dict[str, list[str]]) -> None:
        stub = self.registry
        if self.command == "POST":
            return self._open_session(name, query)
        if session not in stub.sessions:
            return self._answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        data, here = stub.sessions[session], f"/v2/{name}/blobs/uploads/{session}"
        if self.command == "DELETE":
            return self._answer(204)
        if stub.moving:
            here += f"?_state={len(data) + int(self.headers.get('Content-Length') or 0)}"
        if self._refused(len(data), query):
            return None
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
        status = 204 if self.command == "GET" else stub.patched
        end = stub.firsts.setdefault(session, len(data)) if stub.stale_range else len(data)
        return self._answer(status, Location=here, Range=f"0-{max(end - 1, 0)}")
