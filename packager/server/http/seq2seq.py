# SPDX-License-Identifier: Apache-2.0
"""Routes of an encoder-decoder: `/predict` for texts or audio, OpenAI's `/v1/audio/transcriptions`, `/v1/models`.

A request is read within the server's bounds, and its audio decoded on a thread of the pool. It is admitted if a slot is
free, and room for its caches; else it is refused with 429 and `Retry-After`. What a request asks and is not done is
refused by name.

Source: the OpenAI API reference (audio, models, errors), July 2026.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope

from packager.server.admission import costs
from packager.server.admission.admission import Lease, not_ready_error
from packager.server.admission.shared_timeout import SharedTimeout
from packager.server.errors import RequestError, quote
from packager.server.execution import batching
from packager.server.execution.engine import Engine
from packager.server.generation.audio import estimate_memory
from packager.server.generation.cache_budget import CacheBudget
from packager.server.generation.engine import TooLongError
from packager.server.generation.seq2seq import Answer, Job, Seq2Seq
from packager.server.http import bodies, multipart, openai_models, subtitles
from packager.server.http.responses import JSON_FIELDS, Response, Route, json_response
from packager.server.http.waiting import parse_timeout

Json: TypeAlias = dict[str, Any]
_MOST_ROWS = 64
_OPTIONS = (
    "max_tokens",
    "beams",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "seed",
    "language",
    "task",
    "timestamps",
)
_GRANULARITIES = "timestamp_granularities[]"
_NEUTRAL = {"prompt": "", "stream": "false", "chunking_strategy": "auto"}  # fields that may be there and say nothing
_FIELDS = {"file", "model", "language", "response_format", "temperature", _GRANULARITIES, *_NEUTRAL}
_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_TEXT = [("content-type", "text/plain; charset=utf-8")]
_WAVES = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave", "application/octet-stream")


class _FieldError(RequestError):
    """A refused request whose reason is one field."""

    def __init__(self, message: str, param: str, *, status: int = 400) -> None:
        super().__init__(message, status=status)
        self.param = param


class Seq2SeqRoutes:
    """The routes of one model."""

    def __init__(self, engine: Engine, body_timeout: SharedTimeout) -> None:
        self._engine, self._body_timeout = engine, body_timeout
        self._budget = CacheBudget.of_host()

    def table(self) -> dict[str, Route]:
        """Return the routes by path."""
        read, config = ("GET", "HEAD"), self._engine.config
        found = {
            **openai_models.list_routes(config),
            "/predict": Route("predict", ("POST",), self._predict),
            "/predict/about": Route("model", read, self._describe),
        }
        if config.generation and config.generation.audio:
            found["/v1/audio/transcriptions"] = Route("infer", ("POST",), self._transcribe)
            found["/v1/audio/translations"] = Route("infer", ("POST",), self._translate)
        return found

    @property
    def _opened(self) -> Seq2Seq:
        found = self._engine.seq2seq
        if found is None:
            raise not_ready_error("the model is still loading")
        return found

    async def _describe(self, scope: Scope, proto: HTTPProtocol) -> Response:
        config, about = self._engine.config, self._opened.about
        known = {"name": config.name, "version": config.version, "digest": config.digest, "task": about.task}
        languages = sorted(about.audio.languages) if about.audio else []
        return json_response({**known, "input": "audio" if about.audio else "text", "languages": languages})

    # -- rows as people have them

    async def _predict(self, scope: Scope, proto: HTTPProtocol) -> Response:
        def read(body: bytes, kind: str, lease: Lease) -> list[Job]:
            return self._rows(body, kind, lease)

        found = await self._answered(scope, proto, read)
        config = self._engine.config
        model = {"name": config.name, "version": config.version, "digest": config.digest}
        return json_response({"answers": [_row_of(item) for item in found], "model": model})

    def _rows(self, body: bytes, kind: str, lease: Lease) -> list[Job]:
        """Return the jobs of a body: one text or WAV file, or a document of rows. Raises RequestError."""
        name, opened = kind.partition(";")[0].strip().lower(), self._opened
        if name == "text/plain":
            return [opened.job_of_text(_decoded(body), {})]
        if name in _WAVES:
            return [self._heard(body, {}, lease)]
        if name == "multipart/form-data":
            lease.hold(2 * len(body))
            parts = list(multipart.split_parts(body, kind))
            if not 0 < len(parts) <= _MOST_ROWS:
                raise RequestError(f"expected 1 to {_MOST_ROWS} files, got {len(parts)}")
            return [self._heard(content, {}, lease) for _, content in parts]
        if name not in ("application/json", "application/x-www-form-urlencoded", ""):
            raise RequestError(
                f"`Content-Type`: expected application/json, text/plain, audio/wav or multipart/form-data, "
                f"got {quote(name)}",
                status=415,
            )
        lease.hold(costs.estimate_json_memory(body))
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request is not JSON: {str(error)[:200]}") from None
        return [self.job_of_row(row, options, lease) for row, options in _listed(given)]

    def job_of_row(self, row: Any, options: Json, lease: Lease) -> Job:
        """Return the job of one row. Raises RequestError."""
        if isinstance(row, dict) and set(row) == {"audio"} and isinstance(row["audio"], str):
            try:
                return self._heard(base64.b64decode(row["audio"], validate=True), options, lease)
            except binascii.Error:
                raise RequestError("`audio`: expected the bytes of a WAV file in base64") from None
        text = row.get("text") if isinstance(row, dict) and set(row) == {"text"} else row
        if not isinstance(text, str):
            raise RequestError("expected a text, or an object with `text` or with `audio` alone")
        return self._opened.job_of_text(text, options)

    def _heard(self, data: bytes, options: Json, lease: Lease) -> Job:
        about = self._opened.about.audio
        if about is not None:
            lease.hold(estimate_memory(data, about))
        return self._opened.job_of_audio(data, options)

    # -- OpenAI's audio: https://platform.openai.com/docs/api-reference/audio

    async def _transcribe(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return await self._spoken(scope, proto, "transcribe")

    async def _translate(self, scope: Scope, proto: HTTPProtocol) -> Response:
        return await self._spoken(scope, proto, "translate")

    async def _spoken(self, scope: Scope, proto: HTTPProtocol, task: str) -> Response:
        form = {"response_format": "json", "language": ""}

        def read(body: bytes, kind: str, lease: Lease) -> list[Job]:
            data, options = self._form(body, kind, task, form, lease)
            return [self._heard(data, options, lease)]

        try:
            (found,) = await self._answered(scope, proto, read)
        except RequestError as error:
            return _refused(error)
        if form["response_format"] == "text":
            return Response(200, _TEXT, f"{found.text.strip()}\n".encode())
        if form["response_format"] in subtitles.WRITERS:
            return Response(200, _TEXT, subtitles.WRITERS[form["response_format"]](found.segments or ()).encode())
        value: Json = {"text": found.text.strip(), "finish": found.finish}  # OpenAI's own has none; clients pass it on
        if form["response_format"] == "verbose_json":
            language = self._language(found) or form["language"]
            value |= {"task": task, "language": language, "duration": round(found.seconds, 3)}
            value |= _segments_of(found)
        return json_response(value)

    def _language(self, found: Answer) -> str:
        audio = self._opened.about.audio
        names = {token: name for name, token in audio.languages.items()} if audio else {}
        return next((names[token] for token in found.start if token in names), "")

    def _form(self, body: bytes, kind: str, task: str, form: dict[str, str], lease: Lease) -> tuple[bytes, Json]:
        if kind.partition(";")[0].strip().lower() != "multipart/form-data":
            raise RequestError("`Content-Type`: expected multipart/form-data", status=415)
        lease.hold(2 * len(body))
        parts = list(multipart.split_parts(body, kind))
        values = self._values(parts)
        given = dict(parts)
        if "file" not in given:
            raise _FieldError("`file` is missing", "file")
        form |= {name: values[name] for name in form if name in values}
        options: Json = {"language": values.get("language") or None, "temperature": _number(values.get("temperature"))}
        audio = self._opened.about.audio
        if audio and (audio.tasks or task != "transcribe"):
            options["task"] = task
        if form["response_format"] in subtitles.WRITERS or _GRANULARITIES in values:
            options["timestamps"] = True
        if audio and not audio.languages and options["language"] == "en":
            options["language"] = None  # clients state it for models of English alone as well
        return given["file"], options

    def _values(self, parts: Sequence[tuple[str, bytes]]) -> dict[str, str]:
        """Return the fields of a form beside the file, checked. Raises RequestError."""
        if unknown := sorted({name for name, _ in parts} - _FIELDS):
            raise _FieldError(f"{quote(unknown[0])} is not supported", unknown[0])
        values = {name: _decoded(data) for name, data in parts if name != "file"}
        for name, neutral in _NEUTRAL.items():
            if values.get(name, neutral).lower() != neutral:
                raise _FieldError(f"`{name}` is not supported", name)
        config = self._engine.config
        if values.get("model") not in (config.name, f"{config.name}:{config.version}"):
            message = f"the model {quote(values.get('model'))} does not exist: this server has {quote(config.name)}"
            raise _FieldError(message, "model", status=404)
        if values.get("response_format", "json") not in _FORMATS:
            raise _FieldError(f"`response_format`: expected one of {', '.join(_FORMATS)}", "response_format")
        if any(data != b"segment" for name, data in parts if name == _GRANULARITIES):
            raise _FieldError(f"`{_GRANULARITIES}`: expected segment, the model has no times of words", _GRANULARITIES)
        return values

    # -- running

    async def _answered(
        self, scope: Scope, proto: HTTPProtocol, read: Callable[[bytes, str, Lease], list[Job]]
    ) -> list[Answer]:
        engine, headers, loop = self._engine, scope.headers, asyncio.get_running_loop()
        deadline = engine.deadline(parse_timeout(headers.get("x-request-timeout")))
        opened = self._opened
        with engine.lease() as lease:
            encoding = bodies.content_encoding(headers)
            body = await bodies.read_body(headers, proto, lease, self._body_timeout)
            if encoding:
                limit = lease.admission.limits.max_body
                body = await loop.run_in_executor(engine.pool, bodies.inflate, body, encoding, limit, lease.hold)
            with engine.admission.admit():
                kind = headers.get("content-type", "application/json")
                jobs = await loop.run_in_executor(engine.pool, read, bytes(body), kind, lease)
                return [await self._run(opened, job, proto, deadline) for job in jobs]

    async def _run(self, opened: Seq2Seq, job: Job, proto: HTTPProtocol, deadline: float | None) -> Answer:
        """Answer one job on a thread, until its deadline or until its client disconnects."""
        stop, engine = threading.Event(), self._engine

        def cancelled() -> bool:
            return stop.is_set() or (deadline is not None and time.monotonic() > deadline)

        with self._budget.hold(opened.memory(job)):
            left = asyncio.ensure_future(proto.client_disconnect())
            running = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(engine.pool, opened.whole, job, cancelled)
            )
            try:
                await asyncio.wait((running, left), return_when=asyncio.FIRST_COMPLETED)
                if not running.done():
                    stop.set()
                    await asyncio.wait((running,))
                    raise ProtocolClosed
                found: Answer | None = running.result()
            finally:
                stop.set()
                left.cancel()
        if found is None:
            raise batching.deadline_error()
        return found


def _row_of(found: Answer) -> Json:
    return {"text": found.text, "finish": found.finish, "tokens": len(found.tokens), **_segments_of(found)}


def _segments_of(found: Answer) -> Json:
    """Return the member `segments` of an answer with times, in seconds, as OpenAI has it; nothing of one without."""
    if found.segments is None:
        return {}
    rows = [
        {"id": number, "start": segment.start, "end": segment.end, "text": text, "tokens": list(segment.tokens)}
        for number, (segment, text) in enumerate(found.segments)
    ]
    return {"segments": rows}


def _listed(given: Any) -> list[tuple[Any, Json]]:
    """Return the rows of a document with their options. Raises RequestError."""
    if isinstance(given, list | str):
        given = {"rows": given if isinstance(given, list) else [given]}
    if not isinstance(given, dict):
        raise RequestError("expected an object with `text`, `audio` or `rows`, or a list of rows")
    options = {name: given.pop(name) for name in _OPTIONS if name in given}
    rows = given.pop("rows") if "rows" in given else [given]
    if given and rows != [given]:
        raise RequestError(f"unknown member {quote(min(given))}, expected `rows` and options")
    if not isinstance(rows, list) or not 0 < len(rows) <= _MOST_ROWS:
        raise RequestError(f"`rows`: expected 1 to {_MOST_ROWS} rows")
    return [(row, options) for row in rows]


def _decoded(body: bytes) -> str:
    try:
        return bytes(body).decode()
    except UnicodeDecodeError:
        raise RequestError("the text is not UTF-8") from None


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise _FieldError(f"`temperature`: expected a number, got {quote(text)}", "temperature") from None


def _refused(error: RequestError) -> Response:
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    kind = "rate_limit_error" if error.status == 429 else kind
    code = "context_length_exceeded" if isinstance(error, TooLongError) else None
    code = "model_not_found" if error.status == 404 else code
    problem: Mapping[str, Any] = {
        "message": error.message,
        "type": kind,
        "param": getattr(error, "param", None),
        "code": code,
    }
    extra = [("retry-after", str(error.retry_after))] if error.retry_after else []
    return Response(error.status, [*JSON_FIELDS, *extra], orjson.dumps({"error": problem}))
