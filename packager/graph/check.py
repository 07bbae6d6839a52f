# SPDX-License-Identifier: Apache-2.0
"""Check an ONNX graph before it is opened: `onnx.checker` passes files that contradict themselves.

Read from the wire format, so that nothing is parsed, allocated or executed first; pure but for `check`, which looks at
files. Refused are operators outside the declared domains, tensors whose sizes contradict their data, external data
that is not a regular file of the tree, constants that need absurd memory, and graphs that are too large, too deep,
recursive, or name two things alike. Sizes that only follow from computation are not seen here: the memory limit of
the worker is what stops those.
"""

from __future__ import annotations

import math
import struct
from collections import ChainMap, Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from packager.edits import APPEND, KNOWN_DOMAINS, Edit
from packager.errors import StepError
from packager.formats import onnx_files
from packager.formats.onnx_files import Message, Reader, Span
from packager.graph.tensors import AGAIN, MOST_ELEMENTS, SMALL, Numbers, SizeOf, Tensors, refuse_graph, size_below

STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MOST_NODES = 250_000  # functions written out; the largest known language models have a tenth of that
DEEPEST = 16  # `If` inside `If`; protobuf itself ends at 33

Name: TypeAlias = tuple[str, str, str]  # of a function: domain, name, overload
Scope: TypeAlias = "ChainMap[str, Numbers]"  # the small constants that a node can see


def check(path: Path, domains: Collection[str] = ()) -> None:
    """Check the graph at `path`; its external data must be regular files below its directory. Raises StepError."""
    try:
        with onnx_files.map_file(path) as view:
            check_bytes(view, lambda name: size_below(path.parent, name), domains)
    except ValueError as error:
        raise _unreadable(error) from error


def check_bytes(view: memoryview, size_of: SizeOf, domains: Collection[str] = ()) -> None:
    """Check the bytes of a graph; `size_of` gives the size of an external data file, None for one that is not there.

    `domains` are the operator domains allowed besides ONNX's own. Raises StepError naming the first thing wrong.
    """
    reader = Reader(view)
    try:
        _Walk(reader, Tensors(reader, size_of), STANDARD | set(domains)).model()
    except (IndexError, ValueError, OverflowError, struct.error) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> StepError:
    return StepError(f"the file is not an ONNX graph, or is truncated: {error}", hint=AGAIN)


@dataclass(slots=True)
class _Body:
    """What a graph or function holds, its subgraphs included: how many nodes, and which functions it calls."""

    nodes: int = 0
    calls: Counter[Name] = field(default_factory=Counter)


