# SPDX-License-Identifier: Apache-2.0
"""OpenAI's routes for a model that generates text: `/v1/models`, `/v1/completions`, `/v1/chat/completions`.

What a request asks and the loop does not do is refused by name, never ignored. An answer runs on a thread of the pool;
it stops when its client disconnects. A request is admitted if a slot is free, and room in the budget of the key-value
cache for its prompt and its longest answer; else it is refused with 429 and `Retry-After`.

Source: the OpenAI API reference (chat completions, completions, models, errors), July 2026.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server.admission.admission import Lease, overload_error
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError, quote
from packager.server.execution import batching
from packager.server.execution.engine import Engine
from packager.server.generation.engine import Engine as Texts
from packager.server.generation.engine import TooLongError
from packager.server.generation.loop import Job, Step
from packager.server.http import bodies
from packager.server.process import host_limits
from packager.server.telemetry.logs import event

Json: TypeAlias = dict[str, Any]
_HONOURED = {
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
} | {
    "seed",
    "stop",
    "logprobs",
    "user",  # says whose request it is, and changes no answer
}
_CHAT = _HONOURED | {"messages", "max_completion_tokens", "top_logprobs"}
_PLAIN = _HONOURED | {"prompt"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "store": (False,),
    "modalities": (["text"],),
}
_SHARE = 4  # of the memory that this process may have, the part for caches
_USUAL = 16  # tokens of a completion that names no limit: OpenAI's own default
_DONE = b"data: [DONE]\n\n"
_SSE = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
_JSON = [("content-type", "application/json")]


class Answer(NamedTuple):
    """A whole answer: status, header fields, body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Streamed(NamedTuple):
    """An answer in parts, which are sent as they come."""

    status: int
    headers: list[tuple[str, str]]
    parts: AsyncIterator[bytes]


