# SPDX-License-Identifier: Apache-2.0
"""The bundle beside this package as a model of MLServer, which speaks the Open Inference Protocol over HTTP and gRPC.

Every file that `deployment.json` names, this program's included, is compared with its digest before the server's code
is imported and the model is opened; MLServer ends where a model does not load. Requests are checked by the code of
`packager serve`, those with raw inputs too (`text`, `image`, …: BYTES, one element per row; files in JSON are base64).
A request is one run, on a thread, so that health checks and other requests go on.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import deployed
import numpy as np
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

FOLDER = Path(__file__).parent.parent


class Model(MLModel):  # type: ignore[misc]
    """One opened bundle."""

    async def load(self) -> bool:
        """Check the files, then open the graph and the pipeline. Raises ValueError, OSError, StartError."""
        self._record = deployed.read(FOLDER)
        await asyncio.to_thread(self._open)
        return True

    def _open(self) -> None:
        from packager.server import config
        from packager.server.errors import RequestError
        from packager.server.execution import session
        from packager.server.execution.warm_up import WarmUpInputs
        from packager.server.pipeline.parts import RAW_INPUTS
        from packager.server.protocol import protocol, tensors

        knobs = self._record["values"]
        found = config.read(FOLDER / "serve.json").with_limits(knobs.get("server.limits", "stated"))
        self._config = found.with_rows(knobs.get("batch.max"))
        self._refusal, self._protocol, self._tensors = RequestError, protocol, tensors
        self._most, self._running = knobs.get("server.max_in_flight", 128), 0
        self._session = session.load(self._config, knobs.get("runtime.threads", 1))
        self._pipeline: Any = None
        self._raw: set[str] = set()
        if found.pipeline is not None:
            from packager.server.pipeline import pipeline  # needs packages that only bundles with a pipeline lock

            interface = self._config.interface
            self._pipeline = pipeline.open_checked(found.pipeline.path, found.pipeline.digest, interface)
            self._raw = set(RAW_INPUTS) - {tensor.name for tensor in interface.inputs}
        session.warm_up(self._session, WarmUpInputs.of(self._config))

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request. Raises MLServerError with the status of what the contract does not allow."""
        if self._running >= self._most:
            raise MLServerError(f"{self._most} requests are in progress: try again later", 429)
        self._running += 1
        try:
            outputs = await asyncio.to_thread(self._answer, payload)
        except self._refusal as error:
            raise MLServerError(error.message, error.status) from None
        finally:
            self._running -= 1
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _answer(self, payload: InferenceRequest) -> list[ResponseOutput]:
        document: dict[str, Any] = {"inputs": [self._input(item) for item in payload.inputs]}
        if payload.outputs:
            document["outputs"] = [{"name": item.name} for item in payload.outputs]
        if any(item.name in self._raw for item in payload.inputs):
            question = self._protocol.read_document(document, self._pipeline.interface)
            prepared = self._pipeline.prepare(self._pipeline.rows(question.feeds))
            results = self._pipeline.tensors(self._run(prepared.feeds), prepared)
        else:
            question = self._protocol.read_document(document, self._config.interface)
            results = self._run(question.feeds)
        return [self._output(wanted.name, results[wanted.name]) for wanted in question.wanted]

    def _run(self, feeds: Any) -> dict[str, Any]:
        return dict(zip((port.name for port in self._session.outputs), self._session.run(dict(feeds)), strict=True))

    def _input(self, item: RequestInput) -> dict[str, Any]:
        """Return an input as the protocol's JSON has it; texts come as bytes over gRPC."""
        data = item.data.root
        if item.name not in ("image", "audio") or item.name not in self._raw:
            data = [self._text(value, item.name) for value in data] if _has_bytes(data) else data
        kind = getattr(item.datatype, "value", item.datatype)
        return {"name": item.name, "datatype": kind, "shape": item.shape, "data": data}

    def _text(self, value: Any, name: str) -> Any:
        try:
            return value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            raise self._refusal(f"input `{name}`: expected UTF-8") from None

    def _output(self, name: str, array: Any) -> ResponseOutput:
        """Return an output; MLServer would write NaN as null."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self._refusal(f"output `{name}` holds NaN or infinity, which JSON cannot represent", status=406)
        data = array.reshape(-1).tolist()
        return ResponseOutput(name=name, datatype=self._tensors.datatype_of(array), shape=list(array.shape), data=data)


def _has_bytes(data: Any) -> bool:
    return isinstance(data, list) and any(isinstance(value, bytes) for value in data)
