# SPDX-License-Identifier: Apache-2.0
"""Open an engine with TensorRT or TensorRT for RTX and run it on the first GPU of this host.

Adapters load this file by its path, in environments that hold nothing of ours: numpy, cuda-bindings, and the library.
Not run where this was written, which had no GPU (docs/limits.md).
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any


def logger(trt: Any) -> Any:
    """Return a logger of the library that keeps its errors in `errors`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)

    return Log()


def gpu() -> tuple[str, str]:
    """Return name and compute capability (`sm_86`) of the first GPU.

    Raises RuntimeError with the reason of CUDA's runtime where there is none to use.
    """
    cuda = importlib.import_module("cuda.bindings.runtime")
    properties = call(cuda, "cudaGetDeviceProperties", 0)
    return bytes(properties.name).rstrip(b"\0").decode("utf-8", "replace"), f"sm_{properties.major}{properties.minor}"


def call(cuda: Any, name: str, *arguments: Any) -> Any:
    """Call CUDA's runtime; return its result, if it has one. Raises RuntimeError with its words."""
    status, *results = getattr(cuda, name)(*arguments)
    if int(status):
        reported = cuda.cudaGetErrorString(status)[1]
        raise RuntimeError(f"{name} failed: {reported.decode() if reported else status}")
    return results[0] if results else None


class Engine:
    """An engine ready to run, one run at a time. `inputs` and `outputs`: name, dtype as numpy's, shape with -1."""

    def __init__(self, trt: Any, path: Path) -> None:
        self._numpy, self._trt = importlib.import_module("numpy"), trt
        self._cuda = importlib.import_module("cuda.bindings.runtime")
        self._log = logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._opened(self._runtime.deserialize_cuda_engine(path.read_bytes()))
        self._context = self._opened(self._engine.create_execution_context())
        self._stream = call(self._cuda, "cudaStreamCreate")
        self._lock = threading.Lock()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(self._port(name) for name in names if is_input[name])
        self.outputs = tuple(self._port(name) for name in names if not is_input[name])

    def _port(self, name: str) -> tuple[str, str, tuple[int, ...]]:
        kind = self._numpy.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        return name, kind, tuple(self._engine.get_tensor_shape(name))

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Return every output in the order of the engine. Raises RuntimeError with what the library said."""
        with self._lock:
            held: list[Any] = []
            try:
                return self._run(feeds, held)
            finally:
                for pointer in held:
                    call(self._cuda, "cudaFree", pointer)

    def _run(self, feeds: dict[str, Any], held: list[Any]) -> list[Any]:
        host, device = (
            self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost,
        )
        for name, _, _ in self.inputs:
            value = self._numpy.ascontiguousarray(feeds[name])
            self._agreed(self._context.set_input_shape(name, value.shape), f"shape {value.shape} of `{name}`")
            pointer = self._bound(name, value.nbytes, held)
            call(self._cuda, "cudaMemcpy", pointer, value.ctypes.data, value.nbytes, host)
        results = []
        for name, kind, _ in self.outputs:
            value = self._numpy.empty(tuple(self._context.get_tensor_shape(name)), kind)
            results.append((value, self._bound(name, value.nbytes, held)))
        self._agreed(self._context.execute_async_v3(int(self._stream)), "the run")
        call(self._cuda, "cudaStreamSynchronize", self._stream)
        for value, pointer in results:
            call(self._cuda, "cudaMemcpy", value.ctypes.data, pointer, value.nbytes, device)
        return [value for value, _ in results]

    def _bound(self, name: str, size: int, held: list[Any]) -> Any:
        pointer = call(self._cuda, "cudaMalloc", max(size, 1))
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