class _RefusalError(RequestError):
    """A refused request whose reason is one parameter."""

    def __init__(self, message: str, param: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message, status=status)
        self.param, self.code = param, code


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request: `listed` is how many alternatives are reported with each token, None without reports."""

    chat: bool
    job: Job
    stream: bool
    usage: bool
    listed: int | None


@dataclass(slots=True)
class _Budget:
    """Bytes of key-value caches that are promised to requests in flight."""

    total: int
    held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        with self.lock:
            if self.held and self.held + size > self.total:
                raise overload_error("the caches of other requests fill this server's memory")
            self.held += size
        try:
            yield
        finally:
            with self.lock:
                self.held -= size


class TextRoutes:
    """The routes of one model."""

    def __init__(self, engine: Engine, body_timeout: SharedTimeout) -> None:
        self._engine, self._body_timeout = engine, body_timeout
        self._budget = _Budget(_memory() // _SHARE)

    def table(self) -> dict[str, tuple[str, tuple[str, ...], Callable[[Scope, HTTPProtocol], Any]]]:
        """Return by path the name of the route in the metrics, its methods, and its handler."""
        read = ("GET", "HEAD")
        return {
            "/v1/models": ("model", read, self._list_models),
            f"/v1/models/{self._engine.config.name}": ("model", read, self._describe_model),
            "/v1/completions": ("infer", ("POST",), self._complete),
            "/v1/chat/completions": ("infer", ("POST",), self._chat),
        }

    async def _list_models(self, scope: Scope, proto: HTTPProtocol) -> Answer:
        return _json({"object": "list", "data": [self._model()]})

    async def _describe_model(self, scope: Scope, proto: HTTPProtocol) -> Answer:
        return _json(self._model())

    def _model(self) -> Json:
        config = self._engine.config
        about = {"id": config.name, "object": "model", "created": 0, "owned_by": "packager"}
        return about | {"version": config.version, "digest": config.digest}

    async def _complete(self, scope: Scope, proto: HTTPProtocol) -> Answer | Streamed:
        return await self._answered(scope, proto, chat=False)

    async def _chat(self, scope: Scope, proto: HTTPProtocol) -> Answer | Streamed:
        return await self._answered(scope, proto, chat=True)

    async def _answered(self, scope: Scope, proto: HTTPProtocol, *, chat: bool) -> Answer | Streamed:
        engine = self._engine
        try:
            deadline = engine.deadline(None)
            with engine.lease() as lease:
                body = await self._read(scope, proto, lease)
                asked = await asyncio.get_running_loop().run_in_executor(None, self._parse, body, chat)
            running = _Running(self, asked, proto, deadline)
            if not asked.stream:
                return _json(await running.whole())
            await running.begin()
            return Streamed(200, _SSE, running.parts())
        except RequestError as error:
            return _refused(error)

    async def _read(self, scope: Scope, proto: HTTPProtocol, lease: Lease) -> bytes:
        if bodies.content_encoding(scope.headers):
            raise RequestError("a compressed body is not supported here")
        return bytes(await bodies.read_body(scope.headers, proto, lease, self._body_timeout))

    def _parse(self, body: bytes, chat: bool) -> _Asked:
        """Check a request. Raises RequestError that names the parameter."""
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the body is no JSON: {error}") from None
        if not isinstance(given, dict):
            raise RequestError("the body is no JSON object")
        given = {name: value for name, value in given.items() if value is not None}
        _check_members(given, _CHAT if chat else _PLAIN)
        config, texts = self._engine.config, self.texts
        if given.get("model") not in (config.name, f"{config.name}:{config.version}"):
            message = f"the model {quote(given.get('model'))} does not exist: this server has {quote(config.name)}"
            raise _RefusalError(message, "model", status=404, code="model_not_found")
        ids = texts.ids_of_chat(_messages(given)) if chat else _prompt(texts, given)
        most = given.get("max_completion_tokens", given.get("max_tokens", None if chat else _USUAL))
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
        listed = _listed(given, chat)
        options = {name: given.get(name) for name in names} | {"max_tokens": most, "top": listed or 0}
        stream, wanted = given.get("stream", False), given.get("stream_options", {})
        if not isinstance(stream, bool):
            raise _RefusalError("`stream`: expected true or false", "stream")
        if not isinstance(wanted, dict) or set(wanted) - {"include_usage"}:
            raise _RefusalError("`stream_options`: only `include_usage` is supported", "stream_options")
        return _Asked(chat, texts.job(ids, options), stream, wanted.get("include_usage") is True, listed)

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


def _memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(host_limits.read_allowance().memory or physical, physical)


class _Running:
    """One answer: a thread of the pool makes its steps, the event loop sends them."""

    def __init__(self, routes: TextRoutes, asked: _Asked, proto: HTTPProtocol, deadline: float | None) -> None:
        self._routes, self._asked, self._proto, self._deadline = routes, asked, proto, deadline
        self._steps: asyncio.Queue[Step | Exception | None] = asyncio.Queue()
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._slot = routes.admitted(asked.job)
        self._first: Step | Exception | None = None
        config = routes.engine.config
        kind = "chatcmpl" if asked.chat else "cmpl"
        self._head = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "object": ("chat.completion" if asked.chat else "text_completion"),
            "created": int(time.time()),  # noqa: TID251 - a member of the answer
            "model": config.name,
        }

    async def begin(self) -> None:
        """Take a slot and start; return once the first token is there. Raises RequestError, ProtocolClosed."""
        self._slot.__enter__()
        try:
            self._watch = asyncio.ensure_future(self._disconnected())
            self._loop.run_in_executor(self._routes.engine.pool, self._run)
            self._first = await self._next()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        """Stop the thread, if it still runs; the slot is free once it has."""
        self._stop.set()
        if self._watch is not None:
            self._watch.cancel()
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
            for step in self._routes.texts.answer(self._asked.job, self._cancelled):
                self._loop.call_soon_threadsafe(self._put, step)
                if self._stop.is_set():
                    return
            last = None
        except Exception as error:  # every runtime raises others
            last = error
        finally:
            self._loop.call_soon_threadsafe(self._put, last)

    def _put(self, step: Step | Exception | None) -> None:
        self._steps.put_nowait(step)

    async def _next(self) -> Step | Exception | None:
        """Return the next step. Raises what ended the answer instead."""
        step = await self._steps.get()
        if isinstance(step, Exception):
            event("generation failed", logging.ERROR, reason=str(step)[:500])
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
            steps = [step async for step in self._all()]
        finally:
            self._end()
        text = "".join(step.text for step in steps)
        body: Json = {"message": {"role": "assistant", "content": text, "refusal": None}}
        if not self._asked.chat:
            body = {"text": text}
        choice = {"index": 0, **body, "logprobs": self._reported(steps), "finish_reason": steps[-1].finish}
        return {**self._head, "choices": [choice], "usage": self._usage(len(steps))}

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the answer as events of a stream."""
        chat, count, offset = self._asked.chat, 0, 0
        try:
            if chat:
                yield self._event({"delta": {"role": "assistant", "content": ""}})
            async for step in self._all():
                count += 1
                told = self._reported([step], offset)
                offset += len(step.text)
                if step.text or told:
                    body: Json = {"delta": {"content": step.text}} if chat else {"text": step.text}
                    yield self._event({**body, "logprobs": told})
                if step.finish:
                    yield self._event({"delta": {}} if chat else {"text": ""}, step.finish)
            if self._asked.usage:
                yield _sse({**self._chunk(), "choices": [], "usage": self._usage(count)})
            yield _DONE
        except RequestError as error:
            yield _sse({"error": _error(error)})
        finally:
            self._end()

    def _chunk(self) -> Json:
        return {**self._head, "object": "chat.completion.chunk" if self._asked.chat else "text_completion"}

    def _event(self, body: Json, finish: str | None = None) -> bytes:
        return _sse({**self._chunk(), "choices": [{"index": 0, **body, "finish_reason": finish}]})

    def _usage(self, count: int) -> Json:
        prompt = len(self._asked.job.ids)
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}

    def _reported(self, steps: list[Step], offset: int = 0) -> Json | None:
        """Return the log-probabilities in the form of the route, None where they are not wanted."""
        if self._asked.listed is None:
            return None
        name = self._routes.texts.tokenizer.token
        if self._asked.chat:
            rows = [
                {**_odds(name(step.token), step.logprob), "top_logprobs": [_odds(name(t), p) for t, p in step.top]}
                for step in steps
            ]
            return {"content": rows, "refusal": None}
        places = []
        for step in steps:
            places.append(offset)
            offset += len(step.text)
        return {
            "tokens": [name(step.token) for step in steps],
            "token_logprobs": [step.logprob for step in steps],
            "top_logprobs": [{name(token): odds for token, odds in step.top} for step in steps],
            "text_offset": places,
        }


