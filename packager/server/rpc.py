# SPDX-License-Identifier: Apache-2.0
"""The gRPC side: the same model, gate, limits and refusals as over HTTP, on a port of its own.

Synchronous grpcio on a few threads: measured against `grpc.aio` it answers 1.4 times as many requests at 16 clients
and 2 times as many for a CNN. What a client can make it hold:

| | bound |
| --- | --- |
| one message | `max_body` bytes: RESOURCE_EXHAUSTED by grpcio, before it is in memory |
| all messages in memory | `4 * max_body` bytes: UNAVAILABLE |
| requests admitted | `max_in_flight`, shared with HTTP: UNAVAILABLE |
| calls that wait for a thread | as many again: RESOURCE_EXHAUSTED |
| metadata of a call | 64 KiB |

A refusal has the sentence HTTP gives: 400 is INVALID_ARGUMENT, 404 NOT_FOUND, 413 RESOURCE_EXHAUSTED, 503 UNAVAILABLE.
There is no TLS here either: a server that strangers can reach belongs behind a proxy that has it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from packager.server import messages, protocol
from packager.server.app import App
from packager.server.errors import RequestError, StartError, quote
from packager.server.extensions import encoded_configuration
from packager.server.gate import Limits
from packager.server.logs import event
from packager.server.messages import Inference, block, flag

_SERVICE = "/inference.GRPCInferenceService/"
_METADATA_BYTES = 2**16
_THREADS = 4  # waiting for the runtime costs a thread and no processor
_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}

Method = Callable[[bytes], bytes]


class Rpc:
    """The gRPC server of one model. Raises StartError when it cannot listen."""

    def __init__(self, app: App, address: str, port: int, limits: Limits, workers: int) -> None:
        try:
            self._grpc: Any = importlib.import_module("grpc")
        except ImportError:
            raise StartError(
                "`--grpc-port` needs `grpcio`, which this installation does not hold",
                hint="build the bundle with a newer packager and install it again",
            ) from None
        self._app, self._limits = app, limits
        options = [
            ("grpc.max_receive_message_length", limits.max_body), ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", _METADATA_BYTES), ("grpc.so_reuseport", 0),
        ]  # fmt: skip
        threads = ThreadPoolExecutor(max(_THREADS, workers), thread_name_prefix="grpc")
        self._server = self._grpc.server(
            threads,
            handlers=(self._handler(),),
            options=options,
            maximum_concurrent_rpcs=2 * limits.max_in_flight,
        )
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            self._server.add_insecure_port(place)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {quote(place)}: {error}", code=3) from None

    def start(self) -> None:
        """Begin to listen; readiness follows the model's."""
        self._server.start()

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

    def _methods(self) -> Mapping[str, Callable[[bytes, Any], bytes]]:
        table: dict[str, tuple[str, Method]] = {
            "ServerLive": ("health", lambda message: flag(1, True)),
            "ServerReady": ("health", lambda message: flag(1, self._app.ready)),
            "ModelReady": ("health", self._model_ready),
            "ServerMetadata": ("server", self._describe_server),
            "ModelMetadata": ("model", self._describe_model),
            "ModelInfer": ("infer", self._infer),
            "ModelConfig": ("model", lambda message: self._described(message, encoded_configuration(self._app.config))),
            "ModelStatistics": ("model", lambda message: self._described(message, self._app.encoded_statistics())),
        }
        return {_SERVICE + name: self._guarded(route, method) for name, (route, method) in table.items()}

    def _guarded(self, route: str, method: Method) -> Callable[[bytes, Any], bytes]:
        """Turn refusals into statuses, everything else into INTERNAL with the reason in the log."""

        def answer(message: bytes, context: Any) -> bytes:
            try:
                result = method(message)
            except RequestError as error:
                self._app.count(route, error.status)
                code = _CODES.get(error.status, "INVALID_ARGUMENT")
                context.abort(getattr(self._grpc.StatusCode, code), error.message)
            except Exception:  # the outer boundary, as over HTTP
                self._app.count(route, 500)
                event("request failed", logging.ERROR, failure=True, path=f"grpc {route}")
                text = "the request failed inside the server; its log has the reason"
                context.abort(self._grpc.StatusCode.INTERNAL, text)
            self._app.count(route, 200)
            return result

        return answer

    def _model_ready(self, message: bytes) -> bytes:
        fields = messages.read(message)
        self._app.check_address(fields.text(1), fields.text(2))
        return flag(1, self._app.ready)

    def _describe_server(self, message: bytes) -> bytes:
        return block(1, "packager") + block(2, protocol.VERSION)

    def _describe_model(self, message: bytes) -> bytes:
        fields, config = messages.read(message), self._app.config
        self._app.check_address(fields.text(1), fields.text(2))
        parts = [block(1, config.name), block(2, config.version), block(3, f"{config.runtime}_onnx")]
        parts += [block(4, messages.describe(tensor)) for tensor in config.interface.inputs]
        parts += [block(5, messages.describe(tensor)) for tensor in config.interface.outputs]
        return b"".join(parts)

    def _described(self, message: bytes, answer: bytes) -> bytes:
        fields = messages.read(message)
        if fields.text(1):  # statistics of no model are those of all
            self._app.check_address(fields.text(1), fields.text(2))
        return answer

    def _infer(self, message: bytes) -> bytes:
        app = self._app
        with app.admitted() as lease:
            lease.hold(len(message))
            inference = Inference.of(message)
            app.check_address(inference.model, inference.version)
            request = inference.request(app.config.interface)
            return messages.render(request, app.compute(request), app.config.name, app.config.version)
