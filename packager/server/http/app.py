# SPDX-License-Identifier: Apache-2.0
"""The HTTP side as an RSGI application: paths, methods, status codes, and where a request runs.

What a client can make this server hold, and what stops it:

| | bound |
| --- | --- |
| one body | `max_body` bytes, or what the contract allows if that is less; inflated size too: 413 |
| its end | by Content-Length, or the last of 2**16 chunks: 400 where it ends before or otherwise |
| one JSON document | 12 MiB, 2**19 values (`costs`): 413 |
| all requests in memory | `4 * max_body` bytes of bodies and of what they become, before they become it: 429 |
| the event loop | bodies of 64 KiB, 8 where texts may come, 1 MiB of plain numbers; 5 ms a turn (`pace`) |
| requests in flight, queued ones included | `max_in_flight`: 429 with `retry-after` |
| time to send a body | `body_timeout` seconds: 408; a request that is still arriving takes no place in flight |
| time for an answer | `request_timeout`, or less if the client's `x-request-timeout` (seconds) says so: 504 |
| time to send a head, or to sit idle | `read_timeout` seconds, then closed, by granian |
| one head | between 64 and 128 KiB, or 100 fields: 431 by granian |
| connections | `connections`; further ones wait in the kernel's queue |

A client that leaves while its request waits for a run takes the request with it. What is not bounded: how long a
client takes to read an answer (granian has no write timeout; such a client keeps one connection and one answer until
it goes away), and connections or requests per second of one client: a proxy has those limits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server.admission import costs
from packager.server.admission.gate import Lease
from packager.server.admission.shared_timeout import Patience
from packager.server.errors import RequestError, quote
from packager.server.execution import batching
from packager.server.execution.engine import ALIAS, Engine
from packager.server.http import bodies, openapi
from packager.server.http.auth import Guard
from packager.server.http.header_cache import Heads
from packager.server.http.pace import Pace
from packager.server.http.proxies import Proxies
from packager.server.protocol import protocol, triton_extensions
from packager.server.protocol.protocol import Body, Request
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import LOGGER, event

# JSON is parsed and written at about 100 MB/s: a longer document would hold up the event loop for a millisecond.
_INLINE_DOCUMENT_BYTES = costs.SMALL
_INLINE_BYTES = 2**20  # of numbers: 0.1 ms to copy, where they have to be
_WATCH_SECONDS = 0.05  # an answer that comes sooner need not know whether its client is still there
_NO_CONTENT = 204
_CLIENT_CLOSED = 499  # nginx's code for a client that left; only counted, there is nobody to send it to
_JSON = [("content-type", "application/json")]
_BINARY = ("content-type", "application/octet-stream")
_VARIES = ("vary", "accept-encoding")
_OPEN = "health"  # the route that needs no token: probes have none
_PROBES = (_OPEN, "metrics")  # who asks there goes on when nobody else does


class Response(NamedTuple):
    """Status, header fields and body of an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Handler: TypeAlias = Callable[[Scope, HTTPProtocol], Awaitable[Response]]


class Route(NamedTuple):
    """What answers a path: a name for the metrics, the methods allowed, and the handler."""

    name: str
    methods: tuple[str, ...]
    handler: Handler


class Question(NamedTuple):
    """An inference request as it arrived: its body, the two headers that say how to read it, and what it may hold.

    `brief`: reading it is short enough for the event loop. `wanted`: how the answer is to be encoded.
    """

    body: Body
    encoding: str
    header_length: str | None
    lease: Lease
    brief: bool
    wanted: str


