# SPDX-License-Identifier: Apache-2.0
"""A BentoML service around ONNX Runtime: tensors as the suite's JSON form, refusals as 400.

`conform.json` in the working directory says which model and which contract.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from bentoml.exceptions import BadInput

from suite import contract, wire


@bentoml.service(workers=1, traffic={"timeout": 60})
class Conform:
    """One session in one worker."""

    def __init__(self) -> None:
        settings = json.loads(Path("conform.json").read_text())
        self._ort = importlib.import_module("onnxruntime")
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = self._ort.InferenceSession(settings["model"], options, providers=["CPUExecutionProvider"])
        self._contract = contract.read(Path(settings["contract"]))

    @bentoml.api(route="/about")
    def about(self) -> dict[str, Any]:
        """Return the facts of the runtime, from inside the worker."""
        return {
            "version": bentoml.__version__,
            "pid": os.getpid(),
            "numpy": np.__version__,
            "engine": f"onnxruntime {self._ort.__version__}",
            "provider": self._session.get_providers()[0],
        }

    @bentoml.api(route="/infer")
    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        try:
            feeds = wire.unpack_all(inputs)
        except (ValueError, AttributeError) as error:
            raise BadInput(f"the request holds no tensors: {error}") from None
        reason = contract.refusal(self._contract, feeds)
        if reason:
            raise BadInput(reason)
        names = [node.name for node in self._session.get_outputs()]
        return wire.pack_all(dict(zip(names, self._session.run(names, feeds), strict=True)))
