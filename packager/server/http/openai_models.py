# SPDX-License-Identifier: Apache-2.0
"""OpenAI's list of models: the one that is served, and its adapters as they are now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from granian.rsgi import HTTPProtocol, Scope

from packager.server.config import Config
from packager.server.errors import quote
from packager.server.generation.adapters import Adapter
from packager.server.http.responses import Response, Route, json_response

_LIST = "/v1/models"
_ONE = f"{_LIST}/"


async def no_adapters() -> list[Adapter]:
    """Return nothing: the default of a model that takes none."""
    return []


def folder(path: str) -> str:
    """Return the route of a path that ends in the name of a model; an empty path for any other."""
    return _ONE if path.startswith(_ONE) else ""


def list_routes(config: Config, adapters: Callable[[], Awaitable[list[Adapter]]] = no_adapters) -> dict[str, Route]:
    """Return the routes by path: the list, and a model by its name, where the path ends in `/`."""
    about = _describe(config.name, config.version, config.digest)

    async def listed() -> list[dict[str, Any]]:
        return [about, *(_of_adapter(item, config.name) for item in await adapters())]

    async def list_models(scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response({"object": "list", "data": await listed()})

    async def describe_model(scope: Scope, proto: HTTPProtocol) -> Response:
        name = scope.path.rpartition("/")[2]
        found = next((item for item in await listed() if item["id"] == name), None)
        if found is not None:
            return json_response(found)
        message = f"the model {quote(name)} does not exist"
        error = {"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
        return json_response({"error": error}, 404)

    read = ("GET", "HEAD")
    return {_LIST: Route("model", read, list_models), _ONE: Route("model", read, describe_model)}


def _describe(name: str, version: str, digest: str) -> dict[str, Any]:
    about: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "packager"}
    return about | {"version": version, "digest": digest}


def _of_adapter(adapter: Adapter, base: str) -> dict[str, Any]:
    return {**_describe(adapter.name, adapter.version, adapter.digest), "parent": base}