@dataclass(slots=True)
class _Walk:
    """One pass over one file. Field numbers are those of onnx.proto3."""

    reader: Reader
    tensors: Tensors
    domains: Collection[str]
    functions: dict[Name, _Body] = field(default_factory=dict)

    def model(self) -> None:
        top = self.reader.read((0, len(self.reader.view)), single=(onnx_files.GRAPH,))
        graphs = self.reader.spans(top, onnx_files.GRAPH)
        if not graphs:
            raise ValueError("it holds no graph")
        self._opsets(top, 8)
        bodies = [(self._name(message), message) for message in map(self.reader.read, self.reader.spans(top, 25))]
        self.functions = {name: _Body() for name, _ in bodies}
        if len(self.functions) < len(bodies):
            refuse_graph("two functions have one name")
        for name, message in bodies:
            self._function(name, message)
        for training in map(self.reader.read, self.reader.spans(top, 20)):
            graphs += [span for number in (1, 2) for span in self.reader.spans(training, number)]
        main = _Body()
        for span in graphs:
            self._graph(span, main, ChainMap(), DEEPEST)
        _check_size(main, self.functions)
        self.tensors.check_regions()

    def _opsets(self, message: Message, number: int) -> None:
        found: dict[str, int] = {}
        for entry in map(self.reader.read, self.reader.spans(message, number)):
            domain, version = self.reader.text(entry, 1), self.reader.integer(entry, 2)
            domain = "" if domain == "ai.onnx" else domain
            if found.setdefault(domain, version) != version:
                named = domain or "ai.onnx"
                refuse_graph(
                    f"the operator domain `{named:.80}` is imported as version {found[domain]} and as {version}"
                )

    def _name(self, function: Message) -> Name:
        domain, name, overload = (self.reader.text(function, number) for number in (10, 1, 13))
        if domain in STANDARD:
            refuse_graph(f"a function redefines the standard operator `{name:.80}`")
        return domain, name, overload

    def _function(self, name: Name, message: Message) -> None:
        self._opsets(message, 9)
        scope: Scope = ChainMap()
        for span in self.reader.spans(message, 11):
            self._attribute(self.reader.read(span), self.functions[name], scope, DEEPEST)
        inputs = self.reader.texts(message, 4)
        self._nodes(self.reader.spans(message, 7), self.functions[name], scope, DEEPEST, inputs)

    def _graph(self, span: Span, body: _Body, outer: Scope, depth: int) -> None:
        if depth == 0:
            refuse_graph(f"graphs are nested deeper than {DEEPEST}")
        message, scope = self.reader.read(span), outer.new_child()
        constants = [self.tensors.check(self.reader.read(item), scope) for item in self.reader.spans(message, 5)]
        constants += [self.tensors.sparse(self.reader.read(item)) for item in self.reader.spans(message, 15)]
        inputs = [self._input(self.reader.read(item)) for item in self.reader.spans(message, 11)]
        _unique("constants are named", constants)
        _unique("inputs are named", inputs)
        self._nodes(self.reader.spans(message, 1), body, scope, depth, [*inputs, *constants])

    def _input(self, message: Message) -> str:
        """Check the fixed lengths of an input and return its name."""
        inside = self.reader.spans(message, 2)
        for number in (1, 2, 1):  # TypeProto.tensor_type, .shape, .dim
            inside = [child for span in inside for child in self.reader.spans(self.reader.read(span), number)]
        name = self.reader.text(message, 1)
        if math.prod(max(1, self.reader.integer(self.reader.read(span), 1)) for span in inside) > MOST_ELEMENTS:
            refuse_graph(f"input `{name:.80}` has more than {MOST_ELEMENTS} elements")
        return name

    def _nodes(self, spans: Sequence[Span], body: _Body, scope: Scope, depth: int, taken: Sequence[str]) -> None:
        body.nodes += len(spans)
        if body.nodes > MOST_NODES:
            _too_many()
        made = set(taken)
        for span in spans:
            message = self.reader.read(span, single=(4, 7, 8))
            for output in filter(None, self.reader.texts(message, 2)):
                if output in made:
                    refuse_graph(f"two values are named `{output:.80}`")
                made.add(output)
            self._node(message, body, scope, depth)

    def _node(self, message: Message, body: _Body, scope: Scope, depth: int) -> None:
        kind, domain, overload = (self.reader.text(message, number) for number in (4, 7, 8))
        if (domain, kind, overload) in self.functions:
            body.calls[domain, kind, overload] += 1
        elif domain.startswith("ai.onnx.preview") and domain not in self.domains:
            refuse_graph(
                f"operator `{kind:.80}` is of the domain `{domain:.80}`, which runtimes do not offer",
                "export the model for inference; ONNX's preview operators are for training and experiments",
            )
        elif domain not in self.domains:
            refuse_graph(
                f"operator `{kind:.80}` is of the domain `{domain:.80}`, which is not ONNX's own",
                f"if every promised runtime knows it, write `custom-domains: [{domain:.80}]` in the recipe",
                [Edit(("custom-domains", APPEND), domain, consents=domain not in KNOWN_DOMAINS)],
            )
        found = [self.reader.read(span) for span in self.reader.spans(message, 5)]
        names = [self.reader.text(attribute, 1) for attribute in found]
        _unique(f"attributes of a `{kind:.80}` are named", names)
        values = [self._attribute(attribute, body, scope, depth) for attribute in found]
        if domain in STANDARD:
            self._sizes(kind, message, dict(zip(names, values, strict=True)), scope)

    def _sizes(self, kind: str, message: Message, attributes: Mapping[str, Numbers], scope: Scope) -> None:
        """Follow constants, and refuse a node that makes too much out of them."""
        inputs, outputs = self.reader.texts(message, 1), self.reader.texts(message, 2)
        if kind == "Constant" and outputs:
            scope[outputs[0]] = next((attributes[name] for name in _CONSTANT if name in attributes), ())
        elif kind in ("Identity", "Cast") and inputs and outputs:
            scope[outputs[0]] = scope.get(inputs[0], ())
        if _made(kind, [scope.get(name, ()) for name in inputs], attributes) > MOST_ELEMENTS:
            refuse_graph(f"a `{kind}` makes more than {MOST_ELEMENTS} elements out of constants")

    def _attribute(self, message: Message, body: _Body, scope: Scope, depth: int) -> Numbers:
        """Check what an attribute holds and return its numbers, if they are few."""
        for number in (6, 11):
            for span in self.reader.spans(message, number):
                self._graph(span, body, scope, depth - 1)
        for number in (22, 23):
            for span in self.reader.spans(message, number):
                self.tensors.sparse(self.reader.read(span))
        held: dict[str, Numbers] = {}
        for number in (5, 10):
            for span in self.reader.spans(message, number):
                self.tensors.check(self.reader.read(span), held)
        if 5 in message:
            return next(iter(held.values()), ())
        if 2 in message:
            return struct.unpack("<f", self.reader.packed(message, 2)[-4:])
        if 3 in message:
            return (self.reader.integer(message, 3),)
        listed = sum(high - low for _, low, high in message.get(8, ())) + len(message.get(8, ()))
        return tuple(self.reader.integers(message, 8, 11 * SMALL)) if listed <= 11 * SMALL else ()


