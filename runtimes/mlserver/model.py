# SPDX-License-Identifier: Apache-2.0
"""A custom runtime of MLServer around ONNX Runtime, refusing what the contract does not allow."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

from suite import contract


class Model(MLModel):
    """One session."""

    async def load(self) -> bool:
        ort = importlib.import_module("onnxruntime")
        extra = self.settings.parameters.extra
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(extra["model"], options, providers=["CPUExecutionProvider"])
        self._contract = contract.read(Path(extra["contract"]))
        report = {
            "engine": f"onnxruntime {ort.__version__}",
            "provider": self._session.get_providers()[0],
            "numpy": np.__version__,
            "pid": os.getpid(),
        }
        Path(extra["report"]).write_text(json.dumps(report))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {item.name: self._array(item) for item in payload.inputs}
        reason = contract.refusal(self._contract, feeds)
        if reason:
            raise InferenceError(reason)
        names = [node.name for node in self._session.get_outputs()]
        outputs = [_output(name, array) for name, array in zip(names, self._session.run(names, feeds), strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _array(self, item: RequestInput) -> Any:
        try:
            if item.datatype == "BYTES":
                return np.array(StringCodec.decode_input(item), dtype=object).reshape(item.shape)
            return NumpyCodec.decode_input(item)
        except (ValueError, TypeError) as error:
            raise InferenceError(f"input `{item.name}` cannot be read: {error}") from None


def _output(name: str, array: Any) -> ResponseOutput:
    if array.dtype.kind in "OU":
        encoded = StringCodec.encode_output(name, [str(value) for value in array.reshape(-1)])
    else:
        encoded = NumpyCodec.encode_output(name, array)
    encoded.shape = list(array.shape)  # the codecs give a vector a second dimension
    return encoded
