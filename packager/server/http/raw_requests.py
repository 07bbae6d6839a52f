# SPDX-License-Identifier: Apache-2.0
"""Requests with raw inputs: `/predict`, `text`, `image` and others of the Open Inference Protocol, `/v1/embeddings`.

Bodies are read and answers written on worker threads, never on the event loop; the runs between share batches with all
other requests. What a row may be is said by the pipeline of the bundle; without one a row has the inputs by name, and
`/predict` is the only such route.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, Scope

from packager.server.admission import costs
from packager.server.admission.admission import Lease, not_ready_error
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError, quote
from packager.server.execution.engine import Engine
from packager.server.http import bodies, multipart, page
from packager.server.http.responses import JSON_FIELDS, Response, Route, json_response
from packager.server.http.waiting import parse_timeout, wait_result
from packager.server.pipeline.parts import RAW_INPUTS, names_raw
from packager.server.pipeline.rows import Table, read_csv
from packager.server.protocol import protocol
from packager.server.protocol.protocol import Body, Request
from packager.server.protocol.tensors import Array

if TYPE_CHECKING:
    from packager.server.pipeline.pipeline import Pipeline
    from packager.server.pipeline.prepared import Prepared

_INLINE_SEARCH = 2**17  # bytes that are searched on the event loop: some microseconds
_BINARY = ("content-type", "application/octet-stream")
_TOP = 2**20
_DOCUMENTS = ("application/json", "application/x-www-form-urlencoded", "")  # the second is curl's default


@dataclass(frozen=True, slots=True)
class RawRequest:
    """The rows of a request, prepared, and how its answer is written: `top` labels, as a protocol's `request`."""

    prepared: Prepared
    top: int | None = None
    request: Request | None = None
    encoding: str = "float"


Read: TypeAlias = Callable[["Pipeline | Table", Body, str, Lease], RawRequest]
Write: TypeAlias = Callable[["Pipeline | Table", RawRequest, Mapping[str, Array]], Response]


