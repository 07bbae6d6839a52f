# SPDX-License-Identifier: Apache-2.0
"""`torch.export` archives (`.pt2`): a traced program and its weights. What MLflow writes for torch by default.

The program fixes which axes are free; a recipe may name them and narrow their ranges, never free a fixed one.
An archive may hold pickles; only torch's weights-only subset of them is opened, so loading runs no code of its author.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import BATCH, Arrays, ExportOptions, Feeds, Interface, Port, Range, pair_ports
from packager.exporters._files import archive, mlflow
from packager.exporters._torch import cost, precision, rebatch, training
from packager.exporters._torch import program as _torch

TOOLCHAIN: tuple[str, ...] = _torch.TOOLCHAIN
EXTRA = "torch"
EXECUTES = False
LOOKS_FOR = "`data/model.pt2` of an MLflow directory, or one `.pt2` file"

_UNFIX = (
    "log the model again with an `input_example` of at least two rows, or export it with `torch.export.Dim`; "
    "a pickled model can be exported with any dimensions (`allow_pickle`)"
)


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the archive: where MLflow puts it, else the only `.pt2` at the root."""
    table = mlflow.read_flavor("pytorch", paths, read)
    if table is not None:
        inside = f"{table.get('model_data', 'data')}/model.pt2"
        return inside if inside in paths else None
    found = [path for path in paths if path.endswith(".pt2") and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> Program:
    """Open the archive. Raises StepError for one that needs code to open or fixes an axis the recipe wants free."""
    lib = _torch.import_torch()
    archive.refuse_code(source / payload, lib)
    with _torch.explain_export_error("opened"), _torch.silence_warnings():
        program = lib.export.load(str(source / payload))
    training.refuse(program, captured_here=False)
    ports, outputs = mlflow.read_signature(source)
    if precision.is_half_program(lib, program):
        precision.widen_program(lib, program)
        options = precision.widen_options(options)
    alone = program if _asks_for_rows(_axes(program), options) else None
    if alone is not None:
        with _torch.silence_warnings():
            program = rebatch.free_first_axis(lib, alone, _UNFIX)
    interface, symbols = _interface(_axes(program), options, ports)
    return Program(program, interface, symbols, options.outputs or tuple(filter(None, outputs)), alone)


def _asks_for_rows(axes: _Axes, options: ExportOptions) -> bool:
    """Say whether a program takes one row at a time and the recipe wants more of them."""
    stated = [port.shape[0] for port in options.inputs or () if port.shape]
    named = BATCH in options.named or any(isinstance(axis, str) for axis in stated)
    return named and bool(axes.inputs) and all(port.shape[:1] == (1,) for port in axes.inputs)


@dataclass(frozen=True, slots=True)
class Program:
    """An opened archive; `symbols` maps the program's own names of free axes to the names of dimensions.

    `alone` is the program as it was, when it took one row at a time and `program` was freed of that.
    """

    program: Any
    interface: Interface
    symbols: Mapping[str, int | str]
    outputs: tuple[str, ...]
    alone: Any = None

    def to_onnx(self, opset: int) -> Any:
        inputs = [port.name for port in self.interface.inputs]
        model = _torch.convert(self.program, opset, inputs, _torch.output_names(self.program, self.outputs, inputs))
        _torch.rename_dimensions(model, self.symbols)
        return model

    def run(self, feeds: Feeds) -> Arrays:
        if self.alone is None:
            return self._answer(self.program.module(), feeds)
        module = self.alone.module()
        return rebatch.by_rows(lambda row: self._answer(module, row), dict(feeds))

    def exact(self) -> Callable[[Feeds], Arrays] | None:
        """Open the program in float64, unless it is too large for that."""
        lib = _torch.import_torch()
        if not precision.is_small(self.program):
            return None
        with _torch.silence_warnings():
            module = precision.doubled_program(lib, self.program)
        return lambda feeds: precision.run_doubled(lib, partial(self._answer, module), feeds)

    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
        """Say of positions and labels whether the source was undecided, as `exporters.gaps_of` requires."""
        return None if expected.dtype.kind == "f" else precision.gaps(self.exact(), feeds, output, got)

    def rounding(self, feeds: Feeds, output: int) -> float | None:
        """Return how far rounding by itself moves an output, as `exporters.rounding_of` requires."""
        return precision.rounding(_torch.import_torch(), self.exact(), feeds, output)

    def work(self) -> Callable[[Mapping[str, int]], float | None] | None:
        """Return what counts the operations of one run; nothing counts those of recurrent layers."""
        if any(re.match(r"aten\.(lstm|gru|rnn_)", str(node.target)) for node in self.program.graph.nodes):
            return None
        module = self.program.module(check_guards=False)
        return cost.count_operations(_torch.import_torch(), self.interface, lambda given: self._call(module, given))

    def _answer(self, module: Any, feeds: Feeds) -> Arrays:
        with _torch.import_torch().inference_mode(), _torch.silence_warnings():
            return _torch.list_arrays(
                self._call(module, [_torch.copy_tensor(feeds[port.name]) for port in self.interface.inputs])
            )

    def _call(self, module: Any, tensors: Sequence[Any]) -> Any:
        lib, tree, given = _torch.import_torch(), importlib.import_module("torch.utils._pytree"), iter(tensors)
        leaves, spec = tree.tree_flatten(self.program.example_inputs)  # what is not a tensor there is a constant
        args, kwargs = tree.tree_unflatten([next(given) if isinstance(x, lib.Tensor) else x for x in leaves], spec)
        return module(*args, **kwargs)

    def extra_files(self) -> Mapping[str, Path]:
        return {}


# -- what the program says, and how it meets the recipe


@dataclass(frozen=True, slots=True)
class _Axes:
    """The tensor inputs of a program with torch's symbols on the free axes, and the range of each symbol."""

    inputs: tuple[Port, ...]
    ranges: Mapping[str, tuple[int, int]]

    def limit(self, symbol: str) -> Range:
        """Return the lengths a symbol allows. From 2 means from 1: torch writes 2 for "not looked at"."""
        low, high = self.ranges.get(symbol, (1, _torch.UNBOUNDED))
        return (1 if low <= 2 else low), high


def _axes(program: Any) -> _Axes:
    lib = _torch.import_torch()
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    ports = [
        Port(name, _torch.dtype_name(values[name].dtype), tuple(map(_axis, values[name].shape)))
        for name in program.graph_signature.user_inputs
        if isinstance(name, str) and isinstance(values.get(name), lib.Tensor)
    ]
    ranges = {str(symbol): (_bound(r.lower), _bound(r.upper)) for symbol, r in program.range_constraints.items()}
    return _Axes(tuple(ports), ranges)


def _axis(length: Any) -> int | str:
    return length if isinstance(length, int) else str(length)


def _bound(value: Any) -> int:
    """Return a bound as a number; torch's infinities have no digits."""
    return int(value) if re.fullmatch(r"-?\d+", str(value)) else _torch.UNBOUNDED


def _interface(
    axes: _Axes, options: ExportOptions, signature: Sequence[Port]
) -> tuple[Interface, dict[str, int | str]]:
    """Bring program, recipe and signature together; also return what each of torch's symbols is to be called."""
    recipe = pair_ports(axes.inputs, options.inputs or ())
    stated = pair_ports(axes.inputs, () if options.inputs else signature, ordered=True)
    symbols: dict[str, int | str] = {}
    ports = []
    for port, request, entry in zip(axes.inputs, recipe, stated, strict=True):
        name = request.name if request else (entry.name if entry else "") or port.name
        _check_dtype(port, request)
        for index, axis in enumerate(port.shape):
            _settle(
                port,
                index,
                axis,
                request.shape if request else None,
                symbols,
                _default_name(name, index, axes, options),
            )
        shape = tuple(symbols.get(str(axis), axis) for axis in port.shape)
        ports.append(Port(name, port.dtype, shape, request.range if request else None))
    interface = options.interface(ports, _limits(axes, symbols), unfix=_UNFIX)
    lengths = dict(zip(_names(ports), _names(interface.inputs), strict=True))  # a range of one became a length
    return interface, {symbol: lengths.get(name, name) for symbol, name in symbols.items()}


def _names(ports: Sequence[Port]) -> list[int | str]:
    return [axis for port in ports for axis in port.shape]


def _limits(axes: _Axes, symbols: Mapping[str, int | str]) -> dict[str, Range]:
    """Return what the program allows for every name; symbols that share one name share the narrower range."""
    limits: dict[str, Range] = {}
    for symbol, name in symbols.items():
        low, high = axes.limit(symbol)
        known = limits.get(str(name), (low, high))
        limits[str(name)] = (max(low, known[0]), min(high, known[1]))
    return limits


def _default_name(port: str, index: int, axes: _Axes, options: ExportOptions) -> str:
    """Name an unnamed free axis: the first is the batch, a sole dimension is the one under `dynamic`."""
    if len(axes.ranges) == 1 and len(options.named) == 1:
        return next(iter(options.named))
    return BATCH if index == 0 else f"{port}_{index}"


def _check_dtype(port: Port, request: Port | None) -> None:
    if request and request.dtype != port.dtype:
        raise StepError(f"input `{request.name}` is {port.dtype} in the program, got {request.dtype} from the recipe")


def _settle(
    port: Port,
    index: int,
    axis: int | str,
    request: Sequence[int | str] | None,
    symbols: dict[str, int | str],
    name: str,
) -> None:
    """Decide one axis: a fixed one must agree with the recipe, a free one gets its name or length in `symbols`."""
    if request is not None and len(request) != len(port.shape):
        raise StepError(
            f"input `{port.name}` has {len(port.shape)} axes in the program, got {len(request)} in the recipe"
        )
    wanted = request[index] if request is not None else None
    if isinstance(axis, int):
        if wanted not in (None, axis):
            where = f"axis {index} of `{port.name}`"
            raise StepError(f"{where} is fixed at {axis} in the program, got `{wanted}` from the recipe", hint=_UNFIX)
        return
    chosen = symbols.setdefault(axis, name if wanted is None else wanted)
    if wanted is not None and chosen != wanted:
        raise StepError(f"axis {index} of `{port.name}` must be as long as `{chosen}` in the program, got `{wanted}`")
