# SPDX-License-Identifier: Apache-2.0
"""Turn an encoder-decoder of transformers into two graphs: T5, BART, Marian, Pegasus and their kin, and Whisper.

The encoder gives the keys and values that every decoder layer makes of the source, so they are computed once. The
decoder takes those and its own cache, which may be empty, so one graph does the first step and all later ones. Names
and shapes are those of `packager.server.generation.encoder_decoder`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters import Port
from packager.exporters._generation.decoder import BATCH, BEFORE, SEQUENCE, TOTAL, name_axes
from packager.exporters._torch import program
from packager.exporters._transformers import opening
from packager.server.generation.decoder import IDS, LOGITS, MASK, PAST, PRESENT
from packager.server.generation.encoder_decoder import FEATURES, SOURCE_MASK

SOURCE = "source"
_UNBOUNDED = 512  # tokens of a model with relative positions that states no longest text: what T5 was trained on
_LENGTHS = ("max_target_positions", "max_position_embeddings", "n_positions")


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """An opened model. `own` and `cross` are heads and head sizes of keys and values in every decoder layer.

    `frames` is the length of the features of audio, 0 for a model that reads texts; `context` bounds the tokens of an
    answer, `source` those of a text, or what the encoder makes of the audio.
    """

    model: Any
    own: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    cross: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    vocabulary: int
    context: int
    source: int
    frames: int
    mels: int

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    def inputs(self) -> list[Port]:
        """Return the inputs of the decoder."""
        masked = [] if self.frames else [Port(SOURCE_MASK, "int64", (BATCH, SOURCE), (0, 1))]
        ids = Port(IDS, "int64", (BATCH, SEQUENCE), (0, float(self.vocabulary - 1)))
        return [ids, *masked, *self._cache(PAST, "decoder", BEFORE), *self._cache(PAST, "encoder", self._source)]

    def outputs(self) -> list[Port]:
        """Return the outputs of the decoder."""
        logits = Port(LOGITS, "float32", (BATCH, SEQUENCE, self.vocabulary))
        return [logits, *self._cache(PRESENT, "decoder", TOTAL)]

    def encoder_inputs(self) -> list[Port]:
        """Return the inputs of the encoder."""
        if self.frames:
            return [Port(FEATURES, "float32", (BATCH, self.mels, self.frames))]
        return [
            Port(IDS, "int64", (BATCH, SOURCE), (0, float(self.vocabulary - 1))),
            Port(MASK, "int64", (BATCH, SOURCE), (0, 1)),
        ]

    def encoder_outputs(self) -> list[Port]:
        """Return the outputs of the encoder."""
        return self._cache(PRESENT, "encoder", self._source)

    @property
    def _source(self) -> int | str:
        return self.source if self.frames else SOURCE

    def _cache(self, prefix: str, side: str, length: int | str) -> list[Port]:
        return [
            Port(f"{prefix}{index}.{side}.{name}", "float32", (BATCH, heads, length, size))
            for index, layer in enumerate(self.own if side == "decoder" else self.cross)
            for name, (heads, size) in zip(("key", "value"), layer, strict=True)
        ]

    def graphs(self, opset: int) -> Mapping[str, Any]:
        """Return the graphs, by `decoder` and `encoder`. Raises StepError for what cannot be traced or converted."""
        lib, free = program.import_torch(), program.import_torch().export.Dim.DYNAMIC
        batch, source, past = 2, self.source if self.frames else 7, 4
        rows = {0: free, 1: free}
        pair, mask = ({0: free, 2: free},) * 2, None
        reads: tuple[Any, ...] = (lib.zeros(batch, self.mels, self.frames), None)
        shapes: tuple[Any, ...] = ({0: free}, None)
        if not self.frames:
            mask = lib.ones(batch, source, dtype=lib.int64)
            mask[0, 5:] = 0  # without a 0 transformers leaves the mask out of the graph
            reads, shapes = (lib.full((batch, source), 1), mask), (rows, rows)
        of_mask = None if self.frames else rows
        of_cross = [({0: free},) * 2 if self.frames else pair] * len(self.cross)
        own = [tuple(lib.zeros(batch, heads, past, size) for heads, size in layer) for layer in self.own]
        cross = [tuple(lib.zeros(batch, heads, source, size) for heads, size in layer) for layer in self.cross]
        step = (lib.full((batch, 3), 1), mask, own, cross)
        encoder, decoder = _modules(self.model)
        return {
            "decoder": _graph(
                decoder, step, (rows, of_mask, [pair] * len(own), of_cross), opset, self.inputs(), self.outputs()
            ),
            "encoder": _graph(encoder, reads, shapes, opset, self.encoder_inputs(), self.encoder_outputs()),
        }


def _graph(
    module: Any,
    args: tuple[Any, ...],
    shapes: tuple[Any, ...],
    opset: int,
    taken: Sequence[Port],
    given: Sequence[Port],
) -> Any:
    lib = program.import_torch()
    with program.explain_export_error("captured"), program.silence_warnings(), lib.no_grad():
        traced = lib.export.export(module, args, dynamic_shapes=shapes, strict=False)
    model = program.convert(traced, opset, [port.name for port in taken], [port.name for port in given])
    for values, ports in ((model.graph.input, taken), (model.graph.output, given)):
        name_axes(values, ports)
    return model


def _modules(model: Any) -> tuple[Any, Any]:
    lib = program.import_torch()

    class Encoder(lib.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, source: Any, mask: Any) -> tuple[Any, ...]:
            hidden = encoded(self.model, source, mask)
            first = lib.zeros(source.shape[0], 1, dtype=lib.int64)
            _, _, cross = decoded(self.model, hidden, mask, first, (), ())
            return tuple(value for layer in cross for value in layer)

    class Decoder(lib.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, own: Any, cross: Any) -> tuple[Any, ...]:
            key = cross[0][0]
            hidden = lib.zeros(key.shape[0], key.shape[2], self.model.config.d_model)  # its shape alone is read
            logits, layers, _ = decoded(self.model, hidden, mask, ids, own, cross)
            return (logits, *(value for layer in layers for value in layer))

    return Encoder().eval(), Decoder().eval()


def encoded(model: Any, source: Any, mask: Any) -> Any:
    """Return what the encoder makes of a source [batch, source, width]."""
    masked = {} if mask is None else {"attention_mask": mask}
    return model.get_encoder()(source, **masked).last_hidden_state


def decoded(
    model: Any, hidden: Any, mask: Any, ids: Any, own: Sequence[Any], cross: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """Run the decoder on caches; return its logits, and the keys and values of the answer and of the source."""
    library = importlib.import_module("transformers")
    outputs = importlib.import_module("transformers.modeling_outputs")
    caches = []
    for values in (own, cross):
        caches.append(library.DynamicCache())
        for index, (key, value) in enumerate(values):
            caches[-1].update(key, value, index)
    found = model(
        encoder_outputs=outputs.BaseModelOutput(last_hidden_state=hidden),
        decoder_input_ids=ids,
        past_key_values=library.EncoderDecoderCache(*caches),
        use_cache=True,
        **({} if mask is None else {"attention_mask": mask}),
    )
    kept = found.past_key_values
    sides = (kept.self_attention_cache, kept.cross_attention_cache)
    return found.logits, *([(layer.keys, layer.values) for layer in side.layers] for side in sides)


def open_model(folder: Path, *, speech: bool) -> EncoderDecoder:
    """Open the directory of an encoder-decoder. Raises StepError for any other model, and says why."""
    model = opening.open_model(folder, pair=True)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # T5's fused attention cannot be traced with two free lengths
    config, lib = model.config, program.import_torch()
    main = inspect.signature(model.forward).parameters
    if ("input_features" in main) is not speech:
        reads = "audio" if "input_features" in main else "texts"
        raise StepError(f"`{type(model).__name__}` reads {reads}", hint="state the other `task`")
    config.use_cache = True
    try:
        mels, frames = (config.num_mel_bins, 2 * config.max_source_positions) if speech else (0, 0)
        source = lib.zeros(1, mels, frames) if speech else lib.ones(1, 3, dtype=lib.int64)
        with lib.inference_mode(), program.silence_warnings():
            hidden = encoded(model, source, None)
            found = decoded(model, hidden, None, lib.zeros(1, 2, dtype=lib.int64), (), ())
        own, cross = (
            tuple(tuple((int(v.shape[1]), int(v.shape[3])) for v in layer) for layer in side) for side in found[1:]
        )
    except Exception as error:  # an architecture fails in its own ways
        raise StepError(
            f"`{type(model).__name__}` keeps something else than the keys and values of an encoder and of a decoder: "
            f"{first_line(error)}",
            hint="serve it with a runtime that knows its architecture",
        ) from error
    context = _context(model)
    source_length = config.max_source_positions if speech else context
    return EncoderDecoder(model, own, cross, int(found[0].shape[-1]), context, source_length, frames, mels)  # type: ignore[arg-type]


def _context(model: Any) -> int:
    """Return the most tokens of an answer: its positions, or of relative positions what the model was made for."""
    found = [getattr(model.config, name, None) for name in _LENGTHS]
    return next((length for length in found if isinstance(length, int) and length > 1), _UNBOUNDED)