class RawRequests:
    """The routes of raw inputs. A bundle without a pipeline (`offered` is false) takes rows of its inputs by name."""

    def __init__(self, engine: Engine, body_timeout: SharedTimeout, *, page: bool) -> None:
        self._engine, self._body_timeout, self._page = engine, body_timeout, page
        names = {tensor.name for tensor in engine.config.interface.inputs}
        self.offered = engine.config.pipeline is not None
        self._named = self.offered and not names & set(RAW_INPUTS)

    def routes(self) -> dict[str, Route]:
        """Return the routes by path."""
        table = {
            "/predict": Route("predict", ("POST",), self._predict),
            "/predict/about": Route("model", ("GET", "HEAD"), self._describe),
        }
        if not self.offered:
            return table
        table |= {
            "/v1/embeddings": Route("embeddings", ("POST",), self._embeddings),
        }
        return table | ({"/": Route("page", ("GET", "HEAD"), self._show)} if self._page else {})

    async def _show(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return Response(200, page.FIELDS, page.BODY)

    async def _describe(self, scope: Scope, proto: HTTPProtocol) -> Response:
        config = self._engine.config
        known = {"name": config.name, "version": config.version, "digest": config.digest}
        return json_response({**known, **self._pipeline().describe()})

    def _pipeline(self) -> Pipeline | Table:
        found = self._engine.pipeline
        if found is not None:
            return found
        if self.offered:
            raise not_ready_error("the model is still loading")
        return Table(self._engine.config.interface)

    async def _predict(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return await self._answered(scope, proto, self._read_rows, self._write_answers)

    async def _embeddings(self, scope: Scope, proto: HTTPProtocol) -> Response:
        """Answer as OpenAI's API does, errors included, so that its clients work unchanged."""
        try:
            return await self._answered(scope, proto, self._read_embeddings, self._write_embeddings)
        except RequestError as error:
            retry = [("retry-after", str(error.retry_after))] if error.retry_after else []
            kind = "invalid_request_error" if error.status < 500 and error.status != 429 else "server_error"
            problem = {"message": error.message, "type": kind, "param": None, "code": None}
            return Response(error.status, [*JSON_FIELDS, *retry], orjson.dumps({"error": problem}))

    async def _answered(self, scope: Scope, proto: HTTPProtocol, read: Read, write: Write) -> Response:
        engine, headers = self._engine, scope.headers
        deadline = engine.deadline(parse_timeout(headers.get("x-request-timeout")))
        with engine.lease() as lease:
            encoding = bodies.content_encoding(headers)
            body = await bodies.read_body(headers, proto, lease, self._body_timeout)
            body, _ = await self.inflated(body, encoding, lease)
            with engine.admission.admit():
                kind = headers.get("content-type", "application/json")
                return await self._run(body, kind, lease, proto, deadline, read, write)

    async def inflated(self, body: Body, encoding: str, lease: Lease) -> tuple[Body, str]:
        """Return a body without its content encoding. Raises RequestError."""
        if not encoding:
            return body, encoding
        limit = lease.admission.limits.max_body
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine.pool, bodies.inflate, body, encoding, limit, lease.hold), ""

    async def _run(
        self, body: Body, kind: str, lease: Lease, proto: HTTPProtocol, deadline: float | None, read: Read, write: Write
    ) -> Response:
        engine, pipeline, loop = self._engine, self._pipeline(), asyncio.get_running_loop()
        wanted = await loop.run_in_executor(engine.pool, read, pipeline, body, kind, lease)
        prepared = wanted.prepared
        request = Request(None, prepared.feeds, (), prepared.count, outside=prepared.outside)
        results = engine.name_results(await wait_result(engine.queue(request, deadline), proto, deadline))
        return await loop.run_in_executor(engine.pool, write, pipeline, wanted, results)

    # -- the Open Inference Protocol

    async def takes(self, body: Body, header_length: str | None) -> bool:
        """Return whether a request names raw inputs."""
        if not self._named:
            return False
        length = protocol.header_length(header_length, len(body))
        document = memoryview(body)[: len(body) if length is None else length]
        if len(document) <= _INLINE_SEARCH:
            return names_raw(document)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine.pool, names_raw, document)

    async def infer(
        self, body: Body, header_length: str | None, lease: Lease, proto: HTTPProtocol, deadline: float | None
    ) -> Response:
        """Answer a request of the protocol with raw inputs. Raises RequestError."""

        def read(pipeline: Pipeline | Table, body: Body, kind: str, lease: Lease) -> RawRequest:
            pipeline = _raw(pipeline)
            length = protocol.header_length(header_length, len(body))
            request = protocol.parse(body, length, pipeline.interface, lease.hold)
            return RawRequest(pipeline.prepare(pipeline.rows(request.feeds), lease.hold), request=request)

        with self._engine.admission.admit():
            return await self._run(body, "", lease, proto, deadline, read, self._write_tensors)

    def _write_tensors(self, pipeline: Pipeline | Table, wanted: RawRequest, results: Mapping[str, Array]) -> Response:
        config = self._engine.config
        if wanted.request is None:
            raise ValueError("no request of the protocol")
        made = _raw(pipeline).tensors(results, wanted.prepared)
        reply = protocol.render(wanted.request, made, config.name, config.version)
        if reply.header_length is None:
            return Response(200, JSON_FIELDS, reply.body)
        return Response(200, [_BINARY, ("inference-header-content-length", str(reply.header_length))], reply.body)

    # -- rows as people have them

    def _read_rows(self, pipeline: Pipeline | Table, body: Body, kind: str, lease: Lease) -> RawRequest:
        name = kind.partition(";")[0].strip().lower()
        if name == "text/plain":
            return RawRequest(pipeline.prepare([{"text": _decoded(body)}], lease.hold))
        if name.startswith(("image/", "audio/")) or name == "application/octet-stream":
            member = _file_member(pipeline) if name == "application/octet-stream" else name.partition("/")[0]
            return RawRequest(pipeline.prepare([{member: body}], lease.hold))
        if name == "multipart/form-data":
            lease.hold(2 * len(body))
            parts = multipart.split_parts(body, kind)
            member = _file_member(pipeline)
            return RawRequest(pipeline.prepare([_part(*part, member) for part in parts], lease.hold))
        if name == "text/csv":
            lease.hold(costs.estimate_json_memory(body))
            return RawRequest(pipeline.prepare(read_csv(_decoded(body)), lease.hold))
        if name not in _DOCUMENTS:
            expected = "application/json, text/csv, text/plain, an image, audio or multipart/form-data"
            raise RequestError(f"`Content-Type`: expected {expected}, got {quote(name)}", status=415)
        rows, top = _rows(_json(body, lease))
        return RawRequest(pipeline.prepare(rows, lease.hold), top)

    def _write_answers(self, pipeline: Pipeline | Table, wanted: RawRequest, results: Mapping[str, Array]) -> Response:
        config = self._engine.config
        found = pipeline.answers(results, wanted.prepared, wanted.top)
        model = {"name": config.name, "version": config.version, "digest": config.digest}
        return json_response({"answers": found, "model": model})

    # -- OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings/create

    def _read_embeddings(self, pipeline: Pipeline | Table, body: Body, kind: str, lease: Lease) -> RawRequest:
        document, config = _json(body, lease), self._engine.config
        task = _raw(pipeline).about.task
        if task != "sentence-embedding":
            raise RequestError(f"{quote(config.name)} answers {task}, not embeddings", status=404)
        if not isinstance(document, dict):
            raise RequestError("expected a JSON object")
        model = document.get("model", config.name)
        if model not in (config.name, f"{config.name}:{config.version}"):
            raise RequestError(f"unknown model {quote(model)}: this server has {quote(config.name)}", status=404)
        encoding = document.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise RequestError(f"`encoding_format`: expected float or base64, got {quote(encoding)}")
        if document.get("dimensions") is not None:
            raise RequestError("`dimensions`: this model's vectors have one length, leave it out")
        texts = document.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RequestError("`input`: expected a text or a list of texts")
        return RawRequest(pipeline.prepare(texts, lease.hold), encoding=encoding)

    def _write_embeddings(
        self, pipeline: Pipeline | Table, wanted: RawRequest, results: Mapping[str, Array]
    ) -> Response:
        vectors = _raw(pipeline).vectors(results, wanted.prepared)
        shown: Sequence[Any] = vectors.tolist()
        if wanted.encoding == "base64":
            shown = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": item} for index, item in enumerate(shown)]
        tokens = wanted.prepared.token_count
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": self._engine.config.name, "usage": usage})