class App:
    """One engine over HTTP."""

    def __init__(self, engine: Engine, guard: Guard, proxies: Proxies) -> None:
        self._engine, self._guard, self._proxies = engine, guard, proxies
        self._base = f"/v2/models/{engine.config.name}"
        self._routes = self._table()
        self._heads = Heads(engine.config.interface, engine.config.name, engine.config.version)
        self._patience, self._pace = Patience(engine.gate.limits.body_timeout), Pace()
        self._plain = not any(tensor.dtype in ("string", "bool") for tensor in engine.config.interface.inputs)

    def _table(self) -> dict[str, Route]:
        read = ("GET", "HEAD")
        table = {
            "/v2": Route("server", read, self._describe_server),
            "/v2/health/live": Route("health", read, self._live),
            "/v2/health/ready": Route("health", read, self._readiness),
            "/v2/knobs": Route("server", read, self._describe_knobs),
            "/openapi.json": Route("server", read, self._describe_paths),
            "/metrics": Route("metrics", read, self._exposition),
        }
        if self._engine.config.name != "stats":
            table["/v2/models/stats"] = Route("model", read, self._describe_statistics)
        for version in (self._engine.config.version, ALIAS):
            table |= self._of_model(f"{self._base}/versions/{version}")
        return table | self._of_model(self._base)

    def _of_model(self, path: str) -> dict[str, Route]:
        read = ("GET", "HEAD")
        return {
            path: Route("model", read, self._describe_model),
            f"{path}/ready": Route("health", read, self._readiness),
            f"{path}/infer": Route("infer", ("POST",), self._infer),
            f"{path}/config": Route("model", read, self._describe_configuration),
            f"{path}/stats": Route("model", read, self._describe_statistics),
        }

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """Answer one request; granian calls this."""
        path = self._proxies.path(scope.path)
        route = self._routes.get(path)
        span = self._engine.tracer.begin(scope.headers.get("traceparent")) if route and route.name == "infer" else None
        status = _CLIENT_CLOSED
        try:
            response = self._preflight(scope) or await self._answer(route, path, scope, proto)
            status = response.status
        except ProtocolClosed:
            self._engine.look()
            return
        finally:
            self._count(route, status, scope)
            if span:
                told = {"url.path": path, "http.request.method": scope.method}
                self._engine.tracer.end(span, "infer", status, **told)
        headers = response.headers
        if self._proxies.origins and response.status != _NO_CONTENT:
            headers = [*headers, *self._proxies.fields(scope.headers)]
        if self._engine.draining:
            headers = [*headers, ("connection", "close")]
            if route is None or route.name not in _PROBES:
                self._engine.asked()
        proto.response_bytes(response.status, headers, response.body)
        self._engine.look()

    def _preflight(self, scope: Scope) -> Response | None:
        """Answer a browser that asks whether a page may ask; it sends no token."""
        found = self._proxies.preflight(scope.method, scope.headers)
        return None if found is None else Response(_NO_CONTENT, found, b"")

    async def _answer(self, route: Route | None, path: str, scope: Scope, proto: HTTPProtocol) -> Response:
        try:
            if route is None or route.name != _OPEN:
                self._guard.check(scope.headers.get("authorization"))
            if route is None:
                raise self._not_found(path)
            if scope.method not in route.methods:
                allowed = ", ".join(route.methods)
                return _refusal(405, f"expected method {allowed}, got {quote(scope.method)}", ("allow", allowed))
            return await route.handler(scope, proto)
        except RequestError as error:
            extra = [("retry-after", str(error.retry_after))] if error.retry_after else []
            extra += [("www-authenticate", "Bearer")] if error.status == 401 else []
            return _refusal(error.status, error.message, *extra)
        except ProtocolClosed:
            raise
        except Exception:  # the outer boundary: the log gets the reason, the client only that there is one
            event("request failed", logging.ERROR, failure=True, path=path)
            return _refusal(500, "the request failed inside the server; its log has the reason")

    def _count(self, route: Route | None, status: int, scope: Scope) -> None:
        self._engine.metrics.count("other" if route is None else route.name, status)
        if LOGGER.isEnabledFor(logging.DEBUG):
            client = self._proxies.client(scope.headers, scope.client)
            event("request", logging.DEBUG, method=scope.method, path=scope.path, status=status, client=client)

    def _not_found(self, path: str) -> RequestError:
        parts = path.split("/")
        if path.startswith("/v2/models/") and parts[3] != self._engine.config.name:
            return self._engine.elsewhere(parts[3], "")
        if path.startswith(f"{self._base}/versions/") and parts[5] != self._engine.config.version:
            return self._engine.elsewhere(parts[3], parts[5])
        return RequestError(f"unknown path {quote(path)}", status=404)

    async def _describe_server(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(
            {
                "name": "packager",
                "version": protocol.VERSION,
                "extensions": [*protocol.EXTENSIONS, *triton_extensions.NAMES],
            }
        )

    async def _describe_paths(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(openapi.document(self._engine.config, self._proxies.base(scope.headers)))

    async def _describe_knobs(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(self._engine.knobs.to_json())

    async def _live(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json({"live": True})

    async def _readiness(self, scope: Scope, proto: HTTPProtocol) -> Response:
        ready = self._engine.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _exposition(self, scope: Scope, proto: HTTPProtocol) -> Response:
        body, content_type = self._engine.metrics.render(scope.headers.get("accept", ""))
        return Response(200, [("content-type", content_type)], body)

    async def _describe_model(self, scope: Scope, proto: HTTPProtocol) -> Response:
        config, knobs = self._engine.config, self._engine.knobs
        parameters = {"digest": config.digest, "target": config.target}
        return _json(
            {
                "name": config.name,
                "versions": [config.version],
                "platform": f"{config.runtime}_onnx",
                "inputs": [tensor.to_json() for tensor in config.interface.inputs],
                "outputs": [tensor.to_json() for tensor in config.interface.outputs],
                "parameters": parameters | ({"knobs": knobs.digest} if knobs.digest else {}),
            }
        )

    async def _describe_configuration(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(triton_extensions.configuration(self._engine.config))

    async def _describe_statistics(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(triton_extensions.statistics(self._engine.config, self._engine.metrics))

    async def _infer(self, scope: Scope, proto: HTTPProtocol) -> Response:
        engine, headers = self._engine, scope.headers
        deadline = engine.deadline(_seconds(headers.get("x-request-timeout")))
        with engine.arriving() as lease:
            encoding = bodies.encoding(headers)
            body = await bodies.read(headers, proto, lease, self._patience)
            told = headers.get("inference-header-content-length")
            wanted = bodies.wanted_encoding(headers.get("accept-encoding"))
            question = Question(body, encoding, told, lease, not encoding and self._is_brief(told, len(body)), wanted)
            with engine.gate.admit():
                if question.brief and len(body) <= engine.inline_bytes:
                    if engine.gate.arriving > 1 and not self._pace.has_time():
                        await self._pace.wait()
                    request = self._read(question)
                    return self._render(request, await engine.prompt(request, len(body)), question)
                return await self._queued(question, proto, deadline)

    def _is_brief(self, told: str | None, size: int) -> bool:
        """Tell whether reading a body of so many bytes is short enough for the event loop."""
        if size <= (_INLINE_DOCUMENT_BYTES if self._plain else costs.SMALL_TEXTS):
            return True
        document = int(told) if told and told.isdecimal() and len(told) <= 18 else size
        return self._plain and size <= _INLINE_BYTES and document <= _INLINE_DOCUMENT_BYTES

    async def _queued(self, question: Question, proto: HTTPProtocol, deadline: float | None) -> Response:
        """Answer a request that takes long, on other threads, as long as somebody waits for it."""
        loop, engine = asyncio.get_running_loop(), self._engine
        if question.brief:
            await self._pace.wait()
            request = self._read(question)
        else:
            request = await loop.run_in_executor(engine.pool, self._read, question)
        results = engine.named(await _awaited(engine.queue(request, deadline), proto, deadline))
        if _is_brief(request, results):
            return self._render(request, results, question)
        return await loop.run_in_executor(engine.pool, self._render, request, results, question)

    def _read(self, question: Question) -> Request:
        body, lease = question.body, question.lease
        if question.brief:
            return self._heads.parse(body, protocol.header_length(question.header_length, len(body)), lease.take)
        with self._engine.reading(_INLINE_BYTES if question.encoding else len(body)):
            body = bodies.inflate(body, question.encoding, lease.gate.limits.max_body, lease.take)
            return self._heads.parse(body, protocol.header_length(question.header_length, len(body)), lease.take)

    def _render(self, request: Request, results: dict[str, Array], question: Question) -> Response:
        """Write an answer; the length of its document is that before it is encoded, as Triton's clients expect."""
        reply = self._heads.render(request, results, question.lease.take)
        fields = _JSON
        if reply.header_length is not None:
            fields = [_BINARY, ("inference-header-content-length", str(reply.header_length))]
        if not question.wanted or len(reply.body) < bodies.LEAST_ENCODED:
            return Response(200, fields, reply.body)
        encoded = bodies.deflate(reply.body, question.wanted)
        return Response(200, [*fields, ("content-encoding", question.wanted), _VARIES], encoded)


def _is_brief(request: Request, results: dict[str, Array]) -> bool:
    """Tell whether writing an answer is short enough for the event loop."""
    binary = sum(results[wanted.name].nbytes for wanted in request.wanted if wanted.binary)
    listed = sum(results[wanted.name].nbytes for wanted in request.wanted if not wanted.binary)
    return binary <= _INLINE_BYTES and listed <= _INLINE_DOCUMENT_BYTES


async def _awaited(answer: Future[Sequence[Array]], proto: HTTPProtocol, deadline: float | None) -> Sequence[Array]:
    """Wait for an answer until its deadline, or until the client leaves; what has not begun to run is then not run.

    Raises RequestError with status 504, and ProtocolClosed.
    """
    result = asyncio.wrap_future(answer)
    left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        await asyncio.wait((result,), timeout=min(left, _WATCH_SECONDS))
        if result.done():
            return result.result()
        await _watched(result, proto, left - _WATCH_SECONDS)
        return result.result()
    finally:
        result.cancel()


async def _watched(result: asyncio.Future[Sequence[Array]], proto: HTTPProtocol, left: float) -> None:
    """Return when `result` is there. Raises RequestError after `left` seconds, ProtocolClosed when nobody waits."""
    gone = asyncio.ensure_future(proto.client_disconnect())
    try:
        timeout = None if left == math.inf else max(0.0, left)
        await asyncio.wait((result, gone), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ProtocolClosed if gone.done() else batching.late()
    finally:
        gone.cancel()


def _seconds(value: str | None) -> float | None:
    """Read `x-request-timeout`. Raises RequestError."""
    if value is None:
        return None
    if not (len(value) <= 18 and value.isascii() and value.replace(".", "", 1).isdigit()):
        raise RequestError(f"`X-Request-Timeout`: expected seconds, got {quote(value)}")
    return float(value)


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, _JSON, orjson.dumps(value))


def _refusal(status: int, message: str, *headers: tuple[str, str]) -> Response:
    return Response(status, [*_JSON, *headers], orjson.dumps({"error": message}))
