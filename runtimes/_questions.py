# SPDX-License-Identifier: Apache-2.0
"""Test graphs for one operator: graphs of one node with valid inputs, each in several forms.

ONNX's own backend node tests give valid inputs and attributes. Each is run as it is, under every definition of its
operator that allows it; one that fits is run again with every other combination of element types. Operators without a
test are run with the smallest arrays that ONNX Runtime accepts.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packager.runtimes import _probes, _trials
from packager.runtimes._probes import Probe

from packager.graph import canonicalise, needs

MOST = 6  # questions for one combination of element types, until one is answered
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
)
_OTHERS = (-2.5, 90, 0.4, -30, 0, 5, -0.5, -100, 20, 1.5, -7, 60)  # large ones, both signs, and what exp overflows on
_NO_ZERO = ("Div", "Mod")  # of integers: the process would die of it
_RANKS = (2, 4, 3, 1, 0)


@dataclass(frozen=True, slots=True)
class Question:
    """A graph of one node and inputs for it. `types` are those it uses, in the words of a contract."""

    domain: str
    operator: str
    since: int
    types: str
    test: str
    model: Any
    feeds: Mapping[str, Any]

    def forms(self, *, is_test: bool) -> list[_trials.Trial]:
        """Return the graph with free lengths, every array of data an input; of a test also with fixed lengths and all

        inputs live, and with all inputs but the first constant, as most graphs are.
        """
        names = [value.name for value in self.model.graph.input]
        found = [self._form([name for name in names[1:] if self._counts(name)])]
        if is_test or self.operator in ("QuantizeLinear", "DequantizeLinear"):
            found += [self._form(names[1:]), self.trial()]
        return list(dict.fromkeys(found))

    def with_others(self) -> Question | None:
        """Return the question with other values, None unless every input is an array of floats, all of one shape.

        Tests of element-wise operators may leave out negative or large numbers (that of Celu has no negative one).
        """
        numpy = importlib.import_module("numpy")
        arrays = [numpy.asarray(array) for array in self.feeds.values()]
        if any(array.dtype.kind != "f" or array.shape != arrays[0].shape for array in arrays) or not arrays:
            return None
        feeds = {
            name: numpy.resize(numpy.roll(_OTHERS, 5 * index), array.shape).astype(array.dtype)
            for index, (name, array) in enumerate(zip(self.feeds, arrays, strict=True))
        }
        return replace(self, test=f"{self.test}, other values", feeds=feeds)

    def _counts(self, name: str) -> bool:
        """Return whether an input holds axes, sizes and the like, not data."""
        formals = _schema(self.domain, self.operator, self.since).inputs
        index = list(self.model.graph.node[0].input).index(name)
        formal = formals[min(index, len(formals) - 1)]
        return formal.type_str == "tensor(int64)" or self.operator == "Slice"

    def _form(self, constants: Sequence[str]) -> _trials.Trial:
        numpy_helper = importlib.import_module("onnx.numpy_helper")
        made = type(self.model).FromString(self.model.SerializeToString())
        kept = [value for value in made.graph.input if value.name not in constants]
        del made.graph.input[:]
        made.graph.input.extend(kept)
        for value in kept:
            for number, size in enumerate(value.type.tensor_type.shape.dim):
                size.dim_param = f"{value.name}_{number}"
        made.graph.initializer.extend(numpy_helper.from_array(_plain(self.feeds[name]), name) for name in constants)
        return self._trial(made, [value.name for value in kept])

    def trial(self) -> _trials.Trial:
        """Return it as it stands, with its inputs."""
        return self._trial(self.model, list(self.feeds))

    def _trial(self, model: Any, live: Sequence[str]) -> _trials.Trial:
        feeds = {name: _text(self.feeds[name]) for name in live}
        return _trials.Trial(model.SerializeToString(deterministic=True), _trials.pack_arrays(feeds))


@functools.cache
def list_onnx_tests() -> list[Question]:
    """Return ONNX's own tests of single operators, each under every definition of its operator that allows it."""
    found = []
    for case in _cases():
        node = case.model.graph.node[0]
        for since in sorted({p.since for p in _by_operator().get((node.domain, node.op_type), [])}):
            question = _stamped(case, since)
            found += [question] if question else []
    return found


def group_by_definition(known: Sequence[Question]) -> Mapping[tuple[str, str, int], list[Question]]:
    """Return tests by operator and definition, those with the fewest attributes first."""
    found: dict[tuple[str, str, int], list[Question]] = defaultdict(list)
    for question in known:
        found[question.domain, question.operator, question.since].append(question)
    for questions in found.values():
        questions.sort(key=lambda q: (len(q.model.graph.node[0].attribute), -len(q.model.graph.node[0].input), q.test))
    return found


