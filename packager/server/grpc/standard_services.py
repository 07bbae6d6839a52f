# SPDX-License-Identifier: Apache-2.0
"""gRPC's own services, as bytes and without I/O: what health and reflection answer (docs/adr/192).

Sources: `grpc/health/v1/health.proto`, `grpc/reflection/v1/reflection.proto` (v1alpha has the same messages) of gRPC.
"""

from __future__ import annotations

from packager.server.grpc import descriptors, messages
from packager.server.grpc.messages import block, number

HEALTH = "/grpc.health.v1.Health/"
REFLECTION = ("/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_NOT_FOUND, _UNIMPLEMENTED = 5, 12  # gRPC's codes


def health(message: bytes, model: str, ready: bool) -> bytes | None:
    """Return HealthCheckResponse: of the server, its services, or the model by its name; None for something else."""
    service = messages.read(message).text(1)
    if service not in ("", model, *descriptors.services()):
        return None
    return _status(_SERVING if ready else _NOT_SERVING)


def unknown() -> bytes:
    """Return what who watches something else is told: it may come to be."""
    return _status(_UNKNOWN)


def _status(value: int) -> bytes:
    return number(1 << 3) + number(value)


def reflected(message: bytes) -> bytes:
    """Return ServerReflectionResponse to ServerReflectionRequest. Raises RequestError."""
    asked = messages.read(message)
    named = {field for field, _ in asked.fields}
    head = block(1, asked.text(1)) + block(2, message)
    if 7 in named:
        rows = (block(1, block(1, name)) for name in descriptors.services())
        return head + block(6, b"".join(rows))
    if 3 in named:
        return head + _file(asked.text(3) if asked.text(3) in descriptors.FILES else None, asked.text(3))
    if 4 in named:
        symbol = asked.text(4)
        return head + _file(next((f for f in descriptors.FILES if symbol in descriptors.symbols(f)), None), symbol)
    if 6 in named:  # nothing here has extensions
        return head + block(5, block(1, asked.text(6)))
    code = _NOT_FOUND if 5 in named else _UNIMPLEMENTED
    return head + _error(code, "no such extension" if 5 in named else "expected a question that reflection knows")


def _file(file: str | None, name: str) -> bytes:
    if file is None:
        return _error(_NOT_FOUND, f"unknown: {name[:100]}")
    return block(4, block(1, descriptors.compiled(file)))


def _error(code: int, text: str) -> bytes:
    return block(7, number(1 << 3) + number(code) + block(2, text))
