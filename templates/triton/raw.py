# SPDX-License-Identifier: Apache-2.0
"""Triton's Python backend for rows as people have them: the pipeline of the bundle around the graph of `model.py`.

Inputs are the columns of a row (`text`, `image`, …) as BYTES, one element per row; outputs are what `packager serve`
answers over the same protocol. The pipeline is that server's own code, which lies beside this file, on the versions of
its libraries that the bundle was measured with. A request is one run: rows of several requests are not joined.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
Tensors = importlib.import_module("model").TritonPythonModel
PYTHON = (3, 11)
BINARY = ("image", "audio")


class TritonPythonModel(Tensors):  # type: ignore[misc]
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check versions and files, then open the graph and the pipeline."""
        super().initialize(args)
        record = json.loads((HERE / "deployment.json").read_bytes())
        if sys.version_info < PYTHON:
            raise self._pb.TritonModelException(f"the pipeline needs Python {'.'.join(map(str, PYTHON))} or newer")
        for name, version in record["libraries"].items():
            if (found := _installed(name)) != version:
                raise self._pb.TritonModelException(
                    f"{name} {found or 'is not installed'}: the pipeline was measured with {name}=={version}"
                )
        pipelines = importlib.import_module("packager.server.pipeline.pipeline")
        interface = importlib.import_module("packager.server.protocol.interface").Interface.from_json(self._interface)
        self._refused = importlib.import_module("packager.server.errors").RequestError
        named = record["pipeline"]
        try:
            self._pipeline = pipelines.open_checked(HERE / named["path"], named["digest"], interface)
        except (OSError, ValueError) as error:
            raise self._pb.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request by itself; one that is refused says why, and the others are answered."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            prepared = self._pipeline.prepare(self._rows(request))
            arrays = self._session.run(self._names, dict(prepared.feeds))
            found = self._pipeline.tensors(dict(zip(self._names, arrays, strict=True)), prepared)
        except self._refused as error:
            return self._error(error.message)
        return self._pb.InferenceResponse([self._tensor(name, array) for name, array in found.items()])

    def _rows(self, request: Any) -> list[dict[str, Any]]:
        """Return the rows of a request: the elements of its columns, side by side."""
        about, columns = self._pipeline.about, {}
        for name in (*about.columns, *about.optional):
            tensor = self._pb.get_input_tensor_by_name(request, name)
            if tensor is not None:
                columns[name] = [self._cell(name, cell) for cell in tensor.as_numpy().reshape(-1)]
        if len({len(column) for column in columns.values()}) != 1:
            raise self._refused(f"expected as many elements in {' and '.join(columns)}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _cell(self, name: str, cell: bytes) -> bytes | str:
        if name in BINARY:
            return bytes(cell)
        try:
            return bytes(cell).decode()
        except UnicodeDecodeError:
            raise self._refused(f"`{name}`: expected UTF-8") from None

    def _tensor(self, name: str, array: Any) -> Any:
        """Return an output; an array without elements keeps its type."""
        return super()._tensor(name, array) if array.size else self._pb.Tensor(name, np.ascontiguousarray(array))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
