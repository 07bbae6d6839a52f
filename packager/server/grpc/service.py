# SPDX-License-Identifier: Apache-2.0
"""The gRPC side: the same model, gate, limits and refusals as over HTTP, on a port of its own.

Synchronous grpcio on a few threads: measured against `grpc.aio` it answers 1.4 times as many requests at 16 clients
and 2 times as many for a CNN. What a client can make it hold:

| | bound |
| --- | --- |
| one message | what the contract allows, or `max_body / 4` bytes: RESOURCE_EXHAUSTED by grpcio at its head |
| numbers in it | as many as its shape says, 2**19 in `contents` |
| all messages in memory, and what becomes of them | `4 * max_body` bytes, shared with HTTP: RESOURCE_EXHAUSTED |
| messages that arrive | sixteen at once, which grpcio holds three times until they are whole |
| time to send a message | `body_timeout` seconds: CANCELLED |
| requests in flight | `max_in_flight`, shared with HTTP: RESOURCE_EXHAUSTED |
| calls that wait for a thread | as many again: RESOURCE_EXHAUSTED |
| time for an answer | `request_timeout`, or the call's own deadline: DEADLINE_EXCEEDED |
| streams that are open | 16, a thread and a message each: RESOURCE_EXHAUSTED |
| metadata of a call | 64 KiB |

Every connection is told to end (GOAWAY) when it is some seconds old and its client, which is not troubled with it,
makes another. That is the one way in which grpcio ends a connection and still answers calls that were on their way:
`stop` cancels them. So a process that drains stops listening and waits until its connections have aged.

A refusal has the sentence HTTP gives; `_CODES` pairs the statuses. A call that is cancelled while it waits is not run.

Streams are for clients that have only those: each question has one answer, in their order. A server that ends cancels
streams that wait for a question.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import batching
from packager.server.execution.engine import Engine
from packager.server.grpc import messages, standard_services
from packager.server.grpc.messages import Inference, block, flag
from packager.server.grpc.threads import Threads
from packager.server.http.auth import Guard
from packager.server.process import listeners
from packager.server.protocol import protocol
from packager.server.protocol.tensors import Array
from packager.server.protocol.triton_extensions import encoded_configuration, encoded_statistics
from packager.server.telemetry.logs import event
from packager.server.telemetry.traces import Span

_SERVICE = "/inference.GRPCInferenceService/"
_METADATA_BYTES = 2**16
_LOOK_SECONDS = 0.1
_STREAMS = 16
_WATCH_SECONDS = 0.2
_PROBES = 2  # threads of their own, so that health is told whatever the others wait for
_THREADS = 16  # waiting for the runtime costs a thread and no processor; as many can share a run
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

Method = Callable[[bytes, Any], bytes]
Stream = Callable[[Iterator[bytes], Any], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files: what this server shows, and whom its clients have to be vouched for by, if by anybody."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def prepare() -> None:
    """Import what takes long to import, before anybody waits for it."""
    with suppress(ImportError):  # said when it is asked for
        importlib.import_module("grpc")


class Rpc:
    """The gRPC server of one model. Raises StartError when it cannot listen.

    `age`: seconds after which a connection ends; `shared`: other processes listen on the same port.
    """

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        address: str,
        port: int,
        *,
        age: float,
        shared: bool,
        tls: Credentials | None = None,
    ) -> None:
        try:
            self._grpc: Any = importlib.import_module("grpc")
        except ImportError:
            raise StartError(
                "`--grpc-port` needs `grpcio`, which this installation does not hold",
                hint="build the bundle with a newer packager and install it again",
            ) from None
        self._engine, self._guard, self._port = engine, guard, port
        limits = engine.gate.limits
        options = [
            ("grpc.max_receive_message_length", limits.max_message),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_connection_age_ms", int(age * 1000)),
        ]
        self._threads = Threads(_THREADS, limits.body_timeout, "grpc")
        self._streaming = Threads(_STREAMS + _PROBES, limits.body_timeout, "grpc-stream")
        self._streams: set[Any] = set()  # contexts of those that are open
        self._waiting: set[Any] = set()  # and of those that wait for a question
        self._probes = Threads(_PROBES, limits.body_timeout, "grpc-health")
        self._server = self._grpc.server(
            self._threads,
            handlers=(self._handler(),),
            options=options,
            maximum_concurrent_rpcs=2 * limits.max_in_flight,
        )
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            self._open(place, tls)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {quote(place)}: {error}", code=3) from None

    def _open(self, place: str, tls: Credentials | None) -> None:
        if tls is None:
            self._server.add_insecure_port(place)
            return
        try:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            roots = tls.client_ca.read_bytes() if tls.client_ca else None
        except OSError as error:
            raise StartError(f"{quote(error.filename)} cannot be read: {error.strerror}") from None
        shown = self._grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
        self._server.add_secure_port(place, shown)

    def start(self) -> None:
        """Begin to listen; readiness follows the model's."""
        self._server.start()

    async def leave(self) -> None:
        """Accept no further connections, and return when those there were have ended by age."""
        await listeners.leave(await asyncio.to_thread(listeners.held, self._port, listening=True), ours=True)
        while await asyncio.to_thread(listeners.held, self._port, listening=False):
            for waiting in list(self._waiting):
                waiting.cancel()
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self, seconds: float) -> None:
        """Refuse new calls, and wait up to `seconds` for those in progress."""
        self._server.stop(seconds).wait()

    def _handler(self) -> Any:
        grpc = self._grpc
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in self._methods().items()}
        streams = {name: self._opened(route, stream) for name, (route, stream) in self._streams_of().items()}
        handlers |= {name: grpc.stream_stream_rpc_method_handler(stream) for name, stream in streams.items()}

        class Handler(grpc.GenericRpcHandler):  # type: ignore[name-defined]
            def service(self, details: Any) -> Any:
                return handlers.get(details.method)

        return Handler()

    def _methods(self) -> Mapping[str, Method]:
        table: dict[str, tuple[str, Method]] = {
            "ServerLive": ("health", lambda message, context: flag(1, True)),
            "ServerReady": ("health", lambda message, context: flag(1, self._engine.ready)),
            "ModelReady": ("health", self._model_ready),
            "ServerMetadata": ("server", self._describe_server),
            "ModelMetadata": ("model", self._describe_model),
            "ModelInfer": ("infer", self._infer),
            "ModelConfig": ("model", self._describe_configuration),
            "ModelStatistics": ("model", self._describe_statistics),
        }
        whole = {_SERVICE + name: pair for name, pair in table.items()}
        whole[f"{standard_services.HEALTH}Check"] = ("health", self._check_health)
        return {name: self._guarded(route, method) for name, (route, method) in whole.items()}

    def _streams_of(self) -> Mapping[str, tuple[str, Stream]]:
        """Return what answers several messages; who asks but once is answered as one who might ask again."""
        reflections = {
            f"{path}ServerReflectionInfo": ("server", self._reflect) for path in standard_services.REFLECTION
        }
        return {
            f"{_SERVICE}ModelStreamInfer": ("infer", self._infer_each),
            f"{standard_services.HEALTH}Watch": ("health", self._watch_health),
            **reflections,
        }

    def _opened(self, route: str, stream: Stream) -> Stream:
        """Bound how many streams are open, and refuse who may not ask."""
        codes = self._grpc.StatusCode

        def answer(questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
            self._streaming.arrived()
            if len(self._streams) >= _STREAMS:
                context.abort(codes.RESOURCE_EXHAUSTED, f"{_STREAMS} streams are open, as many as this server takes")
            self._streams.add(context)
            try:
                if route != "health":
                    self._guard.check(dict(context.invocation_metadata()).get("authorization"))
                yield from stream(self._asked(questions, context), context)
            except RequestError as error:
                context.abort(getattr(codes, _CODES.get(error.status, "INVALID_ARGUMENT")), error.message)
            finally:
                self._streams.discard(context)

        answer.experimental_thread_pool = self._streaming  # type: ignore[attr-defined]
        return answer

    def _asked(self, questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Yield the messages of a stream, of which it is known when it waits for one."""
        while True:
            self._waiting.add(context)
            try:
                message = next(questions)
            except StopIteration:
                return
            finally:
                self._waiting.discard(context)
            yield message

    def _guarded(self, route: str, method: Method) -> Method:
        """Turn refusals into statuses, everything else into INTERNAL with the reason in the log."""
        engine, threads = self._engine, self._probes if route == "health" else self._threads

        def count(span: Span | None, status: int) -> None:
            engine.metrics.count(route, status)
            if span:
                engine.tracer.end(span, route, status, **{"rpc.system": "grpc"})

        def answer(message: bytes, context: Any) -> bytes:
            threads.arrived()
            told = dict(context.invocation_metadata())
            span = engine.tracer.begin(told.get("traceparent")) if route == "infer" else None
            try:
                if route != "health":
                    engine.asked()
                    self._guard.check(told.get("authorization"))
                result = method(message, context)
            except RequestError as error:
                count(span, error.status)
                code = _CODES.get(error.status, "INVALID_ARGUMENT")
                context.abort(getattr(self._grpc.StatusCode, code), error.message)
            except Exception:  # the outer boundary, as over HTTP
                count(span, 500)
                event("request failed", logging.ERROR, failure=True, path=f"grpc {route}")
                text = "the request failed inside the server; its log has the reason"
                context.abort(self._grpc.StatusCode.INTERNAL, text)
            count(span, 200)
            return result

        answer.experimental_thread_pool = threads  # type: ignore[attr-defined]
        return answer

    def _model_ready(self, message: bytes, context: Any) -> bytes:
        fields = messages.read(message)
        self._engine.check_address(fields.text(1), fields.text(2))
        return flag(1, self._engine.ready)

    def _describe_server(self, message: bytes, context: Any) -> bytes:
        return block(1, "packager") + block(2, protocol.VERSION)

    def _describe_model(self, message: bytes, context: Any) -> bytes:
        fields, config = messages.read(message), self._engine.config
        self._engine.check_address(fields.text(1), fields.text(2))
        parts = [block(1, config.name), block(2, config.version), block(3, f"{config.runtime}_onnx")]
        parts += [block(4, messages.describe(tensor)) for tensor in config.interface.inputs]
        parts += [block(5, messages.describe(tensor)) for tensor in config.interface.outputs]
        return b"".join(parts)

    def _describe_configuration(self, message: bytes, context: Any) -> bytes:
        self._check(message)
        return encoded_configuration(self._engine.config)

    def _describe_statistics(self, message: bytes, context: Any) -> bytes:
        self._check(message)
        return encoded_statistics(self._engine.config, self._engine.metrics)

    def _check(self, message: bytes) -> None:
        fields = messages.read(message)
        if fields.text(1):  # statistics of no model are those of all
            self._engine.check_address(fields.text(1), fields.text(2))

    def _check_health(self, message: bytes, context: Any) -> bytes:
        found = standard_services.health(message, self._engine.config.name, self._engine.ready)
        if found is None:
            raise RequestError("unknown service: ask for none, a service of this server, or its model", status=404)
        return found

    def _watch_health(self, questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Tell the status, and each other one when it comes."""
        message, told = next(questions), b""
        self._waiting.add(context)
        try:
            while context.is_active():
                found = (
                    standard_services.health(message, self._engine.config.name, self._engine.ready)
                    or standard_services.unknown()
                )
                if found != told:
                    told = found
                    yield told
                time.sleep(_WATCH_SECONDS)
        finally:
            self._waiting.discard(context)

    def _reflect(self, questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
        return map(standard_services.reflected, questions)

    def _infer_each(self, questions: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer each question of a stream with ModelStreamInferResponse, a refusal too."""
        for message in questions:
            status, error, answered = 200, "", b""
            self._engine.asked()
            try:
                answered = self._answer(message, None, self._engine.deadline(None))
            except RequestError as refusal:
                status, error = refusal.status, refusal.message
            except Exception:  # the outer boundary, as over HTTP
                event("request failed", logging.ERROR, failure=True, path="grpc stream")
                status, error = 500, "the request failed inside the server; its log has the reason"
            self._engine.metrics.count("infer", status)
            self._engine.look()
            yield block(2, answered) if status == 200 else block(1, error) + block(2, _named(message))

    def _infer(self, message: bytes, context: Any) -> bytes:
        context.add_callback(self._engine.look)
        return self._answer(message, context, self._engine.deadline(context.time_remaining()))

    def _answer(self, message: bytes, context: Any, deadline: float | None) -> bytes:
        """Answer a question; `context` of None: it is not given up when its client leaves. Raises RequestError."""
        engine, config = self._engine, self._engine.config
        with engine.arriving() as lease:
            lease.hold(len(message))
            with engine.gate.admit():
                with engine.reading(len(message)):
                    inference = Inference.of(message, config.interface)
                    engine.check_address(inference.model, inference.version)
                    request = inference.request(config.interface, lease.take)
                if len(message) <= engine.inline_bytes:
                    results = engine.inline(request)
                else:
                    results = engine.named(_awaited(engine.queue(request, deadline), context, deadline))
                return messages.render(request, results, config.name, config.version)


def _named(message: bytes) -> bytes:
    """Return ModelInferResponse with nothing but the id of its question, by which clients know it."""
    try:
        told = messages.read(message).text(3)
    except RequestError:
        return b""
    return block(3, told) if told else b""


def _awaited(answer: Future[Sequence[Array]], context: Any, deadline: float | None) -> Sequence[Array]:
    """Wait for an answer until its deadline, or until the client cancels. Raises RequestError."""
    if context is not None and not context.add_callback(answer.cancel):
        answer.cancel()
    try:
        # A call without a deadline has one in some hundred years here, longer than a thread can wait.
        left = None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        return answer.result(left)
    except CancelledError:
        raise RequestError("the client cancelled", status=499) from None
    except TimeoutError:
        answer.cancel()
        raise batching.late() from None
