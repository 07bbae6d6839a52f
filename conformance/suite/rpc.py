# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over gRPC, as a client speaks it; needs `grpcio`, and no generated code.

Field numbers: `grpc_predict_v2.proto` of the protocol. Tensors travel as raw bytes; answers in either form are read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from suite import oip, protobuf
from suite.adapter import RefusedError
from suite.contract import DTYPES, Contract
from suite.oip import ServerFaultError, UnsupportedError

_SERVICE = "/inference.GRPCInferenceService/"
# The statuses that say "the request is wrong", as opposed to "the server is".
_REFUSALS = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
}
_CONTENTS = {
    "BOOL": (1, "?"),
    "INT8": (2, "i"),
    "INT16": (2, "i"),
    "INT32": (2, "i"),
    "INT64": (3, "i"),
    "UINT8": (4, "u"),
    "UINT16": (4, "u"),
    "UINT32": (4, "u"),
    "UINT64": (5, "u"),
    "FP32": (6, "<f4"),
    "FP64": (7, "<f8"),
}


class Rpc:
    """One model on one server. May be used from several threads."""

    def __init__(self, settings: Mapping[str, Any], model: str, contract: Contract, seconds: float = 60.0) -> None:
        try:
            self._grpc: Any = importlib.import_module("grpc")
        except ImportError:
            raise UnsupportedError("`grpcio` is not installed beside the suite") from None
        self.model, self.contract, self.seconds = model, contract, seconds
        self._metadata = [(name.lower(), value) for name, value in (settings.get("headers") or {}).items()]
        self._channel = self._open(settings)

    def _open(self, settings: Mapping[str, Any]) -> Any:
        address = settings["grpc"]
        parts = urlsplit(address if "//" in address else f"grpc://{address}")
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if parts.scheme != "grpcs":
            return self._grpc.insecure_channel(parts.netloc, options=limits)
        ca = Path(settings["ca"]).read_bytes() if settings.get("ca") else None
        return self._grpc.secure_channel(parts.netloc, self._grpc.ssl_channel_credentials(ca), options=limits)

    def call(self, method: str, message: bytes) -> protobuf.Fields:
        """Call one method with raw bytes. Raises RefusedError, ServerFaultError."""
        invoke = self._channel.unary_unary(_SERVICE + method)
        try:
            return protobuf.parse(invoke(message, timeout=self.seconds, metadata=self._metadata))
        except self._grpc.RpcError as error:
            code = error.code().name
            text = f"gRPC {code}: {error.details()}"
            raise (RefusedError(text) if code in _REFUSALS else ServerFaultError(text)) from None
        except ValueError as error:
            raise ServerFaultError(f"the answer to {method} is not of the protocol: {error}") from None

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def ready(self) -> bool:
        """Return whether the model is ready."""
        found = self.call("ModelReady", protobuf.block(1, self.model))
        return any(field == 1 and value == 1 for field, value in found)

    def metadata(self) -> dict[str, list[dict[str, Any]]]:
        """Return the model's inputs and outputs: name, datatype, shape."""
        found = self.call("ModelMetadata", protobuf.block(1, self.model))
        return {
            "inputs": [_port(raw) for raw in protobuf.blocks(found, 4)],
            "outputs": [_port(raw) for raw in protobuf.blocks(found, 5)],
        }

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name. Raises RefusedError, ServerFaultError."""
        return self._read(self.call("ModelInfer", self.encode(feeds)))

    def encode(self, feeds: Mapping[str, Any]) -> bytes:
        """Return the bytes of a ModelInferRequest."""
        parts = [protobuf.block(1, self.model), protobuf.block(3, "1")]
        for name, array in feeds.items():
            tensor = protobuf.block(1, name) + protobuf.block(2, oip.datatype(array)) + protobuf.packed(3, array.shape)
            parts.append(protobuf.block(5, tensor))
        return b"".join([*parts, *(protobuf.block(7, oip.to_bytes(array)) for array in feeds.values())])

    def _read(self, answer: protobuf.Fields) -> dict[str, Any]:
        raws = protobuf.blocks(answer, 6)
        outputs = {}
        try:
            for index, block in enumerate(protobuf.blocks(answer, 5)):
                port = _port(block)
                if raws:
                    outputs[port["name"]] = oip.from_bytes(raws[index], port["datatype"], port["shape"])
                else:
                    contents = protobuf.parse(b"".join(protobuf.blocks(protobuf.parse(block), 5)))
                    outputs[port["name"]] = _typed(contents, port["datatype"]).reshape(port["shape"])
        except (ValueError, KeyError, IndexError) as error:
            raise ServerFaultError(f"the answer to ModelInfer holds no tensors: {error!r:.200}") from None
        return outputs


def _port(raw: bytes) -> dict[str, Any]:
    fields = protobuf.parse(raw)
    return {
        "name": protobuf.text(fields, 1),
        "datatype": protobuf.text(fields, 2),
        "shape": list(protobuf.integers(fields, 3)),
    }


def _typed(contents: protobuf.Fields, datatype: str) -> Any:
    """Return the elements of InferTensorContents as a flat array."""
    if datatype == "BYTES":
        return np.array([item.decode() for item in protobuf.blocks(contents, 8)], dtype=object)
    field, kind = _CONTENTS[datatype]
    if kind.startswith("<"):
        return np.frombuffer(b"".join(protobuf.blocks(contents, field)), kind).astype(DTYPES[datatype])
    return np.array(protobuf.integers(contents, field)).astype(DTYPES[datatype])
