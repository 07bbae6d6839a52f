# SPDX-License-Identifier: Apache-2.0
"""TensorFlow functions as sources, converted by `tf2onnx`. Runs in the worker only.

The conversion goes through a function with a stated signature: the way through a Keras model itself fails on Keras 3,
and the one through a directory needs a separate process.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.errors import MissingToolError, StepError
from packager.exporters import BATCH, Arrays, ExportOptions, Feeds, Interface, Port, pair_ports
from packager.exporters._interface import indices
from packager.exporters._tensorflow import graph

TOOLCHAIN: tuple[str, ...] = (
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "h5py",
    "ml-dtypes",
    "protobuf",
)
EXTRA = "tensorflow"

NEWEST = 18  # opset of what tf2onnx 1.17 writes
_UNFIX = "save the model with a free axis (`None`), then name it under `inputs`"
_OTHERWISE = "replace that layer or operator, or export the model another way and register the ONNX file"


def library() -> Any:
    """Import TensorFlow, quiet and on the CPU, or say how to install it.

    With oneDNN at its full width, as people run it: a trained spectrogram model is off by 1e-3 on a plain tone without
    oneDNN, by 2e-4 with the oldest instructions, and by 1e-6 so. That is what the reference has to be.
    """
    os.environ.update(  # noqa: TID251 - read by TensorFlow when it is imported; this is a separate process
        TF_CPP_MIN_LOG_LEVEL="3",
        CUDA_VISIBLE_DEVICES="",
        TF_DETERMINISTIC_OPS="1",
        TF_ENABLE_ONEDNN_OPTS="1",
        ONEDNN_MAX_CPU_ISA="DEFAULT",
    )
    try:
        found = importlib.import_module("tensorflow")
    except ImportError:
        raise MissingToolError("tensorflow", EXTRA) from None
    for name in ("tensorflow", "tf2onnx", "absl"):  # what matters of their words is in the errors
        logging.getLogger(name).setLevel(logging.CRITICAL)
    found.config.threading.set_intra_op_parallelism_threads(1)
    found.config.threading.set_inter_op_parallelism_threads(1)
    return found


@dataclass(slots=True)
class Function:
    """A function of named tensors as a source.

    `call` takes one tensor per input, in order, and returns a list; `keep` is the object that owns its variables.
    `wanted` is the interface without what only the graph states: the range of ids.
    """

    call: Callable[..., Sequence[Any]]
    wanted: Interface
    outputs: tuple[str, ...]
    keep: Any
    _inputs: tuple[Port, ...] | None = field(default=None, init=False, repr=False)

    @property
    def interface(self) -> Interface:
        """The interface; its ranges come from the graph, which is made on first use."""
        if self._inputs is None:
            self.to_onnx(NEWEST)
        return replace(self.wanted, inputs=self._inputs or self.wanted.inputs)

    def to_onnx(self, opset: int) -> Any:
        lib = library()
        try:
            convert = importlib.import_module("tf2onnx").convert
        except ImportError:
            raise MissingToolError("tf2onnx", EXTRA) from None
        given = [_spec(lib, port, f"given_{position}") for position, port in enumerate(self.wanted.inputs)]

        def attempt() -> Any:
            function = lib.function(lambda *tensors: tuple(map(lib.identity, self.call(*tensors))), given)
            closed = _closed(function.get_concrete_function())
            _refuse_mapped(closed)
            names = [*(spec.name for spec in given), *(tensor.name for tensor in closed.outputs)]
            return convert.from_function(_Known(closed), given, opset=min(opset, NEWEST))[0], names

        model, names = explain_failure("the model has no ONNX form", attempt, _OTHERWISE)
        graph.replace_tensorflow_operators(model, _OTHERWISE)
        graph.name(model, names, self.wanted.inputs, self.outputs)
        self._inputs = indices.bound_indices(self.wanted.inputs, model)
        return model

    def run(self, feeds: Feeds) -> Arrays:
        lib = library()
        results = self.call(*(lib.constant(feeds[port.name]) for port in self.wanted.inputs))
        return [result.numpy() for result in results]

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def open_function(
    call: Callable[..., Sequence[Any]], found: Sequence[Port], outputs: Sequence[str], keep: Any, options: ExportOptions
) -> Function:
    """Bring a function together with the recipe. Raises StepError where they contradict each other."""
    ports = merge_inputs(found, options)
    if options.outputs and len(options.outputs) != len(outputs):
        raise StepError(f"expected {len(outputs)} output names, got {len(options.outputs)}")
    interface = options.interface(ports, {}, unfix=_UNFIX)
    return Function(call, interface, tuple(options.outputs or distinct_names(outputs, ports)), keep)


def distinct_names(outputs: Sequence[str], ports: Sequence[Port]) -> list[str]:
    """Return names for outputs that no input has, which in one graph would be one value."""
    taken = {port.name for port in ports}
    return [f"{name}_out" if name in taken else name for name in outputs]


def port(name: str, spec: Any) -> Port:
    """Return what a tensor's specification requires; an axis without a length gets a name."""
    if spec.shape.rank is None:
        raise StepError(f"input `{name}` has no known number of axes", hint="save the model with an input signature")
    axes = enumerate(spec.shape.as_list())
    shape = tuple(length if length is not None else BATCH if i == 0 else f"{name}_{i}" for i, length in axes)
    return Port(name, spec.dtype.name, shape)


