# SPDX-License-Identifier: Apache-2.0
"""The HTTP server as an RSGI application: routes, status codes, and where a request runs.

Bounds on what a client can make this server hold:

| | bound |
| --- | --- |
| one body | `max_body` bytes, or what the contract allows if that is less; inflated size too: 413 |
| its end | by Content-Length, or the last of 2**16 chunks: 400 if it ends early or otherwise |
| one JSON document | 12 MiB, 2**19 values (`costs`): 413 |
| all requests in memory | `4 * max_body` bytes of bodies and of what they are parsed to, counted before that: 429 |
| the event loop | bodies of 64 KiB, 8 if texts are possible, 1 MiB of plain numbers; 5 ms an iteration (`pace`) |
| requests in flight, queued ones included | `max_in_flight`: 429 with `retry-after` |
| time to send a body | `body_timeout` seconds: 408; a request that is still arriving takes no slot in flight |
| time for an answer | `request_timeout`, or the client's `x-request-timeout` (seconds) if that is less: 504 |
| time to send headers, or to stay idle | `read_timeout` seconds, then closed, by granian |
| headers | between 64 and 128 KiB, or 100 fields: 431 by granian |
| connections | `connections`; further ones wait in the kernel's queue |

A request whose client disconnects while it waits for a run is not run. Not bounded: how long a
client takes to read an answer (granian has no write timeout; such a client keeps one connection and one answer until
it disconnects), and connections or requests per second of one client: a proxy has those limits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, TypeAlias

from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server.admission import costs
from packager.server.admission.admission import Lease
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError, quote
from packager.server.execution.engine import VERSION_ALIAS, Engine
from packager.server.http import bodies, openai_models, openapi
from packager.server.http.auth import Guard
from packager.server.http.header_cache import HeaderCache
from packager.server.http.openai_routes import Streamed, TextRoutes
from packager.server.http.pace import Pace
from packager.server.http.proxies import Proxies
from packager.server.http.raw_requests import RawRequests
from packager.server.http.responses import JSON_FIELDS, Response, Route, json_response, refuse_request
from packager.server.http.seq2seq import Seq2SeqRoutes
from packager.server.http.waiting import parse_timeout, wait_result
from packager.server.protocol import protocol, triton_extensions
from packager.server.protocol.protocol import Body, Request
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import LOGGER, log_event

# JSON is parsed and written at about 100 MB/s: a longer document would hold up the event loop for a millisecond.
_INLINE_DOCUMENT_BYTES = costs.SMALL
_INLINE_BYTES = 2**20  # of numbers: 0.1 ms to copy, where they have to be
_NO_CONTENT = 204
_CLIENT_CLOSED = 499  # nginx's code for a client that disconnected; only counted, never sent
_BINARY = ("content-type", "application/octet-stream")
_VARIES = ("vary", "accept-encoding")
_PUBLIC = ("health", "page")  # routes that need no token: probes have none, and the page holds nothing of the model
_PROBES = ("health", "metrics")  # requested for ever, also while the server drains
AnyResponse: TypeAlias = "Response | Streamed"


class ReceivedRequest(NamedTuple):
    """An inference request as received: its body, the two headers that say how to parse it, and its lease.

    `brief`: parsing it is short enough for the event loop. `wanted`: the content encoding of the answer.
    """

    body: Body
    encoding: str
    header_length: str | None
    lease: Lease
    brief: bool
    wanted: str


class App:
    """One engine over HTTP."""

    def __init__(self, engine: Engine, guard: Guard, proxies: Proxies, *, page: bool = True) -> None:
        self._engine, self._guard, self._proxies = engine, guard, proxies
        self._body_timeout, self._pace = SharedTimeout(engine.admission.limits.body_timeout), Pace()
        self._raw = RawRequests(engine, self._body_timeout, page=page)
        self._base = f"/v2/models/{engine.config.name}"
        self._routes = self._table()
        self._header_cache = HeaderCache(engine.config.interface, engine.config.name, engine.config.version)
        self._plain = not any(tensor.dtype in ("string", "bool") for tensor in engine.config.interface.inputs)

    def _table(self) -> dict[str, Route]:
        read = ("GET", "HEAD")
        if self._engine.config.generation:
            return self._tasks(read)
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
        for version in (self._engine.config.version, VERSION_ALIAS):
            table |= self._of_model(f"{self._base}/versions/{version}")
        return table | self._of_model(self._base) | self._raw.routes()

    def _tasks(self, read: tuple[str, ...]) -> dict[str, Route]:
        """Return the routes of a model that generates text: its graph takes no single requests."""
        timeout, about = SharedTimeout(self._engine.admission.limits.body_timeout), self._engine.config.generation
        kind = Seq2SeqRoutes if about and about.decoding else TextRoutes
        return {
            "/v2/health/live": Route("health", read, self._live),
            "/v2/health/ready": Route("health", read, self._readiness),
            "/v2/knobs": Route("server", read, self._describe_knobs),
            "/metrics": Route("metrics", read, self._exposition),
            **{path: Route(*route) for path, route in kind(self._engine, timeout).table().items()},
        }

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
        route = self._routes.get(path) or self._routes.get(openai_models.folder(path))
        span = self._engine.tracer.begin(scope.headers.get("traceparent")) if route and route.name == "infer" else None
        status = _CLIENT_CLOSED
        try:
            response = self._preflight(scope) or await self._answer(route, path, scope, proto)
            status = response.status
        except ProtocolClosed:
            self._engine.record_sample()
            return
        finally:
            self._count(route, status, scope)
            if span:
                attributes = {"url.path": path, "http.request.method": scope.method}
                self._engine.tracer.end(span, "infer", status, **attributes)
        headers = response.headers
        if self._proxies.origins and response.status != _NO_CONTENT:
            headers = [*headers, *self._proxies.fields(scope.headers)]
        if self._engine.draining:
            headers = [*headers, ("connection", "close")]
            if route is None or route.name not in _PROBES:
                self._engine.note_request()
        if isinstance(response, Streamed):
            await _send_stream(proto, headers, response)
        else:
            proto.response_bytes(response.status, headers, response.body)
        self._engine.record_sample()

    def _preflight(self, scope: Scope) -> Response | None:
        """Answer a CORS preflight request; it has no token."""
        found = self._proxies.preflight(scope.method, scope.headers)
        return None if found is None else Response(_NO_CONTENT, found, b"")

    async def _answer(self, route: Route | None, path: str, scope: Scope, proto: HTTPProtocol) -> AnyResponse:
        try:
            if route is None or route.name not in _PUBLIC:
                self._guard.check(scope.headers.get("authorization"))
            if route is None:
                raise self._not_found(path)
            if scope.method not in route.methods:
                allowed = ", ".join(route.methods)
                return refuse_request(405, f"expected method {allowed}, got {quote(scope.method)}", ("allow", allowed))
            return await route.handler(scope, proto)
        except RequestError as error:
            extra = [("retry-after", str(error.retry_after))] if error.retry_after else []
            extra += [("www-authenticate", "Bearer")] if error.status == 401 else []
            return refuse_request(error.status, error.message, *extra)
        except ProtocolClosed:
            raise
        except Exception:  # the outer boundary: the reason goes to the log, not to the client
            log_event("request failed", logging.ERROR, failure=True, path=path)
            return refuse_request(500, "the request failed inside the server; its log has the reason")

    def _count(self, route: Route | None, status: int, scope: Scope) -> None:
        self._engine.metrics.count("other" if route is None else route.name, status)
        if LOGGER.isEnabledFor(logging.DEBUG):
            client = self._proxies.client(scope.headers, scope.client)
            log_event("request", logging.DEBUG, method=scope.method, path=scope.path, status=status, client=client)

    def _not_found(self, path: str) -> RequestError:
        parts = path.split("/")
        if path.startswith("/v2/models/") and parts[3] != self._engine.config.name:
            return self._engine.unknown_model_error(parts[3], "")
        if path.startswith(f"{self._base}/versions/") and parts[5] != self._engine.config.version:
            return self._engine.unknown_model_error(parts[3], parts[5])
        return RequestError(f"unknown path {quote(path)}", status=404)

    async def _describe_server(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response(
            {
                "name": "packager",
                "version": protocol.VERSION,
                "extensions": [*protocol.EXTENSIONS, *triton_extensions.NAMES],
            }
        )

    async def _describe_paths(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response(openapi.describe_server(self._engine.config, self._proxies.base(scope.headers)))

    async def _describe_knobs(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response(self._engine.knobs.to_json())

    async def _live(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response({"live": True})

    async def _readiness(self, scope: Scope, proto: HTTPProtocol) -> Response:
        ready = self._engine.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def _exposition(self, scope: Scope, proto: HTTPProtocol) -> Response:
        body, content_type = self._engine.metrics.render(scope.headers.get("accept", ""))
        return Response(200, [("content-type", content_type)], body)

    async def _describe_model(self, scope: Scope, proto: HTTPProtocol) -> Response:
        config, knobs = self._engine.config, self._engine.knobs
        parameters = {"digest": config.digest, "target": config.target}
        return json_response(
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
        return json_response(triton_extensions.configuration(self._engine.config))

    async def _describe_statistics(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response(triton_extensions.statistics(self._engine.config, self._engine.metrics))

    async def _infer(self, scope: Scope, proto: HTTPProtocol) -> Response:
        engine, headers = self._engine, scope.headers
        deadline = engine.deadline(parse_timeout(headers.get("x-request-timeout")))
        with engine.lease() as lease:
            encoding = bodies.content_encoding(headers)
            body = await bodies.read_body(headers, proto, lease, self._body_timeout)
            header_length = headers.get("inference-header-content-length")
            if self._raw.offered:
                body, encoding = await self._raw.inflated(body, encoding, lease)
                if await self._raw.takes(body, header_length):
                    return await self._raw.infer(body, header_length, lease, proto, deadline)
            wanted = bodies.wanted_encoding(headers.get("accept-encoding"))
            received = ReceivedRequest(
                body, encoding, header_length, lease, not encoding and self._is_brief(header_length, len(body)), wanted
            )
            with engine.admission.admit():
                if received.brief and len(body) <= engine.inline_bytes:
                    if engine.admission.arriving > 1 and not self._pace.has_time():
                        await self._pace.wait()
                    request = self._parse(received)
                    return self._render(request, await engine.run_inline(request, len(body)), received)
                return await self._run_queued(received, proto, deadline)

    def _is_brief(self, header_length: str | None, size: int) -> bool:
        """Return whether parsing a body of `size` bytes is short enough for the event loop."""
        if size <= (_INLINE_DOCUMENT_BYTES if self._plain else costs.SMALL_TEXTS):
            return True
        document = (
            int(header_length) if header_length and header_length.isdecimal() and len(header_length) <= 18 else size
        )
        return self._plain and size <= _INLINE_BYTES and document <= _INLINE_DOCUMENT_BYTES

    async def _run_queued(self, received: ReceivedRequest, proto: HTTPProtocol, deadline: float | None) -> Response:
        """Answer a long request on other threads, as long as its client is connected."""
        loop, engine = asyncio.get_running_loop(), self._engine
        if received.brief:
            await self._pace.wait()
            request = self._parse(received)
        else:
            request = await loop.run_in_executor(engine.pool, self._parse, received)
        results = engine.name_results(await wait_result(engine.queue(request, deadline), proto, deadline))
        if _is_brief(request, results):
            return self._render(request, results, received)
        return await loop.run_in_executor(engine.pool, self._render, request, results, received)

    def _parse(self, received: ReceivedRequest) -> Request:
        body, lease = received.body, received.lease
        if received.brief:
            return self._header_cache.parse(body, protocol.header_length(received.header_length, len(body)), lease.hold)
        with self._engine.parse_lock(_INLINE_BYTES if received.encoding else len(body)):
            body = bodies.inflate(body, received.encoding, lease.admission.limits.max_body, lease.hold)
            return self._header_cache.parse(body, protocol.header_length(received.header_length, len(body)), lease.hold)

    def _render(self, request: Request, results: dict[str, Array], received: ReceivedRequest) -> Response:
        """Write an answer. The header length is that before content encoding, as Triton's clients expect."""
        reply = self._header_cache.render(request, results, received.lease.hold)
        fields = JSON_FIELDS
        if reply.header_length is not None:
            fields = [_BINARY, ("inference-header-content-length", str(reply.header_length))]
        if not received.wanted or len(reply.body) < bodies.MIN_ENCODED_BYTES:
            return Response(200, fields, reply.body)
        encoded = bodies.deflate(reply.body, received.wanted)
        return Response(200, [*fields, ("content-encoding", received.wanted), _VARIES], encoded)


async def _send_stream(proto: HTTPProtocol, headers: list[tuple[str, str]], response: Streamed) -> None:
    """Send the parts of an answer as they come, until its client disconnects."""
    try:
        transport = proto.response_stream(response.status, headers)
        async for part in response.parts:
            await transport.send_bytes(part)
    except ProtocolClosed:
        log_event("client left", logging.DEBUG)
    finally:
        await response.parts.aclose()  # type: ignore[attr-defined]


def _is_brief(request: Request, results: dict[str, Array]) -> bool:
    """Return whether writing an answer is short enough for the event loop."""
    binary = sum(results[wanted.name].nbytes for wanted in request.wanted if wanted.binary)
    listed = sum(results[wanted.name].nbytes for wanted in request.wanted if not wanted.binary)
    return binary <= _INLINE_BYTES and listed <= _INLINE_DOCUMENT_BYTES
