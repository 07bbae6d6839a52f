# SPDX-License-Identifier: Apache-2.0
"""The document at `/openapi.json`: the requests and responses of one model, in OpenAPI 3.1.

Sources: the OpenAPI Specification 3.1.1; `open_inference_rest.yaml` of the Open Inference Protocol for names.
"""

from __future__ import annotations

from typing import Any

from packager.server.config import Config
from packager.server.protocol.interface import Interface, Tensor

Json = dict[str, Any]

_KINDS = {"BOOL": "boolean", "BYTES": "string", "FP16": "number", "FP32": "number", "FP64": "number", "BF16": "number"}


def describe_server(config: Config, base: str) -> Json:
    """Describe the server of a model whose clients find it at `base`."""
    model, named = f"/v2/models/{config.name}", {"200": _json_response("the metadata")}
    paths = {
        "/v2": {"get": _operation("serverMetadata", "Name, version and extensions of the server", named)},
        "/v2/health/live": {"get": _operation("serverLive", "Whether the process lives", named, token=False)},
        "/v2/health/ready": {"get": _operation("serverReady", "Whether it takes requests", _READY, token=False)},
        model: {"get": _operation("modelMetadata", "Inputs and outputs of the model", named)},
        f"{model}/ready": {"get": _operation("modelReady", "Whether the model takes requests", _READY, token=False)},
        f"{model}/infer": {"post": _inference()},
        f"{model}/stats": {"get": _operation("modelStatistics", "What was counted", named)},
        "/metrics": {"get": _operation("metrics", "Prometheus metrics", {"200": {"description": "the metrics"}})},
    }
    raw = _raw_paths()
    paths |= raw if config.pipeline else {path: raw[path] for path in ("/predict", "/predict/about")}
    return {
        "openapi": "3.1.0",
        "info": {"title": config.name, "version": config.version, "description": f"bundle {config.digest}"},
        "servers": [{"url": base}],
        "paths": paths,
        "components": {
            "schemas": _schemas(config.interface),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _raw_paths() -> Json:
    """Describe what a bundle takes besides tensors; `/predict/about` says which of it."""
    rows = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}, "minItems": 1}
    schema = {"type": "object", "required": ["rows"], "properties": {"rows": rows, "top": {"type": "integer"}}}
    texts = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    formats = {"enum": ["float", "base64"]}
    wanted = {
        "type": "object",
        "required": ["input"],
        "properties": {"input": texts, "model": {"type": "string"}, "encoding_format": formats},
    }
    described = {"200": _json_response("name, task and kind of rows")}
    return {
        "/predict": {"post": _posted("predict", "Answer rows as people have them", schema)},
        "/predict/about": {"get": _operation("predictAbout", "What a row is, and what an answer", described)},
        "/v1/embeddings": {"post": _posted("createEmbedding", "Embeddings as OpenAI's API has them", wanted)},
    }


def _posted(name: str, summary: str, schema: Json) -> Json:
    refused = {"description": "the request is refused", "content": _ERROR}
    found = _operation(name, summary, {"200": _json_response("the answers"), "4XX": refused})
    return found | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}


def _json_response(about: str) -> Json:
    return {"description": about, "content": {"application/json": {"schema": {"type": "object"}}}}


_READY = {"200": _json_response("ready"), "503": _json_response("not ready")}


def _operation(name: str, summary: str, responses: Json, *, token: bool = True) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": responses,
        "security": [{}, {"token": []}] if token else [{}],
    }


def _inference() -> Json:
    refusals = {
        "400": "the request breaks the contract",
        "413": "it is too large",
        "429": "the server is full",
        "503": "the server is not ready",
        "504": "the deadline is over",
    }
    answer = {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceResponse"}}}
    responses: Json = {"200": {"description": "the results", "content": answer}}
    responses |= {code: {"description": text, "content": _ERROR} for code, text in refusals.items()}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}}}
    found = _operation("modelInfer", "Run the model", responses)
    return found | {"requestBody": {"required": True, "content": content}}


def _schemas(interface: Interface) -> Json:
    text, flag = {"type": "string"}, {"type": "boolean"}
    inputs = [_tensor(tensor, interface, "input") for tensor in interface.inputs]
    outputs = [_tensor(tensor, interface, "output") for tensor in interface.outputs]
    names = [tensor.name for tensor in interface.outputs]
    wanted = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    return {
        "InferenceRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": text,
                "inputs": {
                    "type": "array",
                    "items": {"oneOf": inputs},
                    "minItems": len(inputs),
                    "maxItems": len(inputs),
                },
                "outputs": {"type": "array", "items": wanted},
                "parameters": {"type": "object", "properties": {"binary_data_output": flag}},
            },
        },
        "InferenceResponse": {
            "type": "object",
            "required": ["model_name", "outputs"],
            "properties": {
                "id": text,
                "model_name": text,
                "model_version": text,
                "outputs": {"type": "array", "items": {"oneOf": outputs}},
            },
        },
        "Error": {"type": "object", "required": ["error"], "properties": {"error": text}},
    }


def _tensor(tensor: Tensor, interface: Interface, role: str) -> Json:
    element: Json = {"type": _KINDS.get(tensor.datatype, "integer")}
    if role == "input" and tensor.name in interface.missing:
        element = {"type": [element["type"], "null"]}
    sizes = [_size(size, interface) for size in tensor.shape]
    shape = {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}
    data = {
        "type": "array",
        "description": "the elements, flat or nested as the shape says",
        "items": {"anyOf": [element, {"type": "array"}]},
    }
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "title": tensor.name,
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": shape if sizes else {"type": "array", "maxItems": 0},
            "data": data,
            "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
        },
    }


def _size(size: int | str, interface: Interface) -> Json:
    if isinstance(size, int):
        return {"const": size}
    span = interface.allowed_range(size)
    found: Json = {"type": "integer", "minimum": span.smallest if size in interface.dimensions else 0, "title": size}
    return found | ({} if span.largest is None else {"maximum": span.largest})
