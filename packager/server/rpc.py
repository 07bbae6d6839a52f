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
| metadata of a call | 64 KiB |

Every connection is told to end (GOAWAY) when it is some seconds old and its client, which is not troubled with it,
makes another. That is the one way in which grpcio ends a connection and still answers calls that were on their way:
`stop` cancels them. So a process that drains stops listening and waits until its connections have aged.

A refusal has the sentence HTTP gives; `_CODES` pairs the statuses. A call that is cancelled while it waits is not run.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.server import batching, messages, places, protocol
from packager.server.arrivals import Threads
from packager.server.engine import Engine
from packager.server.errors import RequestError, StartError, quote
from packager.server.extensions import encoded_configuration, encoded_statistics
from packager.server.guard import Guard
from packager.server.logs import event
from packager.server.messages import Inference, block, flag
from packager.server.tensors import Array
from packager.server.traces import Span

_SERVICE = "/inference.GRPCInferenceService/"
_METADATA_BYTES = 2**16
_LOOK_SECONDS = 0.1
_PROBES = 2  # threads of their own, so that health is told whatever the others wait for
_THREADS = 16  # waiting for the runtime costs a thread and no processor; as many can share a run
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip

Method = Callable[[bytes, Any], bytes]


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files: what this server shows, and whom its clients have to be vouched for by, if by anybody."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Rpc:
    """The gRPC server of one model. Raises StartError when it cannot listen.

    `age`: seconds after which a connection ends; `shared`: other processes listen on the same port.
    """

    def __init__(
        self, engine: Engine, guard: Guard, address: str, port: int, *, age: float, shared: bool,
        tls: Credentials | None = None,
    ) -> None:  # fmt: skip
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
            ("grpc.max_receive_message_length", limits.max_message), ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES), ("grpc.so_reuseport", int(shared)),
            ("grpc.max_connection_age_ms", int(age * 1000)),
        ]  # fmt: skip
        self._threads = Threads(_THREADS, limits.body_timeout, "grpc")
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
        await places.leave(await asyncio.to_thread(places.held, self._port, listening=True), ours=True)
        while await asyncio.to_thread(places.held, self._port, listening=False):
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self, seconds: float) -> None:
        """Refuse new calls, and wait up to `seconds` for those in progress."""
        self._server.stop(seconds).wait()

    def _handler(self) -> Any:
        grpc, methods = self._grpc, self._methods()

        class Handler(grpc.GenericRpcHandler):  # type: ignore[name-defined]
            def service(self, details: Any) -> Any:
                method = methods.get(details.method)
                return None if method is None else grpc.unary_unary_rpc_method_handler(method)

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
        return {_SERVICE + name: self._guarded(route, method) for name, (route, method) in table.items()}

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

    def _infer(self, message: bytes, context: Any) -> bytes:
        engine, config = self._engine, self._engine.config
        deadline = engine.deadline(context.time_remaining())
        context.add_callback(engine.look)
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


def _awaited(answer: Future[Sequence[Array]], context: Any, deadline: float | None) -> Sequence[Array]:
    """Wait for an answer until its deadline, or until the client cancels. Raises RequestError."""
    if not context.add_callback(answer.cancel):
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
