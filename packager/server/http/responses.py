# SPDX-License-Identifier: Apache-2.0
"""Answers and routes: what the modules of the HTTP server hand each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import orjson
from granian.rsgi import HTTPProtocol, Scope

JSON_FIELDS = [("content-type", "application/json")]


class Response(NamedTuple):
    """Status, header fields and body of an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Handler: TypeAlias = Callable[[Scope, HTTPProtocol], Awaitable[Any]]  # a Response, or an answer of texts


class Route(NamedTuple):
    """The route of a path: its name in the metrics, the methods allowed, and the handler."""

    name: str
    methods: tuple[str, ...]
    handler: Handler


def json_response(value: Any, status: int = 200) -> Response:
    """Return a JSON document as an answer."""
    return Response(status, JSON_FIELDS, orjson.dumps(value))


def refuse_request(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """Return the answer to a request that is refused."""
    return Response(status, [*JSON_FIELDS, *headers], orjson.dumps({"error": message}))
