# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as an adapter of the suite; runs in the environment under test.

`options`: `provider` (an execution provider's name) for devices other than the CPU, on which every node that computes
on data has to be: ONNX Runtime falls back to the CPU without an error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
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
_CPU = "CPUExecutionProvider"
# Operators that compute shapes, which CUDA's provider leaves to the CPU on purpose; as in `session.py`.
SHAPES = frozenset((
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg",
    "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Sign",
    "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
))  # fmt: skip
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
        if provider == _CPU:
            self._session = self._ort.InferenceSession(message["model"], options, providers=[provider])
        else:
            self._session = self._on_device(message["model"], options, provider)
        got = self._session.get_providers()[0]
        used = {"runtime.threads": self._session.get_session_options().intra_op_num_threads}
        return {"provider": got, "device": _DEVICES.get(got, got), "knobs": {name: used[name] for name in knobs}}

    def _on_device(self, model: str, options: Any, provider: str) -> Any:
        """Open a session whose provider is `provider`; raise UnavailableError where it does not start.

        Raises RuntimeError when nodes that compute on data are on the CPU.
        """
        recorded = hasattr(self._ort.InferenceSession, "get_provider_graph_assignment_info")
        key = "session.record_ep_graph_assignment_info" if recorded else "session.disable_cpu_ep_fallback"
        options.add_session_config_entry(key, "1")
        absent = f"{provider} cannot be used on this machine"
        reason = self._load_cuda()
        try:
            session = self._ort.InferenceSession(model, options, providers=[provider])
        except Exception as error:
            if any(word in str(error) for word in (*_ABSENT, "fallback")):
                raise kit.UnavailableError(f"{absent}: {_first(error)}") from None
            raise
        session.disable_fallback()
        if session.get_providers()[0] != provider:
            raise kit.UnavailableError(f"{absent}: {reason or 'ONNX Runtime did not start it'}")
        if recorded:
            left = left_to_cpu(session.get_provider_graph_assignment_info())
            if left:
                raise RuntimeError(f"silent fall-back: {provider} leaves {', '.join(left)} to the CPU")
        return session

    def _load_cuda(self) -> str:
        """Load CUDA and cuDNN out of NVIDIA's packages; return what is missing. The standard output is the suite's."""
        load = getattr(self._ort, "preload_dlls", None)
        if load is None:
            return ""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            load(directory="")
        return next((line.strip()[:300] for line in said.getvalue().splitlines() if "Failed to load" in line), "")

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


def left_to_cpu(assigned: Any) -> list[str]:
    """Return the operators of nodes on the CPU that do not compute shapes, by ONNX Runtime's record of them."""
    here = [node for part in assigned if part.ep_name == _CPU for node in part.get_nodes()]
    names = {(node.domain, node.op_type) for node in here}
    left = [pair for pair in names if pair[0] not in ("", "ai.onnx") or pair[1] not in SHAPES]
    return sorted(".".join(filter(None, pair)) for pair in left)


def _port(node: Any) -> dict[str, Any]:
    return {"name": node.name, "dtype": _DTYPES.get(node.type, node.type), "shape": list(node.shape)}


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    kit.run(Adapter())