def _odds(text: str, logprob: float) -> Json:
    """Return one entry of a report; the bytes of a token that is a part of a character are not known here."""
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _check_members(given: Json, honoured: set[str]) -> None:
    for name, value in given.items():
        if name not in honoured and not any(value == neutral for neutral in _NEUTRAL.get(name, ())):
            raise _RefusalError(f"{quote(name)} is not supported", name)
    for name in ("model",):
        if name not in given:
            raise _RefusalError(f"{quote(name)} is missing", name)


def _messages(given: Json) -> list[Json]:
    listed = given.get("messages")
    if not isinstance(listed, list) or not listed:
        raise _RefusalError("`messages`: expected a list of messages", "messages")
    found = []
    for number, message in enumerate(listed):
        place = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _RefusalError(f"`{place}`: expected `role` and `content`", place)
        if unknown := sorted(name for name in message if name not in ("role", "content") and message[name]):
            raise _RefusalError(f"`{place}.{unknown[0][:60]}` is not supported", f"{place}.{unknown[0][:60]}")
        found.append({"role": message["role"], "content": _content(message.get("content"), place)})
    return found


def _content(content: Any, place: str) -> str:
    """Return the text of a message; of several parts, all of which have to be texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return "".join(part["text"] for part in content)
    raise _RefusalError(f"`{place}.content`: only texts are supported", f"{place}.content")


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _prompt(texts: Texts, given: Json) -> list[int]:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return texts.ids_of(prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise _RefusalError("`prompt`: expected one text, or the ids of one", "prompt")


def _listed(given: Json, chat: bool) -> int | None:
    """Return how many alternatives are reported with each token, None without reports."""
    wanted, top = given.get("logprobs"), given.get("top_logprobs")
    if chat:
        if wanted not in (None, True, False):
            raise _RefusalError("`logprobs`: expected true or false", "logprobs")
        if top is not None and not wanted:
            raise _RefusalError("`top_logprobs` needs `logprobs`", "top_logprobs")
        return (top or 0) if wanted else None
    if wanted is None or wanted is False:
        return None
    return wanted if type(wanted) is int else 0


def _refused(error: RequestError) -> Answer:
    extra = [("retry-after", str(error.retry_after))] if error.retry_after else []
    return Answer(error.status, [*_JSON, *extra], orjson.dumps({"error": _error(error)}))


def _error(error: RequestError) -> Json:
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    code = getattr(error, "code", None) or ("context_length_exceeded" if isinstance(error, TooLongError) else None)
    kind = "rate_limit_error" if error.status == 429 else kind
    return {"message": error.message, "type": kind, "param": getattr(error, "param", None), "code": code}


def _json(value: Json) -> Answer:
    return Answer(200, _JSON, orjson.dumps(value))


def _sse(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