def merge_inputs(found: Sequence[Port], options: ExportOptions) -> list[Port]:
    """Return the inputs as the recipe states them. Raises StepError where it contradicts the source."""
    return [
        _merged(port, request) for port, request in zip(found, pair_ports(found, options.inputs or ()), strict=True)
    ]


def _merged(found: Port, request: Port | None) -> Port:
    if request is None:
        return found
    fits = request.dtype == found.dtype and len(request.shape) == len(found.shape)
    if not fits or any(isinstance(a, int) and a != b for a, b in zip(found.shape, request.shape, strict=True)):
        got = f"{request.dtype} {list(request.shape)}"
        raise StepError(
            f"input `{found.name}` is {found.dtype} {list(found.shape)}, got {got} from the recipe", hint=_UNFIX
        )
    return replace(request)


def _spec(lib: Any, port: Port, name: str) -> Any:
    shape = [axis if isinstance(axis, int) else None for axis in port.shape]
    return lib.TensorSpec(shape, getattr(lib, port.dtype), name)


@dataclass(frozen=True, slots=True)
class _Known:
    """A function that is traced already, in the form that the converter requires."""

    concrete: Any

    def get_concrete_function(self, *_: Any) -> Any:
        return self.concrete


def _closed(concrete: Any) -> Any:
    """Return a function without captured constants, which the converter would take for inputs.

    Such are what a layer adapted to data (`Normalization`), and every `tf.constant` of a module.
    """
    captured = concrete.inputs[len(concrete.inputs) - len(concrete.captured_inputs) :]
    if all(tensor.dtype.name == "resource" for tensor in captured):
        return concrete
    freezing = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    return freezing.convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)


def _refuse_mapped(concrete: Any) -> None:
    """Raise StepError for a loop over a free length that TensorFlow wrote for a mapped function.

    `tf2onnx` counts its turns by another axis: Keras 3 writes one for `TimeDistributed` where the length is free.
    """
    found = next((op.name for op in concrete.graph.get_operations() if "/pfor/while" in op.name), None)
    if found is not None:
        layer = next((part for part in found.split("/") if "time_distributed" in part), found.partition("/pfor")[0])
        raise StepError(
            f"`{layer}` is mapped over an axis of no fixed length, which has no ONNX form",
            hint="give that axis a length in the model, or apply the layer itself: `Dense` takes any number of axes",
        )


def explain_failure(what: str, call: Callable[[], Any], hint: str) -> Any:
    """Return what `call` does; turn what TensorFlow and its converter raise into one StepError that says `what`."""
    try:
        return call()
    except StepError:
        raise
    except Exception as error:  # of any class
        raise StepError(f"{what}: {error_causes.find_cause(error)}", hint=hint) from error
