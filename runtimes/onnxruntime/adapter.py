# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as an adapter of the suite; runs in the environment under test.

`options`: `provider` (an execution provider's name) for devices other than the CPU, whose fall-back is switched off.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from suite import kit

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "string",
}
_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}
_ABSENT = ("CUDA", "cudnn", "libcu", "TensorRT", "nvidia", "NVIDIA")


class Adapter(kit.Adapter):
    """One session."""

    def __init__(self) -> None:
        self._ort: Any = importlib.import_module("onnxruntime")
        self._session: Any = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": self.runtime(), "version": self._ort.__version__}

    def runtime(self) -> str:
        """Return the name of the distribution that is loaded: both install the same module."""
        return "onnxruntime-gpu" if self._ort.get_device() == "GPU" else "onnxruntime"

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        provider = message["options"].get("provider", "CPUExecutionProvider")
        options = self._ort.SessionOptions()
        knobs = message.get("knobs", {})
        options.intra_op_num_threads = knobs.get("runtime.threads", message.get("threads", 1))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = self._ort.InferenceSession(message["model"], options, providers=[provider])
        except Exception as error:
            if provider != "CPUExecutionProvider" and any(word in str(error) for word in (*_ABSENT, "fallback")):
                raise kit.UnavailableError(f"{provider} cannot be used on this machine: {_first(error)}") from None
            raise
        got = self._session.get_providers()[0]
        used = {"runtime.threads": self._session.get_session_options().intra_op_num_threads}
        return {"provider": got, "device": _DEVICES.get(got, got), "knobs": {name: used[name] for name in knobs}}

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        return {
            "inputs": [_port(node) for node in self._session.get_inputs()],
            "outputs": [_port(node) for node in self._session.get_outputs()],
        }

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, map(np.asarray, self._session.run(names, feeds))))  # noqa: B905 - Python 3.8

    def stop(self) -> dict[str, Any]:
        self._session = None
        return {}


def _port(node: Any) -> dict[str, Any]:
    return {"name": node.name, "dtype": _DTYPES.get(node.type, node.type), "shape": list(node.shape)}


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    kit.run(Adapter())
