# SPDX-License-Identifier: Apache-2.0
"""Turn a causal language model of transformers into one graph for prompts and single tokens.

The key-value cache is plain inputs and outputs, so that any runtime can hold it:

    in   input_ids [batch, sequence]  attention_mask [batch, total]  position_ids [batch, sequence]
         past_key_values.N.{key,value} [batch, heads, past, size]
         lora.PATH.a [in, rank]  lora.PATH.b [rank, out]     of each layer that an adapter may change, if any
    out  logits [batch, sequence, vocabulary]  present.N.{key,value} [batch, heads, total, size]

The names are those of onnxruntime-genai. Layers with a sliding window keep the whole cache and mask it, which is right
for every length. To what a layer `PATH` gives, `x a b` is added: nothing where `b` is zero. Scaling is part of `b`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters import Port
from packager.exporters._torch import program
from packager.exporters._transformers import opening
from packager.server.generation.decoder import IDS, LOGITS, MASK, PAST, POSITIONS, PRESENT
from packager.server.generation.settings import LORA

BATCH, SEQUENCE, TOTAL, BEFORE, RANK = "batch", "sequence", "total", "past", "rank"
_LOG = "export it without `task` as a graph of one pass, or serve it with a runtime that knows its architecture"
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True, slots=True)
class Decoder:
    """An opened model: its layers' heads and head sizes (of keys and of values), the vocabulary, the context."""

    model: Any
    layers: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    vocabulary: int
    context: int
    positions: bool
    adapted: tuple[tuple[str, int, int], ...] = ()
    """The layers that an adapter may change: path, and the lengths of what goes in and comes out."""

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def token_bytes(self) -> int:
        """The bytes that one token takes in the cache, in float32."""
        return sum(4 * heads * size for layer in self.layers for heads, size in layer)

    @property
    def window(self) -> int:
        """The length of a sliding window in it, 0 without one."""
        found = getattr(self.model.config.get_text_config(), "sliding_window", None)
        return found if isinstance(found, int) else 0

    def inputs(self) -> list[Port]:
        """Return the inputs of the graph."""
        last = float(self.vocabulary - 1)
        positions = [Port(POSITIONS, "int64", (BATCH, SEQUENCE), (0, self.context - 1))] if self.positions else []
        return [
            Port(IDS, "int64", (BATCH, SEQUENCE), (0, last)),
            Port(MASK, "int64", (BATCH, TOTAL), (0, 1)),
            *positions,
            *self._cache(PAST, BEFORE),
            *self._adapter(),
        ]

    def outputs(self) -> list[Port]:
        """Return the outputs of the graph."""
        return [Port(LOGITS, "float32", (BATCH, SEQUENCE, self.vocabulary)), *self._cache(PRESENT, TOTAL)]

    def _cache(self, prefix: str, length: str) -> list[Port]:
        return [
            Port(f"{prefix}{index}.{name}", "float32", (BATCH, heads, length, size))
            for index, layer in enumerate(self.layers)
            for name, (heads, size) in zip(("key", "value"), layer, strict=True)
        ]

    def _adapter(self) -> list[Port]:
        return [
            Port(f"{LORA}{path}.{name}", "float32", shape)
            for path, taken, given in self.adapted
            for name, shape in (("a", (taken, RANK)), ("b", (RANK, given)))
        ]

    def with_adapters(self, names: Sequence[str]) -> Decoder:
        """Return the model with inputs for adapters of the layers whose path ends in one of `names`.

        Raises StepError where a name is that of no layer, or of one that is no plain product with a matrix.
        """
        lib, found = program.import_torch(), dict(self.model.named_modules())
        layers = []
        for name in names:
            paths = [path for path in found if path == name or path.endswith(f".{name}")]
            linear = [path for path in paths if type(found[path]) is lib.nn.Linear]
            if not linear or len(linear) < len(paths):
                kind = type(found[paths[0]]).__name__ if paths else None
                known = sorted({p.rpartition(".")[2] for p, m in found.items() if type(m) is lib.nn.Linear})
                raise StepError(
                    f"`adapters` names `{name}`, and the model has "
                    + (f"a `{kind}` of that name, not a `Linear`" if kind else "no layer of that name"),
                    hint=f"its layers that an adapter can change: {', '.join(known) or 'none'}",
                )
            layers += [(path, found[path].in_features, found[path].out_features) for path in linear]
        return replace(self, adapted=tuple(sorted(layers)))

    def to_onnx(self, opset: int) -> Any:
        """Return the graph. Raises StepError for an architecture that cannot be traced or converted."""
        inputs, outputs = self.inputs(), self.outputs()
        args, shapes = self._example()
        lib = program.import_torch()
        with program.explain_export_error("captured"), program.silence_warnings(), lib.no_grad():
            traced = lib.export.export(_module(self), args, dynamic_shapes=shapes, strict=False)
        model = program.convert(traced, opset, [port.name for port in inputs], [port.name for port in outputs])
        for values, ports in ((model.graph.input, inputs), (model.graph.output, outputs)):
            name_axes(values, ports)
        return model

    def _example(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what to trace with. The mask has a 0: without one transformers leaves it out of the graph."""
        lib = program.import_torch()
        batch, length, past = 2, 3, 5
        mask = lib.ones(batch, past + length, dtype=lib.int64)
        mask[0, :2] = 0
        ids = lib.full((batch, length), 1, dtype=lib.int64)
        positions = lib.arange(past, past + length).repeat(batch, 1) if self.positions else None
        cache = [tuple(lib.zeros(batch, heads, past, size) for heads, size in layer) for layer in self.layers]
        free = lib.export.Dim.DYNAMIC
        rows, pair = {0: free, 1: free}, ({0: free, 2: free},) * 2
        matrices = [(lib.zeros(taken, past), lib.zeros(past, given)) for _, taken, given in self.adapted]
        ranks = [({1: free}, {0: free})] * len(matrices)
        args = (ids, mask, positions, cache, matrices)
        return args, (rows, rows, rows if self.positions else None, [pair] * len(cache), ranks)


def _module(decoder: Decoder) -> Any:
    lib = program.import_torch()

    class Module(lib.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = decoder.model

        def forward(self, ids: Any, mask: Any, positions: Any, past: Any, matrices: Any) -> tuple[Any, ...]:
            with _adapted(self.model, [path for path, _, _ in decoder.adapted], matrices):
                logits, layers = _call(self.model, ids, mask, positions, past)
            return (logits, *(value for layer in layers for value in layer))

    return Module().eval()


@contextlib.contextmanager
def _adapted(model: Any, paths: Sequence[str], matrices: Sequence[Any]) -> Iterator[None]:
    """Add the product with its two matrices to what each layer gives, while the block runs."""
    hooks = [_add_product(model.get_submodule(path), *pair) for path, pair in zip(paths, matrices, strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_product(layer: Any, a: Any, b: Any) -> Any:
    def add(_: Any, taken: Any, given: Any) -> Any:
        return given + (taken[0] @ a) @ b

    return layer.register_forward_hook(add)


def _call(model: Any, ids: Any, mask: Any, positions: Any, past: Sequence[Any]) -> tuple[Any, list[tuple[Any, Any]]]:
    """Run a model on a cache; return its logits, and the keys and values of every layer."""
    cache = importlib.import_module("transformers").DynamicCache()
    for index, (key, value) in enumerate(past):
        cache.update(key, value, index)
    named = {} if positions is None else {"position_ids": positions}
    found = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **named)
    return found.logits, [(layer.keys, layer.values) for layer in found.past_key_values.layers]


def name_axes(values: Any, ports: Sequence[Port]) -> None:
    """Give the axes of a graph's values the sizes and names of ports. Raises StepError for another number of axes."""
    for value, port in zip(values, ports, strict=True):
        axes = value.type.tensor_type.shape.dim
        if len(axes) != len(port.shape):
            raise StepError(f"`{value.name}` has {len(axes)} axes in the graph, expected {len(port.shape)}")
        for axis, size in zip(axes, port.shape, strict=True):
            axis.Clear()
            if isinstance(size, int):
                axis.dim_value = size
            else:
                axis.dim_param = size


def open_decoder(folder: Path) -> Decoder:
    """Open the directory of a causal language model. Raises StepError for any other model, and says why."""
    return describe_decoder(opening.open_model(folder))


def describe_decoder(model: Any) -> Decoder:
    """Return an opened model with what its cache holds. Raises StepError for one that keeps something else."""
    lib, names = program.import_torch(), inspect.signature(model.forward).parameters
    if "past_key_values" not in names or "attention_mask" not in names:
        raise StepError(
            f"`{type(model).__name__}` takes no key-value cache, so it generates no text by itself",
            hint="leave `task` out of the recipe: the model becomes a graph of one pass",
        )
    model.config.use_cache = True
    ids = lib.ones(1, 3, dtype=lib.int64)
    try:
        with lib.inference_mode(), program.silence_warnings():
            logits, layers = _call(model, ids, lib.ones_like(ids), None, ())
        shapes = tuple(tuple((int(v.shape[1]), int(v.shape[3])) for v in layer) for layer in layers)
    except Exception as error:  # an architecture fails in its own ways
        raise StepError(
            f"`{type(model).__name__}` keeps something else than keys and values of every layer: {first_line(error)}",
            hint=_LOG,
        ) from error
    return Decoder(model, shapes, int(logits.shape[-1]), _context(model), "position_ids" in names)  # type: ignore[arg-type]


def _context(model: Any) -> int:
    config = model.config.get_text_config()
    found = [getattr(config, name, None) for name in _LENGTHS]
    known = [length for length in found if isinstance(length, int) and length > 1]
    if not known:
        raise StepError(
            f"`config.json` of `{type(model).__name__}` states no longest context",
            hint=f"write it as `{_LENGTHS[0]}` in `config.json`",
        )
    return known[0]
