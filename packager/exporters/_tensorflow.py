# SPDX-License-Identifier: Apache-2.0
"""TensorFlow functions as sources, converted by `tf2onnx`. Runs in the worker only.

The conversion goes through a function with a stated signature: the way through a Keras model itself fails on Keras 3,
and the one through a directory needs a process of its own.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import BATCH, Arrays, Feeds, Interface, Port, Wishes, _table, pair

TOOLCHAIN: tuple[str, ...] = (
    "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy", "h5py", "ml-dtypes", "protobuf",
)  # fmt: skip
EXTRA = "tensorflow"

_NEWEST = 18  # of what tf2onnx 1.17 writes
_UNFIX = "save the model with a free axis (`None`), then name it under `inputs`"
_OTHERWISE = "replace that layer or operator, or export the model another way and register the ONNX file"


def library() -> Any:
    """Import TensorFlow, quiet and on the CPU, or say how to install it."""
    os.environ.update(  # noqa: TID251 - read by TensorFlow when it is imported; this is a process of its own
        TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", TF_ENABLE_ONEDNN_OPTS="0", TF_DETERMINISTIC_OPS="1"
    )
    try:
        found = importlib.import_module("tensorflow")
    except ImportError:
        raise MissingToolError("tensorflow", EXTRA) from None
    found.config.threading.set_intra_op_parallelism_threads(1)
    found.config.threading.set_inter_op_parallelism_threads(1)
    return found


@dataclass(frozen=True, slots=True)
class Function:
    """A function of named tensors as a source.

    `call` takes one tensor per input, in order, and returns a list; `keep` is the object that owns its variables.
    """

    call: Callable[..., Sequence[Any]]
    interface: Interface
    outputs: tuple[str, ...]
    keep: Any

    def to_onnx(self, opset: int) -> Any:
        lib = library()
        try:
            convert = importlib.import_module("tf2onnx").convert
        except ImportError:
            raise MissingToolError("tf2onnx", EXTRA) from None
        given = [_spec(lib, port) for port in self.interface.inputs]
        function = lib.function(lambda *tensors: tuple(self.call(*tensors)), input_signature=given)

        def attempt() -> Any:
            return convert.from_function(function, input_signature=given, opset=min(opset, _NEWEST))[0]

        model = _table.refused("the model has no ONNX form", attempt, _OTHERWISE)
        _complete(model)
        _name(model, self.interface.inputs, self.outputs)
        return model

    def run(self, feeds: Feeds) -> Arrays:
        lib = library()
        results = self.call(*(lib.constant(feeds[port.name]) for port in self.interface.inputs))
        return [result.numpy() for result in results]

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def opened(
    call: Callable[..., Sequence[Any]], found: Sequence[Port], outputs: Sequence[str], keep: Any, wishes: Wishes
) -> Function:
    """Bring a function together with the recipe. Raises StepError where they contradict each other."""
    ports = [_merged(port, wish) for port, wish in zip(found, pair(found, wishes.inputs or ()), strict=True)]
    if wishes.outputs and len(wishes.outputs) != len(outputs):
        raise StepError(f"expected {len(outputs)} output names, got {len(wishes.outputs)}")
    return Function(call, wishes.interface(ports, {}, unfix=_UNFIX), tuple(wishes.outputs or outputs), keep)


def port(name: str, spec: Any) -> Port:
    """Return what a tensor's specification asks for; an axis without a length gets a name."""
    if spec.shape.rank is None:
        raise StepError(f"input `{name}` has no known number of axes", hint="save the model with an input signature")
    axes = enumerate(spec.shape.as_list())
    shape = tuple(length if length is not None else BATCH if i == 0 else f"{name}_{i}" for i, length in axes)
    return Port(name, spec.dtype.name, shape)


def _merged(found: Port, wish: Port | None) -> Port:
    if wish is None:
        return found
    fits = wish.dtype == found.dtype and len(wish.shape) == len(found.shape)
    if not fits or any(isinstance(a, int) and a != b for a, b in zip(found.shape, wish.shape, strict=True)):
        got = f"{wish.dtype} {list(wish.shape)}"
        raise StepError(
            f"input `{found.name}` is {found.dtype} {list(found.shape)}, got {got} from the recipe", hint=_UNFIX
        )
    return replace(wish)


def _spec(lib: Any, asked: Port) -> Any:
    shape = [axis if isinstance(axis, int) else None for axis in asked.shape]
    return lib.TensorSpec(shape, getattr(lib, asked.dtype))


def _complete(model: Any) -> None:
    """Write what the converter leaves as operators of TensorFlow. Raises StepError for one that has no form here.

    `Erfc` is what an exact `gelu` of Keras is made of; ONNX has its complement only.
    """
    onnx = importlib.import_module("onnx")
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    nodes = []
    for index, node in enumerate(model.graph.node):
        if node.domain or node.op_type in known:
            nodes.append(node)
            continue
        if node.op_type != "Erfc":
            raise StepError(f"`{node.op_type}` of TensorFlow has no ONNX form", hint=_OTHERWISE)
        one, erf = f"packager_one_{index}", f"packager_erf_{index}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(_one_like(model, node.input[0]), one))
        nodes.append(onnx.helper.make_node("Erf", node.input, [erf]))
        nodes.append(onnx.helper.make_node("Sub", [one, erf], node.output))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _one_like(model: Any, name: str) -> Any:
    """Return a one of the type that a value has, as far as the graph states it: float32 otherwise."""
    onnx, numpy = importlib.import_module("onnx"), importlib.import_module("numpy")
    stated = [value for value in (*model.graph.value_info, *model.graph.input) if value.name == name]
    kind = stated[0].type.tensor_type.elem_type if stated else onnx.TensorProto.FLOAT
    return numpy.ones((), onnx.helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT))


def _name(model: Any, inputs: Sequence[Port], outputs: Sequence[str]) -> None:
    """Write names and axes of the interface on a graph that has them in the same order."""
    if len(model.graph.input) != len(inputs) or len(model.graph.output) != len(outputs):
        raise StepError(
            f"the graph has {len(model.graph.input)} inputs and {len(model.graph.output)} outputs, expected "
            f"{len(inputs)} and {len(outputs)}", hint="leave inputs out that the model does not use",
        )  # fmt: skip
    names = {value.name: asked.name for value, asked in zip(model.graph.input, inputs, strict=True)}
    taken = {name for node in model.graph.node for name in node.output}
    for value, name in zip(model.graph.output, outputs, strict=True):
        if value.name in names:
            raise StepError(f"output `{name}` is an input unchanged", hint="leave it out")
        names[value.name] = name
    names |= {name: f"{name}_inner" for name in set(names.values()) & taken - names.keys()}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value, asked in zip(model.graph.input, inputs, strict=True):
        for axis, length in zip(value.type.tensor_type.shape.dim, asked.shape, strict=True):
            setattr(axis, "dim_value" if isinstance(length, int) else "dim_param", length)
