# SPDX-License-Identifier: Apache-2.0
"""Put the weights of linear layers into blocks of four bits: `MatMul` and `Gemm` become `MatMulNBits`.

What stays in float32: tables that are looked up (embeddings), layers whose product is an answer (its error is theirs),
layers of few weights or whose inputs the blocks do not divide, and layers whose weights would lose too much.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from packager.runtimes.onnxruntime import _blocks

from packager.canonical import JSON
from packager.errors import StepError
from packager.graph import canonicalise, nbits

_FEWEST = 512  # weights of a layer that are worth another operator
_LARGEST = 1e15  # weights whose squares add up in float32
_LISTED = 64  # names of weights in the facts, for each reason
_LONGEST = 128  # characters of such a name
_SHAPES = frozenset((
    "Cast", "Flatten", "Gather", "Identity", "LogSoftmax", "Reshape", "Sigmoid", "Slice", "Softmax", "Squeeze", "Tanh",
    "Transpose", "Unsqueeze",
))  # fmt: skip
_WITH_CONSTANTS = frozenset(("Add", "Div", "Mul", "Sub"))
"""Behind the last layer, an output shows its product through these, and through those above."""


class Options(NamedTuple):
    """The member `int4` of a recipe, as `packager.recipe.int4` explains it."""

    block: int
    symmetric: bool
    activations: str
    last: bool
    loss: float


class _Layer(NamedTuple):
    """A product with constant weights: the node, the tensor, whether it has N rows of K columns, and the bias."""

    node: Any
    weights: str
    turned: bool
    bias: str


def convert(model: Any, options: Options) -> JSON:
    """Rewrite `model`, whose types are inferred, in place; return what the contract says of it.

    `bits`, `block`, `symmetric`, `activations`; `layers` and `weights` that are in blocks; `loss`, the largest of a
    layer: the root of its squared errors over its squared weights; `float32`: names of weights that stay, by reason
    (`table`, `last`, `small`, `blocks`, `loss`). Raises StepError where no layer can be rounded.
    """
    layers = list(_find_layers(model.graph))
    stayed: dict[str, set[str]] = {}
    if tables := _find_tables(model.graph):
        stayed["table"] = tables
    last = set() if options.last else _find_last(model.graph, layers)
    store = _Store(model.graph, options)
    replaced = {}
    for layer in layers:
        reason = "last" if layer.node.output[0] in last else store.refuse(layer)
        if reason:
            stayed.setdefault(reason, set()).add(layer.weights)
        else:
            replaced[layer.node.output[0]] = store.replace(layer)
    if not replaced:
        why = ", ".join(f"{len(names)} {reason}" for reason, names in sorted(stayed.items()))
        raise StepError(
            f"no layer can be put into blocks of four bits{f' (stay in float32: {why})' if why else ''}",
            hint="remove this precision from the recipe, or change `int4`: a smaller `block`, `last: true`",
        )
    _rewrite(model, replaced, store.added)
    return {
        "bits": nbits.BITS,
        **{name: getattr(options, name) for name in ("block", "symmetric", "activations")},
        "layers": len(replaced),
        "weights": store.weights,
        "loss": float(f"{store.loss:.3g}"),
        "float32": {
            reason: [name[:_LONGEST] for name in sorted(names)[:_LISTED]] for reason, names in sorted(stayed.items())
        },
    }


def _find_layers(graph: Any) -> Iterator[_Layer]:
    """Yield the products with constant float32 weights of two axes, and inputs of at least two."""
    constants = _constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    for node in graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
            continue
        plain = all(given[name].f == 1 for name in ("alpha", "beta") if name in given)
        if not plain or ("transA" in given and given["transA"].i) or ranks.get(node.input[0], 0) < 2:
            continue
        name, turned = _follow(node.input[1], makers)
        if name in constants and node.input[0] not in constants:
            turned ^= "transB" in given and bool(given["transB"].i)
            yield _Layer(node, name, turned, node.input[2] if len(node.input) > 2 else "")


def _constants(graph: Any) -> set[str]:
    """Return the names of weights of two axes in float32."""
    kind = canonicalise.import_onnx().TensorProto.FLOAT
    return {tensor.name for tensor in graph.initializer if tensor.data_type == kind and len(tensor.dims) == 2}


def _follow(name: str, makers: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the value that a name is the transpose of, and True; itself and False where it is none."""
    node = makers.get(name)
    if node is None or node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return name, False
    order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [1, 0])
    return (node.input[0], True) if order == [1, 0] else (name, False)


def _find_tables(graph: Any) -> set[str]:
    """Return the weights whose rows are looked up."""
    constants = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 and _size(tensor) >= _FEWEST}
    return {node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in constants}


def _size(tensor: Any) -> int:
    count = 1
    for extent in tensor.dims:
        count *= extent
    return count


