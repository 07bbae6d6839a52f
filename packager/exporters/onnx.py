# SPDX-License-Identifier: Apache-2.0
"""Graphs that are ONNX already: kept as they are when the promised runtimes understand them, converted down when not.

The reference is the source graph itself, run by ONNX Runtime as it comes, so that a conversion is measured like any
export and an answer is right where users of the file get it. How far the runtime's own optimisation moves the file is
measured beside (`unoptimised`).
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.edits import Edit, write_flow
from packager.errors import StepError, TooNewError
from packager.exporters import BATCH, Arrays, ExportOptions, Feeds, Interface, Port, pair_ports
from packager.exporters._files import mlflow
from packager.exporters._interface import described
from packager.exporters._interface import free_lengths as _settled
from packager.graph import canonicalise, check, cost, rename, zipmap
from packager.recipe.fields import DIMENSION
from packager.recipe.lengths import Lengths

TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
EXECUTES = False
LOOKS_FOR = "`model.onnx` of an MLflow directory or at the root, or one `.onnx` file"

RUNTIME_DOMAINS = ("com.microsoft",)  # of operators that ONNX Runtime brings itself
_LARGEST_MESSAGE = 1 << 30  # bytes
_LEAST = 100  # operations per element of the inputs: what is not a product or a convolution is counted as so many

KEEPS = True  # what is ONNX already stays as new as the promised runtimes allow

_USUAL, _PLAIN = "ORT_ENABLE_ALL", "ORT_DISABLE_ALL"  # how ONNX Runtime comes, and without what it makes of a graph

_LOWER = "export the source at the lower opset, or promise only newer runtimes under `runs-on`"
_UNFIX = "export the source with a symbolic axis, then name it under `inputs`"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the graph file: what MLflow names, else `model.onnx`, else the only `.onnx` at the root."""
    table = mlflow.read_flavor("onnx", paths, read)
    stated = str(table.get("data", "model.onnx")) if table else "model.onnx"
    if stated in paths:
        return stated
    found = [path for path in paths if path.endswith(".onnx") and "/" not in path]
    return found[0] if len(found) == 1 else None


def describe(path: Path, *, seconds: float) -> JSON:
    """Return what a file takes and returns, found by running it (`_described`)."""
    check.check(path, RUNTIME_DOMAINS)
    return described.describe(path, seconds=seconds)


def load(source: Path, payload: str, options: ExportOptions) -> Graph:
    """Open the graph and its external data. Raises StepError for a broken or hostile file or unmet options."""
    path = source / payload
    check.check(path, options.domains)
    model = canonicalise.read(path)
    names = [value.name for value in model.graph.output]
    labels = zipmap.strip_zipmaps(model)
    _refuse_foreign_outputs(model)
    ports = _ports(model, options.named)
    recipe = pair_ports(ports, options.inputs or ())
    named = [_merged(port, request) for port, request in zip(ports, recipe, strict=True)]
    outputs = options.outputs or tuple(rename.distinct_names([port.name for port in named], names))
    if len(outputs) != len(names):
        raise StepError(f"expected {len(names)} output names, got {len(outputs)}")
    interface = options.interface(named, {}, unfix=_UNFIX)
    return Graph(path, model, tuple(port.name for port in ports), interface, outputs, labels)


def _refuse_foreign_outputs(model: Any) -> None:
    for value in model.graph.output:
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            canonicalise.read_port(value)  # raises


