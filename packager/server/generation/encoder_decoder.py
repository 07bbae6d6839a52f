# SPDX-License-Identifier: Apache-2.0
"""Run an encoder-decoder as two graphs: the encoder once, and the decoder step by step with two caches.

encoder     input_ids, attention_mask   int64 [batch, source]    or  input_features float32 [batch, mels, frames]
            present.N.encoder.{key,value}             [batch, heads, source, size]
decoder     input_ids                   int64 [batch, sequence]
            encoder_attention_mask      int64 [batch, source]    of texts alone
            past_key_values.N.decoder.{key,value}     [batch, heads, past, size], past is 0 in the first step
            past_key_values.N.encoder.{key,value}     what the encoder gave, the same in every step
            logits                      [batch, sequence, vocabulary]
            present.N.decoder.{key,value}             [batch, heads, total, size]

Rows of a batch may have sources of other lengths, and answers of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.server.generation.decoder import IDS, LOGITS, MASK, PAST, PRESENT, Session

SOURCE_MASK, FEATURES = "encoder_attention_mask", "input_features"
_CROSS, _OWN = ".encoder.", ".decoder."
_ENCODER = "encoder"


def encoder_path(decoder: PurePosixPath) -> PurePosixPath:
    """Return where the encoder of a decoder's file lies: `model/model.onnx` has `model/encoder/model.onnx`."""
    return decoder.parent / _ENCODER / decoder.name


def open_pair(open_one: Callable[[Path], Any], decoder: Path) -> EncoderDecoder:
    """Open both graphs. Raises ValueError where they are none of an encoder-decoder, and what `open_one` raises."""
    return EncoderDecoder(open_one(Path(encoder_path(PurePosixPath(decoder)))), open_one(decoder))


@dataclass(slots=True)
class Cache:
    """The keys and values of the source and of the tokens so far, by input name, and the mask of the source."""

    source: dict[str, NDArray[Any]]
    own: dict[str, NDArray[Any]]
    mask: NDArray[np.int64] | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.source.values())))

    def choose(self, rows: Sequence[int]) -> Cache:
        """Return a cache of these rows, which may repeat."""
        places = np.array(rows, np.int64)
        return Cache(
            {name: value[places] for name, value in self.source.items()},
            {name: value[places] for name, value in self.own.items()},
            None if self.mask is None else self.mask[places],
        )

    def reorder(self, rows: Sequence[int]) -> None:
        """Put the tokens of other rows of one source into the rows: what beams do."""
        if list(rows) != list(range(self.rows)):
            places = np.array(rows, np.int64)
            self.own = {name: value[places] for name, value in self.own.items()}


class EncoderDecoder:
    """Two graphs in sessions. Several threads may use them, each with caches of its own."""

    def __init__(self, encoder: Session, decoder: Session) -> None:
        self._encoder, self.decoder = encoder, decoder
        named = [port.name for port in decoder.inputs]
        self._own = [port for port in decoder.inputs if port.name.startswith(PAST) and _OWN in port.name]
        cross = {name for name in named if name.startswith(PAST) and _CROSS in name}
        self._given = [PAST + port.name.removeprefix(PRESENT) for port in encoder.outputs]
        self._outputs = [port.name for port in decoder.outputs]
        self._takes = {port.name for port in encoder.inputs}
        expected = {LOGITS, *(PRESENT + port.name.removeprefix(PAST) for port in self._own)}
        if not self._own or set(self._given) != cross or set(self._outputs) != expected or IDS not in named:
            raise ValueError("the graphs have not the inputs and outputs of an encoder and its decoder")
        if self._takes not in ({IDS, MASK}, {FEATURES}):
            raise ValueError("the encoder reads neither texts nor the features of audio")
        self._masked = SOURCE_MASK in named

    def read_texts(self, ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None) -> Cache:
        """Read token ids [batch, source]; `mask` has a 0 where a token is padding."""
        mask = np.ones_like(ids) if mask is None else mask
        return self._begun({IDS: ids, MASK: mask}, mask if self._masked else None)

    def read_audio(self, features: NDArray[np.float32]) -> Cache:
        """Read features [batch, mels, frames]."""
        return self._begun({FEATURES: features}, None)

    def _begun(self, feeds: dict[str, Any], mask: NDArray[np.int64] | None) -> Cache:
        if set(feeds) != self._takes:
            raise ValueError(f"the encoder reads {' and '.join(sorted(self._takes))}")
        source = dict(zip(self._given, self._encoder.run(feeds), strict=True))
        batch = len(next(iter(feeds.values())))
        own = {port.name: np.zeros(_empty(port.shape, batch), port.dtype) for port in self._own}
        return Cache(source, own, mask)

    def step(self, ids: NDArray[np.int64], cache: Cache) -> NDArray[np.float32]:
        """Append tokens [batch, sequence] to a cache; return their logits [batch, sequence, vocabulary]."""
        masked = {} if cache.mask is None else {SOURCE_MASK: cache.mask}
        found = dict(
            zip(self._outputs, self.decoder.run({IDS: ids, **masked, **cache.own, **cache.source}), strict=True)
        )
        logits: NDArray[np.float32] = found.pop(LOGITS)
        cache.own = {PAST + name.removeprefix(PRESENT): value for name, value in found.items()}
        return logits.astype(np.float32, copy=False)


def _empty(shape: Sequence[int | str | None], batch: int) -> tuple[int, ...]:
    """Return the shape of a cache without tokens: heads and sizes are fixed in the graph."""
    return tuple(batch if axis == 0 else size if isinstance(size, int) else 0 for axis, size in enumerate(shape))
