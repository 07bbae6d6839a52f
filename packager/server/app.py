# SPDX-License-Identifier: Apache-2.0
"""The HTTP side as an RSGI application: paths, methods, status codes, and where a request runs.

What a client can make this server hold, and what stops it:

| | bound |
| --- | --- |
| one body | `max_body` bytes, told by Content-Length or counted while chunks arrive; inflated size too: 413 |
| all bodies in memory | `4 * max_body` bytes: 503 |
| requests admitted | `max_in_flight`: 503 with `retry-after` |
| time to send a body | `read_timeout` seconds: 408 |
| time to send a head, or to sit idle | `read_timeout` seconds, then closed, by granian |
| one head | between 64 and 128 KiB, or 100 fields: 431 by granian |
| connections | `connections`; further ones wait in the kernel's queue |

What it does not bound: how long a client takes to read an answer (granian has no write timeout; such a client keeps
one connection and one answer until it goes away), connections or requests per second of one client, and the factor
by which a JSON body grows when parsed (up to about twenty; binary bodies do not grow). A server that strangers can
reach belongs behind a proxy that has those limits; so does TLS.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server import bodies, extensions, model, protocol
from packager.server.config import Config
from packager.server.errors import RequestError, quote
from packager.server.gate import Gate, Lease, Limits, overload
from packager.server.knobs import Knobs
from packager.server.logs import LOGGER, event
from packager.server.metrics import Metrics
from packager.server.model import Session, WarmUp
from packager.server.tensors import Array

# JSON is parsed and written at about 100 MB/s: a longer document would hold up the event loop for a millisecond.
_INLINE_DOCUMENT_BYTES = 2**16
# Run time may depend on values, which no warm-up shows. A run in the event loop this long was a mistake, not a hiccup.
_MISTAKE_SECONDS = 0.05
_CLIENT_CLOSED = 499  # nginx's code for a client that left; only counted, there is nobody to send it to
_JSON = [("content-type", "application/json")]
_BINARY = ("content-type", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Response:
    """Status, header fields and body of an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Handler: TypeAlias = Callable[[Scope, HTTPProtocol], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a path: a name for the metrics, the methods allowed, and the handler."""

    name: str
    methods: tuple[str, ...]
    handler: Handler


@dataclass(frozen=True, slots=True)
class Question:
    """An inference request as it arrived: its body, and the two headers that say how to read it."""

    body: bytes
    encoding: str
    header_length: str | None

    @property
    def document_bytes(self) -> int:
        """How much JSON there is to parse, at most."""
        told = self.header_length or ""
        return min(int(told), len(self.body)) if told.isdecimal() and len(told) <= 18 else len(self.body)


class App:
    """One model, served. `load` makes it ready; `drain` makes it not ready and waits for the last answer."""

    def __init__(self, config: Config, limits: Limits, workers: int, knobs: Knobs | None = None) -> None:
        self._config = config
        self._knobs = knobs or Knobs()
        self._gate = Gate(limits)
        self._metrics = Metrics()
        self._metrics.in_flight.set_function(lambda: self._gate.in_flight)
        self._metrics.ready.set_function(lambda: self.ready)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="run")
        self._session: Session | None = None
        self._warm_up = WarmUp(0.0, 0)
        self._draining = False
        self._base = f"/v2/models/{config.name}"
        self._routes = self._table()

    def _table(self) -> dict[str, Route]:
        read = ("GET", "HEAD")
        table = {
            "/v2": Route("server", read, self._describe_server),
            "/v2/health/live": Route("health", read, self._live),
            "/v2/health/ready": Route("health", read, self._readiness),
            "/v2/knobs": Route("server", read, self._describe_knobs),
            "/metrics": Route("metrics", read, self._exposition),
        }
        for path in (self._base, f"{self._base}/versions/{self._config.version}"):
            table[path] = Route("model", read, self._describe_model)
            table[f"{path}/ready"] = Route("health", read, self._readiness)
            table[f"{path}/infer"] = Route("infer", ("POST",), self._infer)
            table[f"{path}/config"] = Route("model", read, self._describe_configuration)
            table[f"{path}/stats"] = Route("model", read, self._describe_statistics)
        return table

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: after warm-up, before shutdown."""
        return self._session is not None and not self._draining

    @property
    def config(self) -> Config:
        """What is served."""
        return self._config

    @property
    def in_flight(self) -> int:
        """Inference requests admitted and not yet answered."""
        return self._gate.in_flight

    async def load(self, threads: int) -> tuple[Session, WarmUp]:
        """Open and warm up the model on a worker thread. Raises StartError."""
        loop, config = asyncio.get_running_loop(), self._config
        session = await loop.run_in_executor(self._pool, model.load, config, threads)
        self._warm_up = await loop.run_in_executor(self._pool, model.warm_up, session, config.interface)
        self._metrics.describe(
            name=config.name, version=config.version, digest=config.digest, target=config.target,
            runtime=config.runtime, runtime_version=session.version, provider=session.provider,
        )  # fmt: skip
        self._metrics.deploy(config.digest, self._knobs.digest, self._knobs.labels)
        self._session = session
        return session, self._warm_up

    async def drain(self) -> None:
        """Turn readiness off and return when no inference request is in flight.

        Requests that still arrive are served, and told that their connection closes: refusing them would fail
        clients that have not yet heard of the shutdown.
        """
        self._draining = True
        await self._gate.idle()

    # what the gRPC side shares; it calls from its own threads

    def count(self, route: str, status: int) -> None:
        """Count an answer of another transport; `status` is the HTTP status it would have had."""
        self._metrics.requests.labels(route, status).inc()

    def check_address(self, model: str, version: str) -> None:
        """Raise RequestError unless this server has that model; an empty version means any."""
        if model != self._config.name:
            raise self._not_found(f"/v2/models/{model}")
        if version not in ("", self._config.version):
            raise self._not_found(f"{self._base}/versions/{version}")

    def encoded_statistics(self) -> bytes:
        """Return the statistics as the gRPC side sends them."""
        return extensions.encoded_statistics(self._config, self._metrics)

    @contextmanager
    def admitted(self) -> Iterator[Lease]:
        """Admit and time one inference request. Raises RequestError."""
        if self._session is None:
            raise overload("the model is still loading")
        with self._gate.admit() as lease, self._metrics.duration.time():
            yield lease

    def compute(self, request: protocol.Request) -> dict[str, Array]:
        """Run the model on a checked request, on the calling thread; return the results by name."""
        session, metrics = self._session, self._metrics
        if session is None:
            raise overload("the model is still loading")
        metrics.rows.observe(request.rows)
        started = time.perf_counter()
        arrays = session.run(dict(request.feeds))
        metrics.run.observe(time.perf_counter() - started)
        return {port.name: array for port, array in zip(session.outputs, arrays, strict=True)}

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """Answer one request; granian calls this."""
        route = self._routes.get(scope.path)
        try:
            response = await self._answer(route, scope, proto)
        except ProtocolClosed:
            self._count(route, _CLIENT_CLOSED, scope)
            return
        self._count(route, response.status, scope)
        headers = [*response.headers, ("connection", "close")] if self._draining else response.headers
        proto.response_bytes(response.status, headers, response.body)

    async def _answer(self, route: Route | None, scope: Scope, proto: HTTPProtocol) -> Response:
        try:
            if route is None:
                raise self._not_found(scope.path)
            if scope.method not in route.methods:
                allowed = ", ".join(route.methods)
                return _refusal(405, f"expected method {allowed}, got {quote(scope.method)}", ("allow", allowed))
            return await route.handler(scope, proto)
        except RequestError as error:
            extra = [("retry-after", "1")] if error.status == 503 else []
            return _refusal(error.status, error.message, *extra)
        except ProtocolClosed:
            raise
        except Exception:  # the outer boundary: the log gets the reason, the client only that there is one
            event("request failed", logging.ERROR, failure=True, path=scope.path)
            return _refusal(500, "the request failed inside the server; its log has the reason")

    def _count(self, route: Route | None, status: int, scope: Scope) -> None:
        self._metrics.requests.labels("other" if route is None else route.name, status).inc()
        if LOGGER.isEnabledFor(logging.DEBUG):
            event("request", logging.DEBUG, method=scope.method, path=scope.path, status=status, client=scope.client)

    def _not_found(self, path: str) -> RequestError:
        parts = path.split("/")
        message = f"unknown path {quote(path)}"
        if path.startswith("/v2/models/") and parts[3] != self._config.name:
            # Triton's clients know an unknown model by the first words
            message = f"Request for unknown model {quote(parts[3])}: this server has {quote(self._config.name)}"
        elif path.startswith(f"{self._base}/versions/") and parts[5] != self._config.version:
            message = f"unknown version {quote(parts[5])}: this server has {quote(self._config.version)}"
        return RequestError(message, status=404)

    async def _describe_server(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(
            {"name": "packager", "version": protocol.VERSION, "extensions": [*protocol.EXTENSIONS, *extensions.NAMES]}
        )

    async def _describe_knobs(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(self._knobs.to_json())

    async def _live(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json({"live": True})

    async def _readiness(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json({"ready": self.ready}, 200 if self.ready else 503)

    async def _exposition(self, scope: Scope, proto: HTTPProtocol) -> Response:
        body, content_type = self._metrics.render(scope.headers.get("accept", ""))
        return Response(200, [("content-type", content_type)], body)

    async def _describe_model(self, scope: Scope, proto: HTTPProtocol) -> Response:
        config = self._config
        parameters = {"digest": config.digest, "target": config.target}
        return _json(
            {
                "name": config.name,
                "versions": [config.version],
                "platform": f"{config.runtime}_onnx",
                "inputs": [tensor.to_json() for tensor in config.interface.inputs],
                "outputs": [tensor.to_json() for tensor in config.interface.outputs],
                "parameters": parameters | ({"knobs": self._knobs.digest} if self._knobs.digest else {}),
            }
        )

    async def _describe_configuration(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(extensions.configuration(self._config))

    async def _describe_statistics(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return _json(extensions.statistics(self._config, self._metrics))

    async def _infer(self, scope: Scope, proto: HTTPProtocol) -> Response:
        with self.admitted() as lease:
            headers = scope.headers
            encoding = bodies.encoding(headers)
            body = await bodies.read(headers, proto, lease)
            question = Question(body, encoding, headers.get("inference-header-content-length"))
            if self._short(question):
                return self._run_inline(question)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._run, question)

    def _short(self, question: Question) -> bool:
        return (
            len(question.body) <= self._warm_up.inline_bytes
            and question.document_bytes <= _INLINE_DOCUMENT_BYTES
            and not question.encoding
        )

    def _run_inline(self, question: Question) -> Response:
        started = time.perf_counter()
        response = self._run(question)
        spent = time.perf_counter() - started
        if spent > _MISTAKE_SECONDS:
            self._warm_up = replace(self._warm_up, inline_bytes=0)
            event("runs moved to threads", logging.WARNING, took_ms=round(spent * 1000, 1))
        return response

    def _run(self, question: Question) -> Response:
        """Answer an inference request; called in the event loop or on a worker thread."""
        config = self._config
        body = bodies.inflate(question.body, question.encoding, self._gate.limits.max_body)
        length = protocol.header_length(question.header_length, len(body))
        request = protocol.parse(body, length, config.interface)
        reply = protocol.render(request, self.compute(request), config.name, config.version)
        if reply.header_length is None:
            return Response(200, _JSON, reply.body)
        length_field = ("inference-header-content-length", str(reply.header_length))
        return Response(200, [_BINARY, length_field], reply.body)


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, _JSON, orjson.dumps(value))


def _refusal(status: int, message: str, *headers: tuple[str, str]) -> Response:
    return Response(status, [*_JSON, *headers], orjson.dumps({"error": message}))
