# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over HTTP as an ASGI application, for servers that bring their own HTTP.

Messages are read and written by the code of `packager serve` (`packager.server.protocol.protocol`); this file only
knows paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from packager.server.config import Config
from packager.server.errors import RequestError, quote
from packager.server.http import bodies
from packager.server.pipeline.parts import RAW_INPUTS, names_raw
from packager.server.protocol import protocol

Compute: TypeAlias = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Opened: TypeAlias = Callable[[], Any]
MAX_BODY = 64 << 20


def application(config: Config, record: dict[str, Any], compute: Compute, opened: Opened = lambda: None) -> Starlette:
    """Return the application for one model; `compute` turns arrays by name into arrays by name.

    `opened` returns the pipeline that makes tensors of raw inputs, or None.
    """
    server = _Server(config, record, compute, opened)
    routes = [
        Route("/v2", server.describe_server),
        Route("/v2/health/live", server.live),
        Route("/v2/health/ready", server.ready),
        Route("/v2/knobs", server.knobs),
    ]
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(base, server.describe),
            Route(f"{base}/ready", server.ready),
            Route(f"{base}/infer", server.infer, methods=["POST"]),
        ]
    return Starlette(routes=routes)


class _Server:
    """The answers."""

    def __init__(self, config: Config, record: dict[str, Any], compute: Compute, opened: Opened) -> None:
        self._config, self._record, self._compute, self._opened = config, record, compute, opened
        self._named = config.pipeline is not None and not {t.name for t in config.interface.inputs} & set(RAW_INPUTS)
        self._limit: int = record["values"].get("server.max_body", MAX_BODY)

    async def describe_server(self, request: Request) -> Response:
        return _json({"name": "packager", "version": protocol.VERSION, "extensions": protocol.EXTENSIONS})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """A worker takes requests when its model is open and warm: BentoML makes the service before it listens."""
        return self._unknown(request) or _json({"ready": True})

    async def knobs(self, request: Request) -> Response:
        return _json({"digest": self._record["knobs"], "values": self._record["values"]})

    async def describe(self, request: Request) -> Response:
        config = self._config
        about = {
            "name": config.name,
            "versions": [config.version],
            "platform": f"{config.runtime}_onnx",
            "inputs": [tensor.to_json() for tensor in config.interface.inputs],
            "outputs": [tensor.to_json() for tensor in config.interface.outputs],
            "parameters": {"digest": config.digest, "target": config.target, "knobs": self._record["knobs"]},
        }
        return self._unknown(request) or _json(about)

    async def infer(self, request: Request) -> Response:
        try:
            return self._unknown(request) or await self._infer(request)
        except RequestError as error:
            return _json({"error": error.message}, error.status)

    async def _infer(self, request: Request) -> Response:
        config = self._config
        coding = bodies.content_encoding({name.lower(): value for name, value in request.headers.items()})
        body = bodies.inflate(await _body(request, self._limit), coding, self._limit)
        length = protocol.header_length(request.headers.get("inference-header-content-length"), len(body))
        if self._named and names_raw(body[: len(body) if length is None else length]):
            question, results = await self._answer_raw(body, length)
        else:
            question = protocol.parse(body, length, config.interface)
            results = await self._compute(dict(question.feeds))
        reply = protocol.render(question, results, config.name, config.version)
        if reply.header_length is None:
            return Response(reply.body, media_type="application/json")
        headers = {"inference-header-content-length": str(reply.header_length)}
        return Response(reply.body, headers=headers, media_type="application/octet-stream")

    async def _answer_raw(self, body: bytes, length: int | None) -> tuple[Any, dict[str, Any]]:
        """Return a request with raw inputs and the tensors of its answer. Raises RequestError."""
        pipeline = self._opened()
        question = protocol.parse(body, length, pipeline.interface)
        prepared = await asyncio.to_thread(pipeline.prepare, pipeline.rows(question.feeds))
        results = await self._compute(dict(prepared.feeds))
        return question, await asyncio.to_thread(pipeline.tensors, results, prepared)

    def _unknown(self, request: Request) -> Response | None:
        """Refuse another model or version than the one that is here."""
        for part, own in (("name", self._config.name), ("version", self._config.version)):
            wanted = request.path_params.get(part, own)
            if wanted != own:
                kind = "model" if part == "name" else "version"
                return _json({"error": f"unknown {kind} {quote(wanted)}: this server has {quote(own)}"}, 404)
        return None


async def _body(request: Request, limit: int) -> bytes:
    """Read the body, never holding more than `limit` bytes. Raises RequestError."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestError(f"expected a body of at most {limit} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
