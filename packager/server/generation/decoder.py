# SPDX-License-Identifier: Apache-2.0
"""Run a decoder graph step by step: its key-value cache goes out as `present.*` and comes back as `past_key_values.*`.

input_ids, position_ids   int64 [batch, sequence]      attention_mask   int64 [batch, total], total = past + sequence
past_key_values.N.key     [batch, heads, past, size]   past is 0 in the first step
lora.PATH.a, lora.PATH.b  [in, rank], [rank, out]      of a graph that takes adapters, for each layer that they change
logits                    [batch, sequence, vocabulary]
present.N.key             [batch, heads, total, size]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packager.server.generation.settings import LORA

IDS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
PAST, PRESENT = "past_key_values.", "present."
CHUNK = 128
"""Tokens of a prompt in one step: what bounds the memory of logits, and the wait for one that is cancelled."""


class Port(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...


class Session(Protocol):
    """What a runtime's `session.py` opens."""

    @property
    def inputs(self) -> Sequence[Port]: ...
    @property
    def outputs(self) -> Sequence[Port]: ...
    def run(self, feeds: dict[str, Any]) -> Sequence[Any]: ...


Weights = Mapping[str, NDArray[np.float32]]
"""The matrices of an adapter by the name of their input."""


@dataclass(slots=True)
class Cache:
    """The keys and values of the tokens so far, by input name, and the mask of those tokens [batch, past].

    `adapter` is what changes the model for them, None for the model as it is.
    """

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    mask: NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 0), np.int64))
    adapter: Weights | None = None

    @property
    def length(self) -> int:
        return int(self.mask.shape[1])


class Steps(Protocol):
    """What the loop runs: a decoder graph, or a runtime that holds the cache. `batches`: rows may go together."""

    @property
    def batches(self) -> bool: ...

    def empty(self, batch: int = 1, adapter: Weights | None = None) -> Any:
        """Return the cache of no tokens, which are run with an adapter, if any."""

    def step(self, ids: NDArray[np.int64], cache: Any, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens to a cache; return their logits, at least those behind the last one."""

    def leave(self, cache: Any) -> None:
        """Forget a cache that no step follows for."""


class OwnLoop(Protocol):
    """How programs of others use an artefact: a library's own loop, greedily, and its own tokenizer."""

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return `count` tokens behind a prompt, the most likely of each step; an end token does not end them."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text, on request with the tokens that the model expects around it."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""


def open_own_loop(session: Session) -> OwnLoop | None:
    """Return the loop of a session's library, None where it has none that others would use."""
    own = getattr(session, "own_loop", None)
    found: OwnLoop | None = None if own is None else own()
    return found


def open_decoder(session: Session) -> Steps:
    """Return what runs a session's decoder. Raises ValueError where its graph is none."""
    own = getattr(session, "decoder", None)
    return Decoder(session) if own is None else own()


class Decoder:
    """A decoder graph in a session. Several threads may use it, each with caches of its own."""

    batches = True

    def __init__(self, session: Session) -> None:
        """Take a session. Raises ValueError where its graph is none of a decoder."""
        self._session = session
        inputs, outputs = [port.name for port in session.inputs], [port.name for port in session.outputs]
        self._past = [port for port in session.inputs if port.name.startswith(PAST)]
        self._positions = POSITIONS in inputs
        expected = {PRESENT + port.name.removeprefix(PAST) for port in self._past}
        lora = [port for port in session.inputs if port.name.startswith(LORA)]
        self._none = {port.name: np.zeros([_known(size) for size in port.shape], np.float32) for port in lora}
        if not self._past or not {IDS, MASK} <= set(inputs) or set(outputs) != {LOGITS, *expected}:
            raise ValueError("the graph has not the inputs and outputs of a decoder with a key-value cache")
        self._outputs = outputs

    def empty(self, batch: int = 1, adapter: Weights | None = None) -> Cache:
        """Return the cache of no tokens. Raises ValueError for an adapter of another graph."""
        if adapter is not None and set(adapter) != set(self._none):
            raise ValueError("the adapter is for another graph")
        values = {port.name: np.zeros(_shape(port, batch), port.dtype) for port in self._past}
        return Cache(values, np.zeros((batch, 0), np.int64), adapter)

    def step(self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens [batch, sequence] to a cache; return their logits [batch, sequence, vocabulary].

        `mask` has a 0 where a token is padding.
        """
        total = np.concatenate([cache.mask, np.ones_like(ids) if mask is None else mask], axis=1)
        feeds: dict[str, Any] = {IDS: ids, MASK: total, **cache.values, **(cache.adapter or self._none)}
        if self._positions:
            feeds[POSITIONS] = np.maximum(total.cumsum(axis=1) - 1, 0)[:, cache.length :]
        found = dict(zip(self._outputs, self._session.run(feeds), strict=True))
        logits: NDArray[np.float32] = found.pop(LOGITS)
        cache.values = {PAST + name.removeprefix(PRESENT): value for name, value in found.items()}
        cache.mask = total
        return logits.astype(np.float32, copy=False)

    def leave(self, cache: Cache) -> None:
        """Free the memory of a cache."""
        cache.values = {}


def _shape(port: Port, batch: int) -> tuple[int, ...]:
    """Return the shape of a port with no tokens: its free axes are the batch and, of the others, the past."""
    sizes = [batch if axis == 0 else size for axis, size in enumerate(port.shape)]
    return tuple(size if isinstance(size, int) else 0 for size in sizes)


def _known(size: int | str | None) -> int:
    """Return a size of the matrices that change nothing: the rank is 1, since not every release multiplies by none."""
    return size if isinstance(size, int) else 1