def _unique(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        refuse_graph(f"two {what} `{Counter(names).most_common(1)[0][0]:.80}`")


def _too_many() -> None:
    refuse_graph(
        f"it has more than {MOST_NODES} nodes, functions written out", "split the model, or simplify the graph"
    )


def _check_size(main: _Body, functions: Mapping[Name, _Body]) -> None:
    """Count the nodes with every call written out; refuse recursion. Walks by hand: calls may be nested deeply."""
    sizes: dict[Name, int] = {}
    path: list[Name | None] = [None]
    waiting = [iter(main.calls)]
    while path:
        callee = next(waiting[-1], None)
        if callee is None:
            name, _ = path.pop(), waiting.pop()
            body = main if name is None else functions[name]
            total = body.nodes + sum(count * sizes[called] for called, count in body.calls.items())
            if total > MOST_NODES:
                _too_many()
            if name is not None:
                sizes[name] = total
        elif callee in path:
            refuse_graph(f"function `{callee[1]:.80}` calls itself")
        elif callee not in sizes:
            path.append(callee)
            waiting.append(iter(functions[callee].calls))


_CONSTANT = ("value", "value_int", "value_ints", "value_float")


def _made(kind: str, inputs: Sequence[Numbers], attributes: Mapping[str, Numbers]) -> float:
    """Return how many elements a node makes for sure, judged by its constant inputs alone; 0 if they do not say."""

    def given(position: int) -> Numbers:
        return inputs[position] if position < len(inputs) else ()

    match kind:
        case "ConstantOfShape":
            return _product(given(0))
        case "Expand" | "Tile":
            return _product(given(1))
        case "Range":
            return _steps([*given(0)[:1], *given(1)[:1], *given(2)[:1]])
        case "RandomNormal" | "RandomUniform":
            return _product(attributes.get("shape", ()))
        case "Pad":
            return max(given(1) or attributes.get("pads", ()), default=0)
        case "OneHot":
            return max(given(1), default=0)
        case "Resize":
            return max(_product(given(2)), _product(given(3)))
        case "Upsample":
            return _product(given(1))
        case _:
            return 0


def _product(extents: Numbers) -> float:
    return math.prod(max(extent, 1) for extent in extents) if extents else 0


def _steps(bounds: Sequence[float]) -> float:
    if len(bounds) < 3:
        return 0
    start, limit, step = bounds
    return max(0.0, (limit - start) / step) if step and math.isfinite(limit - start) else math.inf
