# SPDX-License-Identifier: Apache-2.0
"""OpenAI's list of models, which holds the one that is served."""

from __future__ import annotations

from typing import Any

from granian.rsgi import HTTPProtocol, Scope

from packager.server.config import Config
from packager.server.http.responses import Response, Route, json_response


def list_routes(config: Config) -> dict[str, Route]:
    """Return the routes by path: the list, and the model by its name."""
    about: dict[str, Any] = {"id": config.name, "object": "model", "created": 0, "owned_by": "packager"}
    about |= {"version": config.version, "digest": config.digest}

    async def list_models(scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response({"object": "list", "data": [about]})

    async def describe_model(scope: Scope, proto: HTTPProtocol) -> Response:
        return json_response(about)

    read = ("GET", "HEAD")
    return {
        "/v1/models": Route("model", read, list_models),
        f"/v1/models/{config.name}": Route("model", read, describe_model),
    }
