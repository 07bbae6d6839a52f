# SPDX-License-Identifier: Apache-2.0
"""Torch programs to ONNX, for every exporter whose source is a torch module. Runs in the worker only.

Capture and conversion are two calls, not the one of `torch.onnx.export(module)`: that one retries with other
strategies and silently refines the dynamic dimensions it was given.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import Arrays, Feeds, Interface, Port
from packager.exporters._torch import attention, cost, divide, precision, training
from packager.graph import integers, rename

UNBOUNDED = (1 << 31) - 1  # stands for torch's infinity: longer than any axis a runtime accepts
TOOLCHAIN = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "numpy", "ml-dtypes", "sympy", "protobuf")


def import_torch() -> Any:
    """Import torch, or say how to install it; one thread, because a sum's order may follow the thread count."""
    try:
        module = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise MissingToolError("torch", "torch") from None
    module.set_num_threads(1)
    return module


def dtype_name(dtype: Any) -> str:
    """Return numpy's name of a torch dtype."""
    return str(dtype).removeprefix("torch.")


def build_example(interface: Interface) -> dict[str, Any]:
    """Return tensors to trace with.

    Named dimensions get lengths that differ from each other, from every fixed length and from 0 and 1, because torch
    draws conclusions from equal and unit lengths.
    """
    lib = import_torch()
    ports = interface.inputs
    taken = {length for port in ports for length in port.shape if isinstance(length, int)} | {0, 1}
    lengths: dict[str, int] = {}
    for name, (low, high) in interface.dimensions.items():
        free = (length for length in range(max(low, 2), high + 1) if length not in taken)
        lengths[name] = next(free, high)
        taken.add(lengths[name])
    return {port.name: _sample(lib, port, lengths) for port in ports}


