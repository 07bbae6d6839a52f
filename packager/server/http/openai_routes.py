# SPDX-License-Identifier: Apache-2.0
"""The routes of a model that generates text: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, and `generate`.

What a request asks and the loop does not do is refused by name, never ignored. An answer runs on a thread of the pool;
it stops when its client disconnects. A request is admitted if a slot is free, and room in the budget of the key-value
cache for its prompt and its longest answer; else it is refused with 429 and `Retry-After`.

Source: the OpenAI API reference (chat completions, completions, models, errors), July 2026.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server.admission.admission import Lease
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError
from packager.server.execution import batching
from packager.server.execution.engine import Engine
from packager.server.generation.adapters import Adapter
from packager.server.generation.cache_budget import CacheBudget
from packager.server.generation.engine import Engine as Texts
from packager.server.generation.engine import TooLongError
from packager.server.generation.loop import Job, Step
from packager.server.http import bodies, openai_models, text_requests
from packager.server.http.responses import JSON_FIELDS, Response, json_response
from packager.server.http.text_answers import GenerateWriter, OpenAIWriter, Writer
from packager.server.telemetry.logs import log_event

Json: TypeAlias = dict[str, Any]
_SSE = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]


class Streamed(NamedTuple):
    """An answer in parts, which are sent as they come."""

    status: int
    headers: list[tuple[str, str]]
    parts: AsyncIterator[bytes]


class _Wanted(NamedTuple):
    """What a request wants: a job, at once or as a stream, written in a form."""

    job: Job
    stream: bool
    writer: Writer


class TextRoutes:
    """The routes of one model."""

    def __init__(self, engine: Engine, body_timeout: SharedTimeout) -> None:
        self._engine, self._body_timeout = engine, body_timeout
        self._budget = CacheBudget.of_host()
        engine.metrics.watch_texts(lambda: self._budget.held)

    def table(self) -> dict[str, tuple[str, tuple[str, ...], Callable[[Scope, HTTPProtocol], Any]]]:
        """Return by path the name of the route in the metrics, its methods, and its handler."""
        post, config = ("POST",), self._engine.config
        found: dict[str, tuple[str, tuple[str, ...], Callable[[Scope, HTTPProtocol], Any]]] = {
            **openai_models.list_routes(config, self._adapters),
            "/v1/completions": ("infer", post, self._complete),
            "/v1/chat/completions": ("infer", post, self._chat),
        }
        for base in (f"/v2/models/{config.name}", f"/v2/models/{config.name}/versions/{config.version}"):
            found[f"{base}/generate"] = ("infer", post, self._generate)
            found[f"{base}/generate_stream"] = ("infer", post, self._generate_stream)
        return found

    async def _adapters(self) -> list[Adapter]:
        texts = self._engine.texts
        return [] if texts is None else await asyncio.get_running_loop().run_in_executor(None, texts.adapters.list)

    async def _complete(self, scope: Scope, proto: HTTPProtocol) -> Response | Streamed:
        return await self._openai(scope, proto, chat=False)

    async def _chat(self, scope: Scope, proto: HTTPProtocol) -> Response | Streamed:
        return await self._openai(scope, proto, chat=True)

    async def _openai(self, scope: Scope, proto: HTTPProtocol, *, chat: bool) -> Response | Streamed:
        def begin(body: bytes) -> _Wanted:
            wanted = text_requests.parse(body, chat, self._engine.config, self.texts)
            writer = OpenAIWriter(wanted, self.texts.tokenizer.token)
            return _Wanted(wanted.job, wanted.stream, writer)

        try:
            return await self._answered(scope, proto, begin)
        except RequestError as error:
            return _refused(error, {"error": _error(error)})

    async def _generate(self, scope: Scope, proto: HTTPProtocol) -> Response | Streamed:
        return await self._extension(scope, proto, stream=False)

    async def _generate_stream(self, scope: Scope, proto: HTTPProtocol) -> Response | Streamed:
        return await self._extension(scope, proto, stream=True)

    async def _extension(self, scope: Scope, proto: HTTPProtocol, *, stream: bool) -> Response | Streamed:
        def begin(body: bytes) -> _Wanted:
            job, details = text_requests.parse_generate(body, self.texts)
            return _Wanted(job, stream, GenerateWriter(self._engine.config, details))

        return await self._answered(scope, proto, begin)

    async def _answered(
        self, scope: Scope, proto: HTTPProtocol, begin: Callable[[bytes], _Wanted]
    ) -> Response | Streamed:
        engine = self._engine
        deadline = engine.deadline(None)
        with engine.lease() as lease:
            body = await self._read(scope, proto, lease)
            wanted = await asyncio.get_running_loop().run_in_executor(None, begin, body)
        running = _Running(self, wanted, proto, deadline)
        if not wanted.stream:
            return json_response(await running.whole())
        await running.begin()
        return Streamed(200, _SSE, running.parts())

    async def _read(self, scope: Scope, proto: HTTPProtocol, lease: Lease) -> bytes:
        if bodies.content_encoding(scope.headers):
            raise RequestError("a compressed body is not supported here")
        return bytes(await bodies.read_body(scope.headers, proto, lease, self._body_timeout))

    @property
    def texts(self) -> Texts:
        if self._engine.texts is None:
            raise RequestError("the model is still loading", status=503, retry_after=1)
        return self._engine.texts

    @contextmanager
    def admitted(self, job: Job) -> Iterator[None]:
        """Hold a slot and the memory of a job's cache. Raises RequestError when there is none."""
        size = (len(job.ids) + job.most) * self.texts.about.token_bytes
        with self._budget.hold(size), self._engine.admission.admit():
            yield

    @property
    def engine(self) -> Engine:
        return self._engine


