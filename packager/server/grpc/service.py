# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: the same model, admission, limits and refusals as over HTTP, on a separate port.

Synchronous grpcio on a few threads: measured against `grpc.aio` it answers 1.4 times as many requests at 16 clients
and 2 times as many for a CNN. Bounds on what a client can make it hold:

| | bound |
| --- | --- |
| one message | what the contract allows, or `max_body / 4` bytes: RESOURCE_EXHAUSTED by grpcio at its header |
| numbers in it | the product of its shape, 2**19 in `contents` |
| all messages in memory, and what they are parsed to | `4 * max_body` bytes, shared with HTTP: RESOURCE_EXHAUSTED |
| messages that arrive | sixteen at once, which grpcio holds three times until they are whole |
| time to send a message | `body_timeout` seconds: CANCELLED |
| requests in flight | `max_in_flight`, shared with HTTP: RESOURCE_EXHAUSTED |
| calls that wait for a thread | `max_in_flight` more: RESOURCE_EXHAUSTED |
| time for an answer | `request_timeout`, or the call's own deadline: DEADLINE_EXCEEDED |
| streams that are open | 16, a thread and a message each: RESOURCE_EXHAUSTED |
| metadata of a call | 64 KiB |

Every connection gets GOAWAY when it is some seconds old, and its client transparently opens another. Only in this way
grpcio ends a connection and still answers calls in transit: `stop` cancels them. So a process that drains stops
listening and waits until its connections have reached that age.

A refusal has the message of HTTP; `_CODES` maps the statuses. A call that is cancelled while it waits is not run.

Streams are for clients that support nothing else: each request has one response, in order. A server that ends cancels
streams that wait for a request.
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

from packager.server.admission.admission import Lease, not_ready_error
from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import batching
from packager.server.execution.engine import Engine
from packager.server.grpc import messages, standard_services
from packager.server.grpc.messages import Inference, encode_bool, encode_field
from packager.server.grpc.threads import CallThreads
from packager.server.http.auth import Guard
from packager.server.pipeline.parts import RAW_INPUTS
from packager.server.pipeline.prepared import Prepared
from packager.server.process import listeners
from packager.server.protocol import protocol
from packager.server.protocol.protocol import Request
from packager.server.protocol.tensors import Array
from packager.server.protocol.triton_extensions import encoded_configuration, encoded_statistics
from packager.server.telemetry.logs import log_event
from packager.server.telemetry.traces import Span

