# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as an adapter of the suite; runs in the environment under test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from suite import contract, kit

# Releases say it differently: by operator, by the check of a node whose inputs were not converted, or in one phrase.
_UNCONVERTED = ("not supported", "No conversion rule", "NotSupportedONNXNode", "Conversion is failed")


class Adapter(kit.Adapter):
    """One compiled model on the CPU, in the precision of the graph: by default OpenVINO may choose a lower one."""

    def __init__(self) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report to its maker
        self._ov: Any = importlib.import_module("openvino")
        self._model: Any = None
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "openvino", "version": self._ov.__version__.partition("-")[0]}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        promise = contract.read(Path(message["contract"]))
        if any(port.dtype == "string" for port in (*promise.inputs, *promise.outputs)):
            raise kit.UnavailableError("OpenVINO without its tokenizers extension has no text tensors")
        core = self._ov.Core()
        knobs = message.get("knobs", {})
        threads = knobs.get("runtime.threads", message.get("threads", 1))
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        try:
            model = core.read_model(message["model"])
            self._model = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            # A graph of ONNX is promised to no OpenVINO: what it cannot convert is no fault. Its own IR has to open.
            if message["model"].endswith(".onnx") and any(sign in str(error) for sign in _UNCONVERTED):
                raise kit.UnavailableError(f"OpenVINO cannot convert this graph: {_reason(error)}") from None
            raise
        self._types = {port.name: port.dtype for port in promise.inputs}
        # Compiling joins tensors that are equal, and with them their names.
        self._inputs = [_port(*ports) for ports in zip(model.inputs, self._model.inputs, strict=True)]
        self._outputs = [_port(*ports) for ports in zip(model.outputs, self._model.outputs, strict=True)]
        device = self._model.get_property("EXECUTION_DEVICES")[0]
        used = {"runtime.threads": self._model.get_property("INFERENCE_NUM_THREADS")}
        return {"provider": device, "device": device.lower(), "knobs": {name: used[name] for name in knobs}}

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"inputs": self._inputs, "outputs": self._outputs}

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        self._check(feeds)
        answers = self._model.create_infer_request().infer(feeds)
        return {port["name"]: np.array(answers[index]) for index, port in enumerate(self._outputs)}

    def _check(self, feeds: dict[str, Any]) -> None:
        """Refuse what OpenVINO would convert without a word: another dtype, a missing input."""
        if set(feeds) != set(self._types):
            raise kit.BadRequestError(f"expected inputs {sorted(self._types)}, got {sorted(feeds)}")
        for name, array in feeds.items():
            if array.dtype.name != self._types[name]:
                raise kit.BadRequestError(f"input `{name}`: expected {self._types[name]}, got {array.dtype.name}")

    def stop(self) -> dict[str, Any]:
        self._model = None
        return {}


def _port(named: Any, compiled: Any) -> dict[str, Any]:
    shape = [-1 if size.is_dynamic else size.get_length() for size in compiled.get_partial_shape()]
    dtype = np.dtype(compiled.get_element_type().to_dtype()).name
    return {"name": named.get_any_name(), "dtype": dtype, "shape": shape}


def _reason(error: Exception) -> str:
    rows = [row.strip() for row in str(error).splitlines() if any(sign in row for sign in _UNCONVERTED)]
    return (rows or [str(error)])[0][:300]


if __name__ == "__main__":
    kit.run(Adapter())
