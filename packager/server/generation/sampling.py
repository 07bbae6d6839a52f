# SPDX-License-Identifier: Apache-2.0
"""Choose the next token from logits: the most likely one, or one drawn by temperature, top-k and top-p with a seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the most likely; `top_k` 0 and `top_p` 1 leave nothing out.

    The filters are applied in transformers' order: repetition penalty, temperature, top-k, top-p. A seed repeats on
    one version of numpy and of the runtime, and nowhere else.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def generator(self) -> np.random.Generator:
        """Return the source of chance of one answer."""
        return np.random.default_rng(self.seed)


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the natural logarithms of the probabilities, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def choose(logits: Logits, sampling: Sampling, chance: np.random.Generator, seen: Collection[int]) -> int:
    """Return the next token; `seen` are the tokens of the prompt and the answer so far."""
    if sampling.repetition_penalty != 1.0 and seen:
        logits = penalise(logits, sampling.repetition_penalty, seen)
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        scores[scores < np.partition(scores, -sampling.top_k)[-sampling.top_k]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if sampling.top_p < 1.0:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return int(chance.choice(len(probabilities), p=probabilities))


def penalise(logits: Any, penalty: float, seen: Collection[int]) -> Any:
    """Return the logits with those of tokens that were there made smaller (Keskar et al. 2019, CTRL)."""
    found = logits.copy()
    places = np.fromiter(set(seen), dtype=np.int64)
    scores = found[places]
    found[places] = np.where(scores < 0, scores * penalty, scores / penalty)
    return found


def _nucleus(probabilities: Any, share: float) -> Any:
    """Keep the most likely tokens that together have a share (Holtzman et al. 2020), one at least."""
    order = np.argsort(-probabilities, kind="stable")
    sums = np.cumsum(probabilities[order])
    kept = order[: int(np.searchsorted(sums, share)) + 1]
    found = np.zeros_like(probabilities)
    found[kept] = probabilities[kept]
    return found / found.sum()