def _find_last(graph: Any, layers: list[_Layer]) -> set[str]:
    """Return the outputs of those layers whose product an output of the graph shows, but for a bias and its shape."""
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    products = {layer.node.output[0] for layer in layers}
    waiting, found, seen = [value.name for value in graph.output], set(), set()
    while waiting:
        name = waiting.pop()
        if name in products:
            found.add(name)
        node = None if name in products or name in seen else makers.get(name)
        seen.add(name)
        if node is None:
            continue
        if node.op_type in _SHAPES or (node.op_type in _WITH_CONSTANTS and weights & set(node.input)):
            waiting += [source for source in node.input if source not in weights]
    return found


class _Store:
    """The blocks of weights that are made, each once; `loss` is the largest, `weights` how many there are."""

    def __init__(self, graph: Any, options: Options) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(self._tensors)
        self._options = options
        self._made: dict[tuple[str, bool], tuple[str, ...]] = {}
        self.added: list[Any] = []
        self.loss, self.weights = 0.0, 0

    def refuse(self, layer: _Layer) -> str:
        """Return the reason why a layer stays as it is, empty where it does not."""
        tensor = self._tensors[layer.weights]
        if _size(tensor) < _FEWEST:
            return "small"
        if tensor.dims[1 if layer.turned else 0] % self._options.block:
            return "blocks"
        return "" if self._pack(layer) else "loss"

    def replace(self, layer: _Layer) -> list[Any]:
        """Return the nodes that compute what a layer does, with weights from blocks."""
        helper = canonicalise.import_onnx().helper
        dims = self._tensors[layer.weights].dims
        rows, columns = (dims[1], dims[0]) if layer.turned else dims
        level = nbits.ACTIVATIONS[self._options.activations]
        made = helper.make_node(
            nbits.OPERATOR,
            [layer.node.input[0], *self._pack(layer)],
            [self._name(f"{layer.node.output[0]}_product") if layer.bias else layer.node.output[0]],
            name=layer.node.name,
            domain=nbits.DOMAIN,
            K=rows,
            N=columns,
            bits=nbits.BITS,
            block_size=self._options.block,
            **({"accuracy_level": level} if level else {}),
        )
        if not layer.bias:
            return [made]
        return [made, helper.make_node("Add", [made.output[0], layer.bias], [layer.node.output[0]])]

    def _pack(self, layer: _Layer) -> tuple[str, ...]:
        """Return the names of codes, scales and zero points of a layer; none where they would lose too much."""
        key = (layer.weights, layer.turned)
        if key not in self._made:
            self._made[key] = self._quantise(layer)
        return self._made[key]

    def _quantise(self, layer: _Layer) -> tuple[str, ...]:
        onnx, numpy = canonicalise.import_onnx(), importlib.import_module("numpy")
        weights = onnx.numpy_helper.to_array(self._tensors[layer.weights])
        if not (numpy.abs(weights) < _LARGEST).all():
            return ()
        block, symmetric = self._options.block, self._options.symmetric
        found = _blocks.quantise(weights.T if layer.turned else weights, block, symmetric=symmetric)
        if found.loss > self._options.loss:
            return ()
        self.loss, self.weights = max(self.loss, found.loss), self.weights + weights.size
        arrays = {"codes": nbits.pack_codes(found.codes, block), "scales": found.scales}
        arrays |= {} if symmetric else {"zeros": nbits.pack_zeros(found.zeros)}
        names = {role: self._name(f"{layer.weights}_{role}") for role in arrays}
        self.added += [onnx.numpy_helper.from_array(array, names[role]) for role, array in arrays.items()]
        return tuple(names.values())

    def _name(self, wanted: str) -> str:
        """Return a name that no value has yet."""
        found, number = wanted, 0
        while found in self._taken:
            number += 1
            found = f"{wanted}_{number}"
        self._taken.add(found)
        return found


def _rewrite(model: Any, replaced: Mapping[str, list[Any]], added: list[Any]) -> None:
    """Put nodes in the place of others, by their first output, and drop the weights that nothing reads any more."""
    graph = model.graph
    nodes = [new for node in graph.node for new in replaced.get(node.output[0] if node.output else "", [node])]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(added)
    used = _used(graph)
    for index in reversed(range(len(graph.node))):
        if graph.node[index].op_type == "Transpose" and not used & set(graph.node[index].output):
            del graph.node[index]
    used = _used(graph)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
    if all(entry.domain != nbits.DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=nbits.DOMAIN, version=1)


def _used(graph: Any) -> set[str]:
    """Return every value that a node, a graph inside one, or an output reads."""
    nodes = (message for message in canonicalise.walk_messages(graph) if message.DESCRIPTOR.name == "NodeProto")
    return {name for node in nodes for name in node.input} | {value.name for value in graph.output}