def list_questions(probe: Probe, known: Sequence[Question]) -> list[Question]:
    """Return questions for one combination of element types, those that use all of its types first."""
    put = (question for template in known if (question := _retyped(probe, template)))
    complete: list[Question] = []
    partly: list[Question] = []
    for question in put:
        (complete if is_complete(question, probe) else partly).append(question)
        if len(complete) == MOST:
            return complete
    return [*complete, *(() if complete else itertools.islice(_plainly(probe), 2 * MOST)), *partly[:1]]


def is_complete(question: Question, probe: Probe) -> bool:
    """Return whether a question uses every element type that a probe names."""
    return covers(question.types, probe.types)


def covers(types: str, wanted: str) -> bool:
    """Return whether a combination of element types has all that another names: optional outputs may add to it."""
    return {*wanted.split(";")} <= {*types.split(";")}


@functools.cache
def _by_operator() -> Mapping[tuple[str, str], list[Probe]]:
    found: dict[tuple[str, str], list[Probe]] = defaultdict(list)
    for probe in _probes.list_probes():
        found[probe.domain, probe.operator].append(probe)
    return found


def _cases() -> list[Any]:
    module = importlib.import_module("onnx.backend.test.case.node")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests divide by zero on purpose
        cases = module.collect_testcases(None)
    return [case for case in cases if _is_single(case)]


def _is_single(case: Any) -> bool:
    scope = case.model.graph
    if len(scope.node) != 1 or not case.data_sets:
        return False
    same = [value.name for value in scope.input] == list(dict.fromkeys(n for n in scope.node[0].input if n))
    return same and all(map(_travels, case.data_sets[0][0]))


def _travels(array: Any) -> bool:
    numpy = importlib.import_module("numpy")
    known = isinstance(array, numpy.ndarray | numpy.generic)
    return known and (array.dtype.kind in "OUS" or array.dtype.name in _DTYPES)


def _stamped(case: Any, since: int) -> Question | None:
    feeds = dict(zip((v.name for v in case.model.graph.input), case.data_sets[0][0], strict=True))
    node, given = _with_attributes(case.model, feeds, since)
    outputs = {value.name: value.type for value in case.model.graph.output}
    kinds = {value.name: value.type for value in case.model.graph.input}
    return _question(node.domain, node.op_type, since, case.name, node, given, kinds | outputs)


def _with_attributes(model: Any, feeds: Mapping[str, Any], since: int) -> tuple[Any, Mapping[str, Any]]:
    """Return the node of a test, and its inputs, in the form of an older definition: axes, sizes and bounds that are

    inputs of the test's definition and attributes of that one become attributes.
    """
    node = type(model.graph.node[0]).FromString(model.graph.node[0].SerializeToString())
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == node.domain)
    known = _schema(node.domain, node.op_type, since).attributes
    numpy, left = importlib.import_module("numpy"), dict(feeds)
    for index, formal in enumerate(_schema(node.domain, node.op_type, opset).inputs[: len(node.input)]):
        name = node.input[index]
        if formal.name in known and name in left:
            many = "INTS" in str(known[formal.name].type) or "FLOATS" in str(known[formal.name].type)
            value = numpy.asarray(left.pop(name))
            value = value.reshape(-1).tolist() if many else value.reshape(-1)[:1].tolist()
            node.input[index] = ""
            if value:
                made = canonicalise.import_onnx().helper.make_attribute(formal.name, value if many else value[0])
                node.attribute.append(made)
    while node.input and not node.input[-1]:
        node.input.pop()
    return node, left


def _retyped(probe: Probe, template: Question) -> Question | None:
    """Return a question about other element types, None where it cannot be put to them."""
    schema = _schema(probe.domain, probe.operator, probe.since)
    bound = dict(part.split("=", 1) for part in probe.types.split(";")) if probe.types else {}
    if any("(" in kind or kind not in _DTYPES for kind in bound.values()):
        return None
    node = type(template.model.graph.node[0]).FromString(template.model.graph.node[0].SerializeToString())
    kinds, feeds = {}, dict(template.feeds)
    for name, formal in _formals(node.input, schema.inputs):
        kind = bound.get(formal.type_str)
        if kind is not None and name:
            feeds[name] = _cast(feeds[name], kind, probe.operator)
    for value in (*template.model.graph.input, *template.model.graph.output):
        kinds[value.name] = value.type
    for name, formal in (*_formals(node.input, schema.inputs), *_formals(node.output, schema.outputs)):
        if name and formal.type_str in bound:
            kinds[name] = _probes.make_type(bound[formal.type_str], None)
    _set_types(node, bound.get(schema.outputs[0].type_str) if schema.outputs else None)
    return _question(probe.domain, probe.operator, probe.since, template.test, node, feeds, kinds)


def _set_types(node: Any, kind: str | None) -> None:
    for attribute in node.attribute:
        if attribute.name in TYPE_ATTRIBUTES and kind:
            attribute.i = _probes.find_type_number(kind)


def _formals(names: Sequence[str], formals: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(name, formals[min(index, len(formals) - 1)]) for index, name in enumerate(names)] if formals else []


