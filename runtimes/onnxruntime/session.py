# SPDX-License-Identifier: Apache-2.0
"""Open an ONNX artefact in ONNX Runtime and run it, on the provider that was requested and on no other.

This file is copied into installations and runs there with numpy and onnxruntime alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Since 1.31 the wheels for Linux report usage to their maker unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251

import onnxruntime

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),  # the second takes what the first cannot
    "rtx": ("NvTensorRTRTXExecutionProvider",),
}
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"

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
_FATAL = 4
_RECORD = "session.record_ep_graph_assignment_info"  # since 1.24
# Operators that compute shapes. CUDA's provider leaves such chains to the CPU on purpose, because their tensors are
# there (`GetCpuPreferredNodes`); of each it has a kernel for floating point, so data does not stay with them.
# `runtimes/onnxruntime/adapter.py` has the same words.
SHAPES = frozenset((
    "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg",
    "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Sign",
    "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its numpy dtype name (or `string`) and its shape.

    A size is an int where the artefact fixes it, else the name it has there, or None.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Session:
    """An artefact ready to run. `run` may be called from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(_port(node) for node in session.get_inputs())
        self.outputs = tuple(_port(node) for node in session.get_outputs())
        self._names = [port.name for port in self.outputs]
        self.provider: str = session.get_providers()[0]
        self.version: str = onnxruntime.__version__

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return every output, in the order of `outputs`. Raises what ONNX Runtime raises."""
        results: list[NDArray[Any]] = self._session.run(self._names, feeds)
        return [np.asarray(result) for result in results]


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Load the artefact at `path` for `device` with `threads` threads per run, 0 for one per core.

    Raises RuntimeError when another provider than the device's took the session or a node that computes on data,
    ValueError when a type has no numpy form, and what ONNX Runtime raises when it cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin make a single request a little faster and every neighbour on the host slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Failures reach the caller as exceptions; ONNX Runtime would also write them to stderr in its own format.
    options.log_severity_level = _FATAL
    providers = _PROVIDERS[device]
    if device == "cpu":
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        _require_provider(session, providers[0])
        return Session(session)
    recorded = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    # Nodes that a GPU's provider refuses, or all when it does not load, would run on the CPU unnoticed. Versions that
    # do not record where nodes are can only refuse every graph with a node there, shapes included.
    options.add_session_config_entry(_RECORD if recorded else "session.disable_cpu_ep_fallback", "1")
    reason = "" if device == "rtx" else _load_cuda()
    session = _on_plugin(path, options) if device == "rtx" else _on_gpu(path, options, providers)
    session.disable_fallback()  # after a failed run it would go on with the CPU
    _require_provider(session, providers[0], reason)
    if recorded:
        require_device(session.get_provider_graph_assignment_info())
    return Session(session)


def _require_provider(session: Any, provider: str, reason: str = "") -> None:
    """Raise RuntimeError unless `provider` has the session: ONNX Runtime falls back to another without an error."""
    got = session.get_providers()  # the CPU's is always listed last
    if got[0] != provider:
        raise RuntimeError(f"expected provider {provider}, got {', '.join(got)}" + (f": {reason}" if reason else ""))


def require_device(assigned: Any) -> None:
    """Raise RuntimeError if nodes that compute on data are on the CPU, by ONNX Runtime's record of the assignment.

    `assigned` is what `get_provider_graph_assignment_info` returns; it holds the nodes of nested graphs as well.
    """
    here = [node for part in assigned if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()]
    left = Counter(
        ".".join(filter(None, (node.domain, node.op_type)))
        for node in here
        if node.domain not in ("", "ai.onnx") or node.op_type not in SHAPES
    )
    if left:
        words = ", ".join(f"{name} ({count})" for name, count in sorted(left.items()))
        raise RuntimeError(f"the device's provider leaves nodes that compute on data to the CPU: {words}")


def _load_cuda() -> str:
    """Load CUDA and cuDNN out of NVIDIA's packages, then out of the system; return what is missing.

    ONNX Runtime looks for them in the system only, and prints what is missing on the standard output.
    """
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if load is None:
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        load(directory="")
    return next((line.strip() for line in said.getvalue().splitlines() if "Failed to load" in line), "")


def _on_gpu(path: Path, options: Any, providers: tuple[str, ...]) -> Any:
    known = onnxruntime.get_available_providers()
    if providers[0] not in known:
        raise RuntimeError(f"expected provider {providers[0]}, this onnxruntime has {', '.join(known)}")
    return onnxruntime.InferenceSession(str(path), options, providers=list(providers))


def _on_plugin(path: Path, options: Any) -> Any:
    """Open on the devices of NVIDIA's plug-in provider, which is a separate library since ONNX Runtime 1.23."""
    plugin = importlib.import_module(_PLUGIN)
    name = plugin.get_ep_name()
    if all(device.ep_name != name for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise RuntimeError(f"expected an RTX GPU for provider {name}, got none")
    options.add_provider_for_devices(devices[:1], {})
    return onnxruntime.InferenceSession(str(path), options)


def _port(node: Any) -> Port:
    if node.type not in _DTYPES:
        raise ValueError(f"`{node.name}` is a {node.type}, which has no numpy form")
    return Port(node.name, _DTYPES[node.type], tuple(node.shape))
