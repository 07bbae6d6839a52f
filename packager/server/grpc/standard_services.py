# SPDX-License-Identifier: Apache-2.0
"""Answers of gRPC's standard services, health and reflection, as bytes and without I/O (docs/adr/192).

Sources: `grpc/health/v1/health.proto`, `grpc/reflection/v1/reflection.proto` (v1alpha has the same messages) of gRPC.
"""

from __future__ import annotations

from packager.server.grpc import descriptors, messages
from packager.server.grpc.messages import encode_field, encode_varint

HEALTH = "/grpc.health.v1.Health/"
REFLECTION = ("/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_NOT_FOUND, _UNIMPLEMENTED = 5, 12  # gRPC's codes


def health_response(message: bytes, model: str, ready: bool) -> bytes | None:
    """Return the HealthCheckResponse of the server, one of its services or the model; None for other names."""
    service = messages.read(message).text(1)
    if service not in ("", model, *descriptors.services()):
        return None
    return _status(_SERVING if ready else _NOT_SERVING)


def unknown_response() -> bytes:
    """Return the HealthCheckResponse of an unknown service to a watcher."""
    return _status(_UNKNOWN)


def _status(value: int) -> bytes:
    return encode_varint(1 << 3) + encode_varint(value)


def reflection_response(message: bytes) -> bytes:
    """Return the ServerReflectionResponse to a ServerReflectionRequest. Raises RequestError."""
    request = messages.read(message)
    present = {field for field, _ in request.fields}
    head = encode_field(1, request.text(1)) + encode_field(2, message)
    if 7 in present:
        rows = (encode_field(1, encode_field(1, name)) for name in descriptors.services())
        return head + encode_field(6, b"".join(rows))
    if 3 in present:
        return head + _file(request.text(3) if request.text(3) in descriptors.FILES else None, request.text(3))
    if 4 in present:
        symbol = request.text(4)
        return head + _file(next((f for f in descriptors.FILES if symbol in descriptors.symbols(f)), None), symbol)
    if 6 in present:  # nothing here has extensions
        return head + encode_field(5, encode_field(1, request.text(6)))
    code = _NOT_FOUND if 5 in present else _UNIMPLEMENTED
    return head + _error(code, "no such extension" if 5 in present else "expected a request that reflection knows")


def _file(file: str | None, name: str) -> bytes:
    if file is None:
        return _error(_NOT_FOUND, f"unknown: {name[:100]}")
    return encode_field(4, encode_field(1, descriptors.compile_file(file)))


def _error(code: int, text: str) -> bytes:
    return encode_field(7, encode_varint(1 << 3) + encode_varint(code) + encode_field(2, text))