def _sample(lib: Any, port: Port, lengths: Mapping[str, int]) -> Any:
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.shape]
    dtype = getattr(lib, port.dtype, None)
    if not isinstance(dtype, lib.dtype):
        raise StepError(f"input `{port.name}` has the dtype `{port.dtype}`, which torch does not know")
    low = port.range[0] if port.range else 1
    return lib.full(shape, low, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Traced:
    """A torch module as a source: run as it is, exported by tracing it.

    `parameters` are the names under which `forward` takes the inputs, in the order of `interface.inputs`; empty when
    they are passed by position. `outputs` are the requested names, empty for the default ones.
    """

    module: Any
    interface: Interface
    parameters: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def to_onnx(self, opset: int) -> Any:
        program = self._capture()
        training.refuse(program, captured_here=True)
        order = self._order(program)
        inputs = [port.name for port in order]
        model = convert(program, opset, inputs, output_names(program, self.outputs, inputs))
        rename_dimensions(model, match_symbols(model, order))
        return model

    def _capture(self) -> Any:
        """Trace into an ExportedProgram whose named dimensions stay free within their ranges.

        Where torch took a branch because a length was not 1, it refuses a range that starts at 1, although the branch
        is most often about memory layout. Such a model is traced from 2; the promise stays, and the measurement, which
        always runs the low end, decides whether it holds.
        """
        try:
            return self._trace(lowest=1)
        except StepError as error:
            guards = re.findall(r"generated guard (.*)\.", str(error.__cause__))
            if not guards or not all(re.search(r" != \d+$", guard) for guard in guards):
                raise
            return self._trace(lowest=2)

    def _trace(self, lowest: int) -> Any:
        lib = import_torch()
        ranges = {name: (max(low, lowest), high) for name, (low, high) in self.interface.dimensions.items()}
        sizes = {n: lib.export.Dim(n, min=low, max=max(high, low + 1)) for n, (low, high) in ranges.items()}
        shapes = [port.shape for port in self.interface.inputs]
        free = [{i: sizes[axis] for i, axis in enumerate(shape) if isinstance(axis, str)} for shape in shapes]
        args, kwargs = self._arguments(list(self._example().values()))
        dynamic = dict(zip(self.parameters, free, strict=True)) if self.parameters else tuple(free)
        with explain_export_error("captured"), silence_warnings(), lib.no_grad(), _free_lengths(self.module):
            return lib.export.export(self.module, args, kwargs, dynamic_shapes=dynamic, strict=False)

    def _example(self) -> dict[str, Any]:
        return build_example(self.interface)

    def _arguments(self, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.parameters:
            return (), dict(zip(self.parameters, values, strict=True))
        return tuple(values), {}

    def _order(self, program: Any) -> list[Port]:
        """Return the ports in the order of the program: torch sorts keyword arguments as `forward` declares them."""
        if not self.parameters:
            return list(self.interface.inputs)
        ports = dict(zip(self.parameters, self.interface.inputs, strict=True))
        return [ports[name] for name in program.graph_signature.user_inputs]

    def run(self, feeds: Feeds) -> Arrays:
        return self._answer(self.module, feeds)

    def exact(self) -> Callable[[Feeds], Arrays] | None:
        """Open the module in float64, unless it is too large for that."""
        if not precision.is_small(self.module):
            return None
        with silence_warnings():
            module = precision.doubled_module(import_torch(), self.module)
        return lambda feeds: precision.run_doubled(import_torch(), partial(self._answer, module), feeds)

    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
        """Say of positions and labels whether the source was undecided, as `exporters.gaps_of` requires."""
        return None if expected.dtype.kind == "f" else precision.gaps(self.exact(), feeds, output, got)

    def rounding(self, feeds: Feeds, output: int) -> float | None:
        """Return how far rounding by itself moves an output, as `exporters.rounding_of` requires."""
        return precision.rounding(import_torch(), self.exact(), feeds, output)

    def work(self) -> Callable[[Mapping[str, int]], float | None] | None:
        """Return what counts the operations of one run; nothing counts those of recurrent layers."""
        if any(isinstance(part, import_torch().nn.RNNBase) for part in self.module.modules()):
            return None
        return cost.count_operations(import_torch(), self.interface, lambda given: self._call(self.module, given))

    def _answer(self, module: Any, feeds: Feeds) -> Arrays:
        with silence_warnings(), import_torch().inference_mode(), _padded():
            return list_arrays(self._call(module, [copy_tensor(feeds[port.name]) for port in self.interface.inputs]))

    def _call(self, module: Any, tensors: Sequence[Any]) -> Any:
        args, kwargs = self._arguments(list(tensors))
        return module(*args, **kwargs)

    def extra_files(self) -> Mapping[str, Path]:
        return self.files


@contextlib.contextmanager
def _padded() -> Iterator[None]:
    """Let attention compute padded positions too: torch's fast path in eval mode leaves zeros there, no graph does."""
    mha = importlib.import_module("torch.backends.mha")
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _free_lengths(module: Any) -> Iterator[None]:
    """Set torch up to keep lengths free: no conclusions from examples, and recurrent layers as loops.

    Both are what `torch.onnx.export` does around its own capture; torch 2.9 and 2.13 have no public switch for them.
    """
    lib = import_torch()
    with contextlib.ExitStack() as stack:
        config = importlib.import_module("torch.fx.experimental._config")
        stack.enter_context(config.patch(backed_size_oblivious=True))
        if any(isinstance(part, lib.nn.RNNBase) for part in module.modules()):
            patches = importlib.import_module("torch.export._patches")
            for name in ("register_lstm_while_loop_decomposition", "register_gru_while_loop_decomposition"):
                if hasattr(patches, name):
                    stack.enter_context(getattr(patches, name)())
        yield


def output_names(program: Any, requested: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Return one name per tensor a program returns: those requested, else `output`, else `output_0`, `output_1`, …"""
    given = [spec.arg for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    tensors = [argument for argument in given if type(argument).__name__ == "TensorArgument"]
    for argument in given:
        if argument not in tensors and getattr(argument, "value", argument) is not None:
            raise StepError("the model returns something that is not a tensor", hint="return tensors only, or None")
    _refuse_complex(program)
    return named_outputs(len(tensors), requested, inputs)


def _refuse_complex(program: Any) -> None:
    """Raise StepError for inputs or outputs of complex numbers, which ONNX has tensors for and no operators."""
    signature = program.graph_signature
    ports = {*signature.user_inputs, *signature.user_outputs}
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    if any(getattr(values.get(name), "is_complex", bool)() for name in ports if isinstance(name, str)):
        raise StepError(
            "the model takes or returns complex numbers, which no runtime serves",
            hint="take and return real numbers: `torch.view_as_real` and `torch.view_as_complex` inside the model",
        )


def named_outputs(count: int, requested: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Return `count` names of outputs: the requested ones, else default ones that are no input's."""
    if requested and len(requested) != count:
        raise StepError(
            f"expected {count} output names, got {len(requested)}: {', '.join(requested)}",
            hint="name every output of the model, or none",
        )
    default = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return list(requested) or rename.distinct_names(inputs, default)


def convert(program: Any, opset: int, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Turn an ExportedProgram into an `onnx.ModelProto` at exactly `opset`, with its inputs and outputs renamed."""
    lib = import_torch()
    with explain_export_error("converted", program), silence_warnings(), lib.no_grad():
        made = lib.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            verbose=False,
            custom_translation_table=divide.translations(lib),
        )
        model = made.model_proto
    attention.answer_hidden_rows(model)
    integers.write_exactly(model, [value.name for value in model.graph.input])
    rename.name_ports(model, inputs, outputs)
    found = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if found != opset:  # torch writes opset 18, converts where it can, and keeps 18 without an error where it cannot
        raise StepError(
            f"expected a graph at opset {opset}, got opset {found} from torch",
            hint="leave `opset` out of the recipe: 18 runs on every known runtime",
        )
    return model


def rename_dimensions(model: Any, names: Mapping[str, int | str]) -> None:
    """Replace torch's symbols (`s40`) in every shape by the names or lengths of dimensions, inside expressions too."""
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if isinstance(length := names.get(axis.dim_param), int):
                axis.dim_value = length
            elif axis.dim_param:
                axis.dim_param = re.sub(r"\w+", lambda word: str(names.get(word[0], word[0])), axis.dim_param)


def match_symbols(model: Any, ports: Sequence[Port]) -> dict[str, int | str]:
    """Match the symbols torch chose for the inputs' axes with the names `ports` gives those axes."""
    found: dict[str, int | str] = {}
    for value, port in zip(model.graph.input, ports, strict=True):
        for axis, name in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if axis.dim_param and isinstance(name, str):
                found[axis.dim_param] = name
    return found


def copy_tensor(array: Any) -> Any:
    """Copy a numpy array into a tensor, so that a model that works in place cannot change what was fed."""
    return import_torch().from_numpy(array.copy())


def list_arrays(result: object) -> Arrays:
    """Return the tensors inside whatever a module returned, in the order torch flattens it."""
    lib = import_torch()
    leaves = importlib.import_module("torch.utils._pytree").tree_leaves(result)
    found = [leaf.detach() for leaf in leaves if isinstance(leaf, lib.Tensor)]
    if any(leaf.dtype is lib.bfloat16 for leaf in found):
        raise StepError("the model returns bfloat16, which numpy has no type for", hint="cast its outputs to float32")
    return [leaf.numpy() for leaf in found]


@contextlib.contextmanager
def silence_warnings() -> Iterator[None]:
    """Keep torch's warnings out of the log: they name absolute paths and hide the line that matters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def explain_export_error(verb: str, program: Any = None) -> Iterator[None]:
    """Turn what torch says about an impossible export, hundreds of lines, into one sentence and a remedy."""
    try:
        yield
    except (StepError, MemoryError):
        raise
    except Exception as error:  # every failure of a foreign compiler ends here, as a StepError that keeps its cause
        raise explain(error, verb, program) from error


_CALLED = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_OPERATOR = re.compile(r"No (?:decompositions|ONNX function)[^<]*<OpOverload\(op='([\w.:]+)'")


def explain(error: BaseException, verb: str, program: Any = None) -> StepError:
    """Say in one sentence what could not be exported and where; `program` is what was being converted."""
    text = "\n".join(f"{type(link).__name__}: {link}" for link in _chain(error))
    if "can't allocate memory" in text:  # torch has no separate class for it
        raise MemoryError from error
    where = _where(text)
    operator = _OPERATOR.search(text)
    if operator:
        called = _traces(program, operator.group(1))
        return StepError(
            f"operator `{operator.group(1)}` has no ONNX form{_where(called)}",
            hint="replace it by operators that ONNX has, or run this model on another runtime",
        )
    if "GuardOnDataDependent" in text or "data-dependent" in text:
        return StepError(
            f"the model branches on the value of a tensor{where}, which a graph cannot record",
            hint="use `torch.cond` or `torch.where` instead of a Python `if`, then log the model again",
        )
    if "Constraints violated" in text or "ConstraintViolation" in text:
        return _constraint(text)
    return StepError(
        f"the model could not be {verb}{where}: {_innermost(error)}",
        hint="check the shapes under `inputs`; write a length there as a number if the model cannot vary it",
    )


def _innermost(error: BaseException) -> str:
    """Return what the first failure said: the exporter wraps it in its own advice, with colours."""
    *_, innermost = _chain(error)
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(innermost)).strip()
    return f"{type(innermost).__name__}: {text.splitlines()[0] if text else 'no message':.300}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 16:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _traces(program: Any, operator: str) -> str:
    """Return the recorded stack of the first call of `operator` in a program, which may use its public name."""
    calls = program.graph.nodes if program is not None else ()
    name = operator.rpartition(".")[2].lstrip("_")
    found = [node for node in calls if node.op == "call_function" and name in str(node.target)]
    return str(found[0].meta.get("stack_trace", "")) if found else ""


def _where(text: str) -> str:
    """Name the innermost line of the model's own code that torch reports, without directories."""
    calls = [match for match in _CALLED.finditer(text) if "/site-packages/" not in match.group(1)]
    return f" at `{calls[-1].group(1).rsplit('/', 1)[-1]}:{calls[-1].group(2)}`" if calls else ""


def _constraint(text: str) -> StepError:
    listed = ", ".join(re.findall(r"Constraints violated \(([^)]+)\)", text)).split(", ")
    names = [f"`{name}`" for name in sorted(set(listed)) if name]
    detail = next((line.strip(" -") for line in text.splitlines() if line.strip().startswith("- ")), "")
    return StepError(
        f"the model does not accept every length of {' and '.join(names) or 'a dimension'}: {detail:.300}",
        hint="narrow its range under `dynamic`, or write the length as a number under `inputs`",
    )