class _Running:
    """One answer: a thread of the pool makes its steps, the event loop sends them."""

    def __init__(self, routes: TextRoutes, wanted: _Wanted, proto: HTTPProtocol, deadline: float | None) -> None:
        self._routes, self._wanted, self._proto, self._deadline = routes, wanted, proto, deadline
        self._steps: asyncio.Queue[Step | Exception | None] = asyncio.Queue()
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._slot = routes.admitted(wanted.job)
        self._users = 2  # of the slot: the thread, and the answer that is sent
        self._first: Step | Exception | None = None
        self._timing = routes.engine.metrics.texts.begin(len(wanted.job.ids))

    async def begin(self) -> None:
        """Take a slot and start; return once the first token is there. Raises RequestError, ProtocolClosed."""
        self._slot.__enter__()
        try:
            self._watch = asyncio.ensure_future(self._disconnected())
            self._loop.run_in_executor(self._routes.engine.pool, self._run)
        except BaseException:
            self._leave()
            self._end()
            raise
        try:
            self._first = await self._next()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        """Stop the thread, if it still runs; the slot is free once it has."""
        self._stop.set()
        if self._watch is not None:
            self._watch.cancel()
        self._leave()

    def _leave(self) -> None:
        """Free the slot when the thread has stopped and the answer is sent. Called in the event loop."""
        self._users -= 1
        if not self._users:
            self._timing.end()
            self._slot.__exit__(None, None, None)

    async def _disconnected(self) -> None:
        await self._proto.client_disconnect()
        self._stop.set()
        self._put(None)

    def _cancelled(self) -> bool:
        return self._stop.is_set() or (self._deadline is not None and time.monotonic() > self._deadline)

    def _run(self) -> None:
        """Make the steps, on a thread."""
        last: Step | Exception | None = None
        try:
            for step in self._routes.texts.answer(self._wanted.job, self._cancelled):
                self._timing.count()
                self._loop.call_soon_threadsafe(self._put, step)
                if self._stop.is_set():
                    return
            last = None
        except Exception as error:  # every runtime raises others
            last = error
        finally:
            self._loop.call_soon_threadsafe(self._put, last)
            self._loop.call_soon_threadsafe(self._leave)

    def _put(self, step: Step | Exception | None) -> None:
        self._steps.put_nowait(step)

    async def _next(self) -> Step | Exception | None:
        """Return the next step. Raises what ended the answer instead."""
        step = await self._steps.get()
        if isinstance(step, RequestError):
            raise step
        if isinstance(step, Exception):
            log_event("generation failed", logging.ERROR, reason=str(step)[:500])
            raise RequestError("the model failed on this request; the server's log has the reason", status=500)
        if step is None or step.finish == "cancelled":
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise batching.deadline_error()
            raise ProtocolClosed
        return step

    async def _all(self) -> AsyncIterator[Step]:
        """Yield the steps from the first on."""
        step = self._first
        while isinstance(step, Step):
            yield step
            if step.finish is not None:
                return
            step = await self._next()

    async def whole(self) -> Json:
        """Return the answer as one document. Raises RequestError, ProtocolClosed."""
        await self.begin()
        try:
            return self._wanted.writer.whole([step async for step in self._all()])
        finally:
            self._end()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the answer as events of a stream."""
        writer = self._wanted.writer
        try:
            for part in writer.begin():
                yield part
            async for step in self._all():
                for part in writer.add(step):
                    yield part
            for part in writer.end():
                yield part
        except RequestError as error:
            yield writer.failed(_error(error))
        finally:
            self._end()


def _refused(error: RequestError, body: Json) -> Response:
    extra = [("retry-after", str(error.retry_after))] if error.retry_after else []
    return Response(error.status, [*JSON_FIELDS, *extra], orjson.dumps(body))


def _error(error: RequestError) -> Json:
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    code = getattr(error, "code", None) or ("context_length_exceeded" if isinstance(error, TooLongError) else None)
    kind = "rate_limit_error" if error.status == 429 else kind
    return {"message": error.message, "type": kind, "param": getattr(error, "param", None), "code": code}
