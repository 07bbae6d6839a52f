# SPDX-License-Identifier: Apache-2.0
"""Open an IR artefact in OpenVINO and run it, on the CPU, with fp32 arithmetic.

This file is copied into installations and runs there with numpy and openvino alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# OpenVINO reports every import to its maker, unless its telemetry package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
_DTYPES = {
    "boolean": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its numpy dtype name and its shape; a size that the artefact leaves open is None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Session:
    """An artefact ready to run. `run` may be called from several threads at once: each has a separate infer request."""

    def __init__(self, model: Any, compiled: Any) -> None:
        self._compiled = compiled
        self._local = threading.local()
        # Compiling joins tensors that are equal, and with them their names: those of the model are the promised ones.
        self.inputs = tuple(_port(*ports) for ports in zip(model.inputs, compiled.inputs, strict=True))
        self.outputs = tuple(_port(*ports) for ports in zip(model.outputs, compiled.outputs, strict=True))
        self.provider = "CPU"
        self.version: str = openvino.get_version().partition("-")[0]

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return every output, in the order of `outputs`. Raises what OpenVINO raises."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        for port in self.inputs:
            given = feeds[port.name].dtype.name
            if given != port.dtype:  # OpenVINO would convert without a word
                raise ValueError(f"`{port.name}`: expected {port.dtype}, got {given}")
        # not `ascontiguousarray`, which makes a scalar a vector of one, and that OpenVINO refuses
        results = request.infer({name: np.asarray(value, order="C") for name, value in feeds.items()})
        return [np.array(results[index]) for index in range(len(self.outputs))]


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Load the artefact at `path` with `threads` threads per run, 0 for one per core.

    Raises ValueError for another device and for types without a numpy form, and what OpenVINO raises.
    """
    if device != "cpu":
        raise ValueError(f"expected device cpu, got {device}")
    core = openvino.Core()
    return opened(core, core.read_model(str(path)), threads=threads)


def opened(core: Any, model: Any, *, threads: int) -> Session:
    """Return a model that a core has read, ready to run on the CPU; raises like `open_session`."""
    # Without the precision hint, CPUs with AMX or AVX512-BF16 compute in bfloat16: fast, and out of tolerance.
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    with _all_instructions():
        return Session(model, core.compile_model(model, "CPU", config))


@contextlib.contextmanager
def _all_instructions() -> Iterator[None]:
    """Let OpenVINO's copy of oneDNN see the whole CPU; it looks once, when the first model is compiled.

    Workers bind torch's copy to SSE 4.1 by the same variable (`packager.sandbox.pinning`). Bound to that, OpenVINO
    2026.4 answers some models of free lengths with an empty batch and no error.
    """
    before = os.environ.pop(_INSTRUCTIONS, None)  # noqa: TID251 - read by a native library
    try:
        yield
    finally:
        if before is not None:
            os.environ[_INSTRUCTIONS] = before  # noqa: TID251 - as it was


def _port(named: Any, compiled: Any) -> Port:
    name, kind = named.get_any_name(), compiled.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise ValueError(f"`{name}` is a {kind}, which has no numpy form")
    shape = tuple(size.get_length() if size.is_static else None for size in compiled.get_partial_shape())
    return Port(name, _DTYPES[kind], shape)
