# SPDX-License-Identifier: Apache-2.0
"""Open an engine with TensorRT or TensorRT for RTX and run it, to measure it on a host with its GPU.

Not run where this was written, which had no GPU (docs/limits.md).
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

from packager.runtimes import _tensorrt


class Engine:
    """An engine ready to run, one run at a time."""

    def __init__(self, trt: Any, path: Path) -> None:
        self._numpy, self._trt = importlib.import_module("numpy"), trt
        self._cuda = importlib.import_module("cuda.bindings.runtime")
        self._log = _tensorrt.logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._opened(self._runtime.deserialize_cuda_engine(path.read_bytes()))
        self._context = self._opened(self._engine.create_execution_context())
        self._stream = self._call("cudaStreamCreate")
        self._lock = threading.Lock()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._outputs = [name for name in names if not is_input[name]]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Return every output in the order of the engine. Raises RuntimeError with what the library said."""
        with self._lock:
            held: list[Any] = []
            try:
                return self._run(feeds, held)
            finally:
                for pointer in held:
                    self._call("cudaFree", pointer)

    def _run(self, feeds: dict[str, Any], held: list[Any]) -> list[Any]:
        host, device = (
            self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost,
        )
        for name in self._inputs:
            value = self._numpy.ascontiguousarray(feeds[name])
            self._agreed(self._context.set_input_shape(name, value.shape), f"shape {value.shape} of `{name}`")
            pointer = self._bound(name, value.nbytes, held)
            self._call("cudaMemcpy", pointer, value.ctypes.data, value.nbytes, host)
        results = []
        for name in self._outputs:
            kind = self._trt.nptype(self._engine.get_tensor_dtype(name))
            value = self._numpy.empty(tuple(self._context.get_tensor_shape(name)), kind)
            results.append((value, self._bound(name, value.nbytes, held)))
        self._agreed(self._context.execute_async_v3(int(self._stream)), "the run")
        self._call("cudaStreamSynchronize", self._stream)
        for value, pointer in results:
            self._call("cudaMemcpy", value.ctypes.data, pointer, value.nbytes, device)
        return [value for value, _ in results]

    def _bound(self, name: str, size: int, held: list[Any]) -> Any:
        pointer = self._call("cudaMalloc", max(size, 1))
        held.append(pointer)
        self._agreed(self._context.set_tensor_address(name, int(pointer)), f"the address of `{name}`")
        return pointer

    def _opened(self, made: Any) -> Any:
        if made is None:
            raise RuntimeError("; ".join(self._log.errors)[:500] or "the library gave no reason")
        return made

    def _agreed(self, answer: bool, what: str) -> None:
        if not answer:
            raise RuntimeError(f"the library refused {what}: {'; '.join(self._log.errors[-2:])[:400]}")

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call CUDA's runtime; return its result, if it has one."""
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status):
            raise RuntimeError(f"`{name}` failed: {status}")
        return results[0] if results else None
