# SPDX-License-Identifier: Apache-2.0
"""Open an ONNX artefact in ONNX Runtime and run it, on the CPU.

This file is copied into installations and runs there with numpy and onnxruntime alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PROVIDER = "CPUExecutionProvider"

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
        self.provider: str = session.get_providers()[0]
        self.version: str = onnxruntime.__version__

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return every output, in the order of `outputs`. Raises what ONNX Runtime raises."""
        results: list[NDArray[Any]] = self._session.run(None, feeds)
        return [np.asarray(result) for result in results]


def open_session(path: Path, *, threads: int) -> Session:
    """Load the artefact at `path` with `threads` threads per run, 0 for one per core.

    Raises RuntimeError when another provider than the CPU's took the session, ValueError when a type has no
    numpy form, and what ONNX Runtime raises when it cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin make a single request a little faster and every neighbour on the host slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Failures reach the caller as exceptions; ONNX Runtime would also write them to stderr in its own format.
    options.log_severity_level = _FATAL
    session = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
    # ONNX Runtime falls back to another provider without an error.
    if session.get_providers() != [PROVIDER]:
        raise RuntimeError(f"expected provider {PROVIDER}, got {', '.join(session.get_providers())}")
    return Session(session)


def _port(node: Any) -> Port:
    if node.type not in _DTYPES:
        raise ValueError(f"`{node.name}` is a {node.type}, which has no numpy form")
    return Port(node.name, _DTYPES[node.type], tuple(node.shape))
