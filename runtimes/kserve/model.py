# SPDX-License-Identifier: Apache-2.0
"""KServe's server with one custom model: `python model.py NAME MODEL CONTRACT REPORT HTTP_PORT GRPC_PORT`.

KServe binds every interface and offers no option for it: both transports are made to use 127.0.0.1 here, because a
test must not open a port to the network.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

from suite import contract
from suite.contract import Port

LOOPBACK = "127.0.0.1"


class Served(Model):
    """One session."""

    def __init__(self, name: str, path: str, promise: Path, report: Path) -> None:
        super().__init__(name)
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._contract = contract.read(promise)
        facts = {
            "engine": f"onnxruntime {ort.__version__}",
            "provider": self._session.get_providers()[0],
            "numpy": np.__version__,
            "pid": os.getpid(),
        }
        report.write_text(json.dumps(facts))
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        return [_port(port) for port in self._contract.inputs]

    async def get_output_types(self) -> list[dict[str, Any]]:
        return [_port(port) for port in self._contract.outputs]

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        if not isinstance(payload, InferRequest):
            raise InvalidInput("expected a request of the Open Inference Protocol v2")
        feeds = {item.name: _array(item) for item in payload.inputs}
        reason = contract.refusal(self._contract, feeds)
        if reason:
            raise InvalidInput(reason)
        names = [node.name for node in self._session.get_outputs()]
        answers = zip(names, self._session.run(names, feeds), strict=True)
        outputs = [_output(name, array, bool(payload.use_binary_outputs)) for name, array in answers]
        return InferResponse(payload.id or str(uuid.UUID(int=0)), self.name, outputs)


def _array(item: Any) -> Any:
    try:
        array = item.as_numpy()
    except Exception as error:  # whatever its decoder meets in what a client sent
        raise InvalidInput(f"input `{item.name}` cannot be read: {error}") from None
    if item.datatype == "BYTES":
        flat = [value.decode() if isinstance(value, bytes) else str(value) for value in array.reshape(-1)]
        return np.array(flat, dtype=object).reshape(array.shape)
    return array


def _output(name: str, array: Any, binary: bool) -> InferOutput:
    if array.dtype.kind in "OU":
        array = np.array([str(value).encode() for value in array.reshape(-1)], dtype=object).reshape(array.shape)
        datatype = "BYTES"
    else:
        datatype = Port(name, array.dtype.name, ()).datatype
    output = InferOutput(name, list(array.shape), datatype)
    output.set_data_from_numpy(array, binary_data=binary)
    return output


def _port(port: Port) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in port.shape]
    return {"name": port.name, "datatype": port.datatype, "shape": shape}


def stay_on_loopback() -> None:
    """Make both transports bind 127.0.0.1, whatever address KServe gives them."""
    configure: Callable[..., None] = uvicorn.Config.__init__

    def configured(self: Any, *arguments: Any, **named: Any) -> None:
        configure(self, *arguments, **{**named, "host": LOOPBACK})

    uvicorn.Config.__init__ = configured
    servers = importlib.import_module("grpc.aio._server")
    add: Callable[[Any, str], int] = servers.Server.add_insecure_port
    servers.Server.add_insecure_port = lambda self, address: add(self, f"{LOOPBACK}:{address.rpartition(':')[2]}")


if __name__ == "__main__":
    stay_on_loopback()
    name, path, promise, report, http, rpc = sys.argv[1:]
    server = ModelServer(http_port=int(http), grpc_port=int(rpc), workers=1, enable_docs_url=False, enable_grpc=True)
    server.start([Served(name, path, Path(promise), Path(report))])
