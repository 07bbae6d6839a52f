# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite models (`.tflite`), converted by `tf2onnx`; the reference is TensorFlow's own interpreter of them.

The file is data: a list of operators that the interpreter has built in. A file that needs others is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import BATCH, Arrays, ExportOptions, Feeds, Interface, Port
from packager.exporters._interface import indices
from packager.exporters._tensorflow import function, graph

TOOLCHAIN: tuple[str, ...] = function.TOOLCHAIN
EXTRA = function.EXTRA
EXECUTES = False
LOOKS_FOR = "one `.tflite` file"

_OTHERWISE = "register the model that the file was converted from (`.keras` or a SavedModel)"
_UNFIX = "convert the model with a free axis (`None`), then name it under `inputs`"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the only file of this ending at the root."""
    found = [path for path in paths if path.endswith(".tflite") and "/" not in path]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Lite:
    """A model that the interpreter runs; `given` and `made` are the names of its tensors in the file."""

    path: Path
    wanted: Interface
    outputs: tuple[str, ...]
    given: tuple[str, ...]
    made: tuple[str, ...]

    @property
    def interface(self) -> Interface:
        return replace(self.wanted, inputs=indices.bound_indices(self.wanted.inputs, self.to_onnx(function.NEWEST)))

    def to_onnx(self, opset: int) -> Any:
        function.library()
        try:
            convert = importlib.import_module("tf2onnx").convert
        except ImportError:
            raise MissingToolError("tf2onnx", EXTRA) from None

        def attempt() -> Any:
            return convert.from_tflite(str(self.path), opset=min(opset, function.NEWEST))[0]

        model = function.explain_failure("the model has no ONNX form", attempt, _OTHERWISE)
        graph.replace_tensorflow_operators(model, _OTHERWISE)
        graph.name(model, (*self.given, *self.made), self.wanted.inputs, self.outputs)
        return model

    def run(self, feeds: Feeds) -> Arrays:
        interpreter = _interpreter(self.path)
        details = interpreter.get_input_details()
        for detail, port in zip(details, self.wanted.inputs, strict=True):
            interpreter.resize_tensor_input(detail["index"], feeds[port.name].shape)
        interpreter.allocate_tensors()
        for detail, port in zip(details, self.wanted.inputs, strict=True):
            interpreter.set_tensor(detail["index"], feeds[port.name])
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def load(source: Path, payload: str, options: ExportOptions) -> Lite:
    """Open the file. Raises StepError for one that the interpreter does not run."""
    path = source / payload

    def attempt() -> Any:
        interpreter = _interpreter(path)
        interpreter.allocate_tensors()
        return interpreter

    interpreter = function.explain_failure(f"`{payload}` cannot be opened by TensorFlow Lite", attempt, _OTHERWISE)
    details, results = interpreter.get_input_details(), interpreter.get_output_details()
    ports = function.merge_inputs([_port(detail, len(details)) for detail in details], options)
    outputs = options.outputs or function.distinct_names(_outputs(results), ports)
    if len(outputs) != len(results):
        raise StepError(f"expected {len(results)} output names, got {len(outputs)}")
    names = [tuple(detail["name"] for detail in listed) for listed in (details, results)]
    return Lite(path, options.interface(ports, {}, unfix=_UNFIX), tuple(outputs), *names)


def _interpreter(path: Path) -> Any:
    return function.library().lite.Interpreter(model_path=str(path), num_threads=1)


def _port(detail: Mapping[str, Any], count: int) -> Port:
    """Return what a tensor requires; the converter's prefix is no part of its name."""
    plain = str(detail["name"]).partition(":")[0].removeprefix("serving_default_")
    name = plain or "input" if count == 1 else plain or f"input_{detail['index']}"
    axes = enumerate(map(int, detail["shape_signature"]))
    shape = tuple(
        length if length > 0 else BATCH if position == 0 else f"{name}_{position}" for position, length in axes
    )
    dtype = importlib.import_module("numpy").dtype(detail["dtype"]).name
    return Port(name, dtype, shape)


def _outputs(results: Sequence[Any]) -> list[str]:
    return ["output"] if len(results) == 1 else [f"output_{position}" for position in range(len(results))]