def _raw(pipeline: Pipeline | Table) -> Pipeline:
    """Return a pipeline. Raises RequestError for a bundle without one."""
    if isinstance(pipeline, Table):
        raise RequestError("this model takes tensors and rows of them only", status=404)
    return pipeline


def _rows(document: Any) -> tuple[list[Any], int | None]:
    """Return the rows of a document, and how many labels are wanted. Raises RequestError."""
    if isinstance(document, list):
        document = {"rows": document}
    if not isinstance(document, dict):
        raise RequestError("expected an object with `rows`, or a list of rows")
    top = document.pop("top", None)
    rows = document.pop("rows") if "rows" in document else [document]
    if document and rows != [document]:
        raise RequestError(f"unknown member {quote(min(document))}, expected `rows` and `top`")
    if not (top is None or (type(top) is int and 1 <= top <= _TOP)):
        raise RequestError(f"`top`: expected a whole number from 1, got {quote(top)}")
    if not isinstance(rows, list) or not all(isinstance(row, dict | str) for row in rows):
        raise RequestError("`rows`: expected a list of objects or texts")
    return rows, top


def _json(body: Body, lease: Lease) -> Any:
    lease.hold(costs.estimate_json_memory(body))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request is not JSON: {str(error)[:200]}") from None


def _file_member(pipeline: Pipeline | Table) -> str:
    """Return what a file is that does not say it: sound for a model that hears, else an image."""
    return "image" if isinstance(pipeline, Table) or pipeline.about.audio is None else "audio"


def _part(name: str, content: bytes, member: str) -> Mapping[str, Any]:
    """Return a row of one part: a text where that is its name, else a file."""
    return {"text": _decoded(content)} if name == "text" else {member: content}


def _decoded(body: Body) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise RequestError("the text is not UTF-8") from None