def _ports(model: Any, named: Collection[str]) -> list[Port]:
    """Return what a caller feeds; an unnamed first axis is the batch.

    Axes that the file calls what no recipe can write (`?`) have nothing to do with each other: each gets a name.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    ports = [Port(*canonicalise.read_port(value)) for value in model.graph.input if value.name not in weights]
    ports = [replace(p, shape=tuple(BATCH if axis == f"{p.name}_0" else axis for axis in p.shape)) for p in ports]
    inputs = {port.name: described.Input(port.name, port.dtype, port.shape) for port in ports}  # type: ignore[arg-type]
    taken = {axis for port in ports for axis in port.shape if isinstance(axis, str)}

    def called(port: Port, position: int, axis: int | str) -> int | str:
        if isinstance(axis, int) or axis in named or re.fullmatch(DIMENSION, axis) or axis == f"{port.name}_{position}":
            return axis
        guess = described.guess_name(port.name, position, inputs)
        names = (guess, *(f"{guess}_{number}" for number in range(2, 1000)))
        name = guess if position == 0 else next(name for name in names if name not in taken)
        taken.add(name)
        return name

    return [replace(p, shape=tuple(called(p, i, axis) for i, axis in enumerate(p.shape))) for p in ports]


def _merged(port: Port, request: Port | None) -> Port:
    """Take names, fixed lengths and ranges from the recipe where they do not contradict the graph."""
    if request is None:
        return port
    if request.dtype != port.dtype or len(request.shape) != len(port.shape):
        got = f"{request.dtype} with {len(request.shape)} axes"
        message = f"input `{port.name}` is {port.dtype} with {len(port.shape)} axes, got {got} from the recipe"
        raise StepError(
            message, hint=f"write `{port.name}: {write_flow(_said(port))}` under `inputs`", edits=_as_found(port)
        )
    for index, (axis, wanted) in enumerate(zip(port.shape, request.shape, strict=True)):
        if isinstance(axis, int) and wanted != axis:
            where = f"axis {index} of `{port.name}`"
            message = f"{where} is fixed at {axis} in the graph, got `{wanted}` from the recipe"
            fitting = [a if isinstance(a, int) else b for a, b in zip(port.shape, request.shape, strict=True)]
            raise StepError(
                message,
                hint=f"write {axis} there, or {_UNFIX}",
                edits=[Edit(("inputs", request.name, "shape"), fitting)],
            )
    return request


def _said(port: Port) -> JSON:
    return {"dtype": port.dtype, "shape": list(port.shape)}


def _as_found(port: Port) -> list[Edit]:
    return [Edit(("inputs", port.name, key), value) for key, value in _said(port).items()]


@dataclass(frozen=True, slots=True)
class Graph:
    """An opened graph. `feeds` are its own names of its inputs, `outputs` the names its outputs shall have.

    `labels` are the classes of outputs that the file gives as maps, by position; here they are tensors.
    """

    path: Path
    model: Any
    feeds: tuple[str, ...]
    interface: Interface
    outputs: tuple[str, ...]
    labels: Mapping[int, zipmap.Labels]
    sessions: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # by level, opened on first use

    def settled(self, options: ExportOptions) -> Graph:
        """Return the graph with the lengths that it was seen to take, of dimensions that the recipe leaves open."""
        stated = {name for name, limit in options.limits.items() if limit != Lengths()}
        free = [name for name in self.interface.dimensions if name not in {*stated, *options.dynamic, *options.ties}]
        free = [name for name in free if name not in {other for _, other in options.ties.values()}]
        if not free:
            return self
        names = dict(zip((port.name for port in self.interface.inputs), self.feeds, strict=True))
        return replace(self, interface=_settled.settle(self.path, names, self.interface, free, self.work()))

    def to_onnx(self, opset: int) -> Any:
        """Return the graph with the requested names, converted down when its opset is above `opset`."""
        model = _converted(self.model, opset)
        rename.name_ports(model, [port.name for port in self.interface.inputs], self.outputs)
        fixed = _name_axes(model.graph, self.interface.inputs)
        if fixed and not _loads(model):
            for name, axis in fixed:  # what is inferred from a length may contradict a branch that is never taken
                _write_axis(axis, name)
        return model

    def run(self, feeds: Feeds) -> Arrays:
        return self._answers(feeds, _USUAL)

    def unoptimised(self, feeds: Feeds) -> Arrays | None:
        """Compute the outputs node by node as the graph says; None where the runtime needs its own rewriting to."""
        if _PLAIN not in self.sessions:
            try:
                self.sessions[_PLAIN] = self._open(_PLAIN)
            except Exception:  # each release has its own reasons
                self.sessions[_PLAIN] = None
        return None if self.sessions[_PLAIN] is None else self._answers(feeds, _PLAIN)

    def rounding(self, feeds: Feeds, output: int) -> float | None:
        """Return how far optimisation alone, which changes nothing but the order of roundings, moves an output."""
        plain = self.unoptimised(feeds)
        if plain is None or plain[output].dtype.kind != "f":
            return None
        numpy, usual = importlib.import_module("numpy"), self.run(feeds)[output]
        if usual.shape != plain[output].shape or not (numpy.isfinite(usual) & numpy.isfinite(plain[output])).all():
            return None
        return float(abs(usual.astype("float64") - plain[output]).max(initial=0.0))

    def _answers(self, feeds: Feeds, level: str) -> Arrays:
        if level not in self.sessions:
            self.sessions[level] = self._open(level)
        given = (feeds[port.name] for port in self.interface.inputs)
        answers = self.sessions[level].run(None, dict(zip(self.feeds, given, strict=True)))
        return [zipmap.stack_scores(a, self.labels[i]) if i in self.labels else a for i, a in enumerate(answers)]

    def _open(self, level: str) -> Any:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        return described.open_file(self.path, options)

    def classes(self) -> Mapping[str, Sequence[int | str]]:
        """Return of every output that the file gives as a map from class to score the classes of its columns."""
        return {self.outputs[position]: labels for position, labels in sorted(self.labels.items())}

    def work(self) -> Callable[[Mapping[str, int]], float | None]:
        """Return what counts the operations of one run."""
        light = cost.without_weights(self.model)
        names = [value.name for value in light.graph.input[: len(self.feeds)]]

        def counted(lengths: Mapping[str, int]) -> float | None:
            axes = {axis for port in self.interface.inputs for axis in port.shape if isinstance(axis, str)}
            if axes - set(lengths):
                return None  # a look that ended sooner names axes otherwise than the one that is measured
            shapes = [tuple(lengths[a] if isinstance(a, str) else a for a in p.shape) for p in self.interface.inputs]
            found = cost.count(light, dict(zip(names, shapes, strict=True)))
            return None if found is None else found + _LEAST * sum(map(math.prod, shapes))

        return counted

    def extra_files(self) -> Mapping[str, Path]:
        """Return the tokenizer beside the graph: a bundle that is the source of another one has it there."""
        folder = self.path.parent / "tokenizer"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {f"tokenizer/{path.name}": path for path in found if path.suffix in (".json", ".txt")}


def _converted(model: Any, opset: int) -> Any:
    """Return the graph at `opset`, or as it is when it is older. Never a graph that computes something else.

    ONNX's converter knows nodes, initialisers and subgraphs. It drops functions and sparse weights without a word,
    so a graph that has some is refused; one that it changes wrongly is found by the measurement.
    """
    found = canonicalise.opset_of(model)
    if found <= opset:
        return model
    _refuse_newcomers(model, found, opset)
    if model.functions or any(scope.sparse_initializer for scope in canonicalise.list_graphs(model)):
        what = "functions" if model.functions else "sparse weights"
        raise StepError(f"the graph is at opset {found} and has {what}, which no converter keeps", hint=_LOWER)
    converter = importlib.import_module("onnx.version_converter")
    try:
        converted = converter.convert_version(model, opset)
    except Exception as error:  # the converter is C++ behind a plain RuntimeError
        first = error_causes.find_cause_line(str(error))
        stuck = re.search(r"(?:No Adapter .* for|Op) (\w+)", first)
        if stuck:
            raise TooNewError(stuck[1], found, opset) from error
        message = f"the graph is at opset {found} and cannot be converted to {opset}: {first}"
        raise StepError(message, hint=_LOWER) from error
    _refuse_newcomers(converted, found, opset)
    return converted


def _refuse_newcomers(model: Any, found: int, opset: int) -> None:
    """Raise TooNewError for an operator that did not exist at `opset`, in whatever subgraph."""
    definitions = importlib.import_module("onnx.defs")
    first: dict[str, int] = {}
    for schema in definitions.get_all_schemas_with_history():
        if schema.domain == "":
            first[schema.name] = min(schema.since_version, first.get(schema.name, found))
    for node in (node for scope in canonicalise.list_graphs(model) for node in scope.node):
        if node.domain in ("", "ai.onnx") and first.get(node.op_type, 0) > opset:
            raise TooNewError(node.op_type, first[node.op_type], opset)


def _name_axes(graph: Any, inputs: Sequence[Port]) -> list[tuple[str, Any]]:
    """Write the interface's names and lengths on the graph's inputs, and the same names on its outputs.

    A name that stood for several axes which have other names now means nothing in outputs. Return the axes that
    were free and got a length, each with a name.
    """
    by_name = {value.name: value for value in graph.input}
    names: dict[str, set[int | str]] = {}
    fixed = []
    for port in inputs:
        for position, wanted in enumerate(port.shape):
            axis = by_name[port.name].type.tensor_type.shape.dim[position]
            if axis.dim_param:
                names.setdefault(axis.dim_param, set()).add(wanted)
            if isinstance(wanted, int) and axis.dim_value != wanted:
                fixed.append((f"{port.name}_{position}", axis))
            _write_axis(axis, wanted)
    for value in (*graph.output, *graph.value_info):
        for position, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.dim_param in names:
                found = names[axis.dim_param]
                own = f"{value.name}_{position}"
                _write_axis(axis, next(iter(found)) if len(found) == 1 else own)
                fixed += [(own, axis)] if axis.dim_value else []
    return fixed


def _loads(model: Any) -> bool:
    """Say whether ONNX Runtime opens a graph as users do; of one that is too large for a message nothing is known."""
    if model.ByteSize() > _LARGEST_MESSAGE:
        return True
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # each runtime has its own tree of exceptions
        return False
    return True


def _write_axis(axis: Any, value: int | str) -> None:
    if isinstance(value, int):
        axis.dim_value = value
    else:
        axis.dim_param = value
