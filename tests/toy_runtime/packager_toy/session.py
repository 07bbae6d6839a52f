# SPDX-License-Identifier: Apache-2.0
"""Open a container of Toy and run it with ONNX's reference evaluator.

This file is copied into installations and runs there with numpy and onnx alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

_MAGIC = b"toy 1\n"


class Port(NamedTuple):
    """An input or output: its numpy dtype name and its shape; a size that the artefact leaves open is its name."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Session:
    """An artefact ready to run; the evaluator keeps nothing between runs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model)
        self.inputs = tuple(_port(value) for value in model.graph.input)
        self.outputs = tuple(_port(value) for value in model.graph.output)
        self.provider = "reference"
        self.version: str = onnx.__version__

    def run(self, feeds: Mapping[str, Any]) -> Sequence[Any]:
        """Return every output, in the order of `outputs`. Raises ValueError for inputs of another form."""
        if feeds.keys() != {port.name for port in self.inputs}:
            raise ValueError(f"expected inputs {[port.name for port in self.inputs]}, got {[*feeds]}")
        for port in self.inputs:
            given = feeds[port.name]
            sizes = zip(given.shape, port.shape, strict=False)
            if given.ndim != len(port.shape) or any(isinstance(size, int) and size != got for got, size in sizes):
                raise ValueError(f"`{port.name}`: expected shape {list(port.shape)}, got {list(given.shape)}")
            if given.dtype.name != port.dtype:
                raise ValueError(f"`{port.name}`: expected {port.dtype}, got {given.dtype.name}")
        return [np.asarray(result) for result in self._evaluator.run(None, dict(feeds))]


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Load the container at `path`. Raises ValueError for another device and for another file."""
    if device != "cpu":
        raise ValueError(f"expected device cpu, got {device}")
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise ValueError(f"expected a file that starts with {_MAGIC!r}, got {data[:6]!r}")
    return Session(onnx.load_from_string(data.removeprefix(_MAGIC)))


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim)
    return Port(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name, tuple(sizes))