_SERVICE = "/inference.GRPCInferenceService/"
_METADATA_BYTES = 2**16
_POLL_SECONDS = 0.1
_STREAMS = 16
_WATCH_SECONDS = 0.2
_PROBES = 2  # separate threads, so that health is answered while the others are busy
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
    """PEM files: the server's certificate and key, and the CAs of client certificates, if these are required."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def preload_grpc() -> None:
    """Import grpc, which takes long, before a request waits for it."""
    with suppress(ImportError):  # reported when the server is constructed
        importlib.import_module("grpc")


class GrpcServer:
    """The gRPC server of one model. Raises StartError when it cannot listen.

    `max_connection_age`: seconds after which a connection ends; `shared`: other processes listen on the same port.
    """

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        address: str,
        port: int,
        *,
        max_connection_age: float,
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
        named = {tensor.name for tensor in engine.config.interface.inputs}
        self._takes_raw = engine.config.pipeline is not None and not named & {*RAW_INPUTS}
        limits = engine.admission.limits
        options = [
            ("grpc.max_receive_message_length", limits.max_message),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        ]
        self._threads = CallThreads(_THREADS, limits.body_timeout, "grpc")
        self._streaming = CallThreads(_STREAMS + _PROBES, limits.body_timeout, "grpc-stream")
        self._streams: set[Any] = set()  # contexts of the open ones
        self._waiting: set[Any] = set()  # and of those that wait for a request
        self._probes = CallThreads(_PROBES, limits.body_timeout, "grpc-health")
        self._server = self._grpc.server(
            self._threads,
            handlers=(self._handler(),),
            options=options,
            maximum_concurrent_rpcs=2 * limits.max_in_flight,
        )
        endpoint = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            self._open(endpoint, tls)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {quote(endpoint)}: {error}", code=3) from None

    def _open(self, endpoint: str, tls: Credentials | None) -> None:
        if tls is None:
            self._server.add_insecure_port(endpoint)
            return
        try:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            roots = tls.client_ca.read_bytes() if tls.client_ca else None
        except OSError as error:
            named = quote(Path(error.filename)) if error.filename else "a file of TLS"  # reads name none
            raise StartError(f"{named} cannot be read: {error.strerror}") from None
        shown = self._grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
        self._server.add_secure_port(endpoint, shown)

    def start(self) -> None:
        """Start to listen; readiness follows the model's."""
        self._server.start()

    async def stop_accepting(self) -> None:
        """Accept no further connections, and return when the open ones have ended by age."""
        await listeners.stop_accepting(
            await asyncio.to_thread(listeners.sockets_on_port, self._port, listening=True), exclusive=True
        )
        while await asyncio.to_thread(listeners.sockets_on_port, self._port, listening=False):
            for waiting in list(self._waiting):
                waiting.cancel()
            await asyncio.sleep(_POLL_SECONDS)

    def stop(self, seconds: float) -> None:
        """Refuse new calls, and wait up to `seconds` for those in progress."""
        self._server.stop(seconds).wait()

    def _handler(self) -> Any:
        grpc = self._grpc
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in self._methods().items()}
        streams = {
            name: self._limited_stream(route, stream) for name, (route, stream) in self._stream_methods().items()
        }
        handlers |= {name: grpc.stream_stream_rpc_method_handler(stream) for name, stream in streams.items()}

        class Handler(grpc.GenericRpcHandler):  # type: ignore[name-defined]
            def service(self, details: Any) -> Any:
                return handlers.get(details.method)

        return Handler()

    def _methods(self) -> Mapping[str, Method]:
        table: dict[str, tuple[str, Method]] = {
            "ServerLive": ("health", lambda message, context: encode_bool(1, True)),
            "ServerReady": ("health", lambda message, context: encode_bool(1, self._engine.ready)),
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

    def _stream_methods(self) -> Mapping[str, tuple[str, Stream]]:
        """Return the methods that take a stream of messages, by path, with their route."""
        reflections = {
            f"{path}ServerReflectionInfo": ("server", self._reflect) for path in standard_services.REFLECTION
        }
        return {
            f"{_SERVICE}ModelStreamInfer": ("infer", self._infer_each),
            f"{standard_services.HEALTH}Watch": ("health", self._watch_health),
            **reflections,
        }

    def _limited_stream(self, route: str, stream: Stream) -> Stream:
        """Limit how many streams are open, and check the token of their client."""
        codes = self._grpc.StatusCode

        def answer(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            self._streaming.message_arrived()
            if len(self._streams) >= _STREAMS:
                context.abort(codes.RESOURCE_EXHAUSTED, f"{_STREAMS} streams are open, as many as this server takes")
            self._streams.add(context)
            try:
                if route != "health":
                    self._guard.check(dict(context.invocation_metadata()).get("authorization"))
                yield from stream(self._read_questions(requests, context), context)
            except RequestError as error:
                context.abort(getattr(codes, _CODES.get(error.status, "INVALID_ARGUMENT")), error.message)
            finally:
                self._streams.discard(context)

        answer.experimental_thread_pool = self._streaming  # type: ignore[attr-defined]
        return answer

    def _read_questions(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Yield the messages of a stream, and keep track of when it waits for one."""
        while True:
            self._waiting.add(context)
            try:
                message = next(requests)
            except StopIteration:
                return
            finally:
                self._waiting.discard(context)
            yield message

    def _guarded(self, route: str, method: Method) -> Method:
        """Map refusals to statuses, and any other exception to INTERNAL with the reason in the log."""
        engine, threads = self._engine, self._probes if route == "health" else self._threads

        def count(span: Span | None, status: int) -> None:
            engine.metrics.count(route, status)
            if span:
                engine.tracer.end(span, route, status, **{"rpc.system": "grpc"})

        def answer(message: bytes, context: Any) -> bytes:
            threads.message_arrived()
            metadata = dict(context.invocation_metadata())
            span = engine.tracer.begin(metadata.get("traceparent")) if route == "infer" else None
            try:
                if route != "health":
                    engine.note_request()
                    self._guard.check(metadata.get("authorization"))
                result = method(message, context)
            except RequestError as error:
                count(span, error.status)
                code = _CODES.get(error.status, "INVALID_ARGUMENT")
                context.abort(getattr(self._grpc.StatusCode, code), error.message)
            except Exception:  # the outer boundary, as over HTTP
                count(span, 500)
                log_event("request failed", logging.ERROR, failure=True, path=f"grpc {route}")
                text = "the request failed inside the server; its log has the reason"
                context.abort(self._grpc.StatusCode.INTERNAL, text)
            count(span, 200)
            return result

        answer.experimental_thread_pool = threads  # type: ignore[attr-defined]
        return answer

    def _model_ready(self, message: bytes, context: Any) -> bytes:
        fields = messages.read(message)
        self._engine.check_model_name(fields.text(1), fields.text(2))
        return encode_bool(1, self._engine.ready)

    def _describe_server(self, message: bytes, context: Any) -> bytes:
        return encode_field(1, "packager") + encode_field(2, protocol.VERSION)

    def _describe_model(self, message: bytes, context: Any) -> bytes:
        fields, config = messages.read(message), self._engine.config
        self._engine.check_model_name(fields.text(1), fields.text(2))
        parts = [
            encode_field(1, config.name),
            encode_field(2, config.version),
            encode_field(3, f"{config.runtime}_onnx"),
        ]
        parts += [encode_field(4, messages.encode_metadata(tensor)) for tensor in config.interface.inputs]
        parts += [encode_field(5, messages.encode_metadata(tensor)) for tensor in config.interface.outputs]
        return b"".join(parts)

    def _describe_configuration(self, message: bytes, context: Any) -> bytes:
        self._check(message)
        return encoded_configuration(self._engine.config)

    def _describe_statistics(self, message: bytes, context: Any) -> bytes:
        self._check(message)
        return encoded_statistics(self._engine.config, self._engine.metrics)

    def _check(self, message: bytes) -> None:
        fields = messages.read(message)
        if fields.text(1):  # without a name: statistics of all models
            self._engine.check_model_name(fields.text(1), fields.text(2))

    def _check_health(self, message: bytes, context: Any) -> bytes:
        found = standard_services.health_response(message, self._engine.config.name, self._engine.ready)
        if found is None:
            raise RequestError("unknown service: expected none, a service of this server, or its model", status=404)
        return found

    def _watch_health(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Yield the status, and again when it changes."""
        message, sent = next(requests), b""
        self._waiting.add(context)
        try:
            while context.is_active():
                found = (
                    standard_services.health_response(message, self._engine.config.name, self._engine.ready)
                    or standard_services.unknown_response()
                )
                if found != sent:
                    sent = found
                    yield sent
                time.sleep(_WATCH_SECONDS)
        finally:
            self._waiting.discard(context)

    def _reflect(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        return map(standard_services.reflection_response, requests)

    def _infer_each(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer each request of a stream with ModelStreamInferResponse, a refusal too."""
        for message in requests:
            status, error, response = 200, "", b""
            self._engine.note_request()
            try:
                response = self._answer(message, None, self._engine.deadline(None))
            except RequestError as refusal:
                status, error = refusal.status, refusal.message
            except Exception:  # the outer boundary, as over HTTP
                log_event("request failed", logging.ERROR, failure=True, path="grpc stream")
                status, error = 500, "the request failed inside the server; its log has the reason"
            self._engine.metrics.count("infer", status)
            self._engine.record_sample()
            yield (
                encode_field(2, response)
                if status == 200
                else encode_field(1, error) + encode_field(2, _with_id(message))
            )

    def _infer(self, message: bytes, context: Any) -> bytes:
        context.add_callback(self._engine.record_sample)
        return self._answer(message, context, self._engine.deadline(context.time_remaining()))

    def _answer(self, message: bytes, context: Any, deadline: float | None) -> bytes:
        """Answer a request. With a `context` it is dropped when its client cancels. Raises RequestError."""
        engine, config = self._engine, self._engine.config
        with engine.lease() as lease:
            lease.hold_body(len(message))
            with engine.admission.admit():
                with engine.parse_lock(len(message)):
                    inference = Inference.of(message, config.interface)
                    engine.check_model_name(inference.model, inference.version)
                    raw = self._takes_raw and inference.names_any(RAW_INPUTS)
                    request = None if raw else inference.request(config.interface, lease.hold)
                if request is None:
                    return self._answer_raw(inference, lease, context, deadline)
                if len(message) <= engine.inline_bytes:
                    results = engine.run_directly(request)
                else:
                    results = engine.name_results(_wait_result(engine.queue(request, deadline), context, deadline))
                return messages.render(request, results, config.name, config.version)

    def _answer_raw(self, inference: Inference, lease: Lease, context: Any, deadline: float | None) -> bytes:
        """Answer a request with raw inputs, by the same steps as over HTTP. Raises RequestError."""
        engine, config, pipeline = self._engine, self._engine.config, self._engine.pipeline
        if pipeline is None:
            raise not_ready_error("the model is still loading")

        def read() -> tuple[Request, Prepared]:
            request = inference.request(pipeline.interface, lease.hold)
            return request, pipeline.prepare(pipeline.rows(request.feeds), lease.hold)

        request, prepared = engine.pool.submit(read).result()
        asked = Request(None, prepared.feeds, (), prepared.count, outside=prepared.outside)
        results = engine.name_results(_wait_result(engine.queue(asked, deadline), context, deadline))
        made = engine.pool.submit(pipeline.tensors, results, prepared).result()
        return messages.render(request, made, config.name, config.version)


def _with_id(message: bytes) -> bytes:
    """Return a ModelInferResponse with only the id of its request, by which clients match it."""
    try:
        identifier = messages.read(message).text(3)
    except RequestError:
        return b""
    return encode_field(3, identifier) if identifier else b""


def _wait_result(answer: Future[Sequence[Array]], context: Any, deadline: float | None) -> Sequence[Array]:
    """Wait for an answer until its deadline, or until the client cancels. Raises RequestError."""
    if context is not None and not context.add_callback(answer.cancel):
        answer.cancel()
    try:
        # grpcio gives a call without a deadline one in some hundred years, longer than a thread can wait.
        left = None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        return answer.result(left)
    except CancelledError:
        raise RequestError("the client cancelled", status=499) from None
    except TimeoutError:
        answer.cancel()
        raise batching.deadline_error() from None