def _plainly(probe: Probe) -> Iterator[Question]:
    """Yield the probe itself with small arrays of every rank, for ONNX Runtime to say which it takes."""
    flow = probe.operator in ("If", "Loop", "Scan")
    for optional, rank in [(False, 1)] if flow else [(o, r) for o in (False, True) for r in _RANKS]:
        model = canonicalise.import_onnx().ModelProto.FromString(
            _probes.serialise_graph(probe, optional=optional, rank=rank)
        )
        kinds = {value.name: value.type for value in (*model.graph.input, *model.graph.output)}
        arrays = [_small(kinds[value.name]) for value in model.graph.input]
        if all(array is not None for array in arrays):
            feeds = dict(zip((value.name for value in model.graph.input), arrays, strict=True))
            node = model.graph.node[0]
            question = _question(
                probe.domain, probe.operator, probe.since, f"plain {optional} {rank}", node, feeds, kinds
            )
            if question:
                yield question


def _small(kind: Any) -> Any:
    numpy = importlib.import_module("numpy")
    if not kind.HasField("tensor_type"):
        return None
    name = _name(kind.tensor_type.elem_type)
    if name not in _DTYPES:
        return None
    shape = [size.dim_value or 2 for size in kind.tensor_type.shape.dim]
    if name == "string":
        return numpy.full(shape, "a")
    return (
        (numpy.linspace(0.1, 0.9, max(int(numpy.prod(shape)), 1)) * (1 if "float" in name else 2))
        .reshape(shape)
        .astype(name)
    )


def _name(number: int) -> str:
    name: str = canonicalise.import_onnx().TensorProto.DataType.Name(number).lower()
    return {theirs: ours for ours, theirs in canonicalise.ONNX_NAMES.items()}.get(name, name)


def _question(
    domain: str, operator: str, since: int, test: str, node: Any, feeds: Mapping[str, Any], kinds: Mapping[str, Any]
) -> Question | None:
    """Return a graph of one node under one definition, None where the definition does not allow it."""
    onnx, helper = canonicalise.import_onnx(), canonicalise.import_onnx().helper
    inputs = [_info(name, kinds[name], feeds[name]) for name in dict.fromkeys(n for n in node.input if n)]
    outputs = [helper.make_value_info(name, _open(kinds[name])) for name in node.output if name]
    probe = Probe(domain, operator, since, "")
    imports = [helper.make_opsetid(domain, probe.opset)] + ([helper.make_opsetid("", 15)] if domain else [])
    model = helper.make_model(
        helper.make_graph([node], "probe", inputs, outputs), opset_imports=imports, ir_version=_probes.IR
    )
    try:
        onnx.checker.check_node(node, _context(imports))
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        rows = needs.list_needs(model)["operators"][domain or "ai.onnx"][operator]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError, KeyError):
        return None
    if list(rows) != [str(since)]:
        return None
    return Question(domain, operator, since, rows[str(since)][0], test, model, feeds)


def _context(imports: Sequence[Any]) -> Any:
    context = canonicalise.import_onnx().checker.C.CheckerContext()
    context.ir_version = _probes.IR
    context.opset_imports = {entry.domain: entry.version for entry in imports}
    return context


def _info(name: str, kind: Any, array: Any) -> Any:
    helper = canonicalise.import_onnx().helper
    shape = importlib.import_module("numpy").shape(array)
    return helper.make_tensor_value_info(name, kind.tensor_type.elem_type, shape)


def _open(kind: Any) -> Any:
    """Return a type without its shape: another definition or constant may give another one."""
    made = type(kind).FromString(kind.SerializeToString())
    if made.HasField("tensor_type"):
        made.tensor_type.ClearField("shape")
    return made


def _cast(array: Any, kind: str, operator: str) -> Any:
    """Return an array in another element type, its values small and, for whole numbers, of use."""
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(array)
    if array.dtype.name == kind:
        return array
    if kind == "string" or array.dtype.kind in "OUS":
        return array.astype(str) if kind == "string" else numpy.ones(array.shape, kind)
    if "int" in kind and array.dtype.kind == "f":
        array = numpy.rint(numpy.clip(numpy.nan_to_num(array), -20, 20) * 3)
    if kind.startswith("uint"):
        array = numpy.abs(array)
    if kind != "bool" and array.dtype.kind in "iuf":
        array = numpy.clip(array, -120 if array.dtype.kind != "u" else 0, 120)
    cast = array.astype(kind)
    return numpy.where(cast == 0, numpy.ones((), kind), cast) if operator in _NO_ZERO else cast


def _text(array: Any) -> Any:
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(array)
    return array.astype(str) if array.dtype.kind in "OS" else array


def _plain(array: Any) -> Any:
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(array)
    return array.astype(object) if array.dtype.kind in "US" else array


def _schema(domain: str, operator: str, since: int) -> Any:
    return canonicalise.import_onnx().defs.get_schema(operator, since, domain)
