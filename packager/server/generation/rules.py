# SPDX-License-Identifier: Apache-2.0
"""Apply the rules of an answer to the scores of its next token, in the order in which transformers does.

A token that must not come has the score minus infinity. `sequence` are the tokens so far, those that begin the answer
included; `begun` is how many of them begin it, and `most` how many there may be in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.server.generation.decoding import Rules
from packager.server.generation.sampling import penalise

Scores = NDArray[Any]


def allowed(
    scores: Scores,
    rules: Rules,
    ends: Sequence[int],
    sequence: Sequence[int],
    begun: int,
    most: int,
    penalty: float = 1.0,
    last: Callable[[Scores], Scores] | None = None,
) -> Scores:
    """Return the scores of the tokens that may come next. `penalty` is that of repetition, `last` a further rule."""
    found = scores.copy()
    if penalty != 1.0:
        found = penalise(found, penalty, sequence)
    outside = [*_repeated(rules.no_repeat, sequence), *_banned(rules, ends, sequence)]
    if len(sequence) < rules.min_length:
        outside += ends
    found[np.array(outside, np.int64)] = -np.inf
    if rules.forced_bos is not None and len(sequence) == 1:
        found = _only(found, rules.forced_bos)
    if rules.forced_eos is not None and len(sequence) == most - 1:
        found = _only(found, rules.forced_eos)
    outside = list(rules.suppress)
    late = begun == 1 and rules.forced_bos is not None
    if len(sequence) == begun + late:
        outside += rules.begin_suppress
    found[np.array(outside, np.int64)] = -np.inf
    if last is not None:
        found = last(found)
    return log_softmax(found) if rules.renormalise else found


def log_softmax(scores: Scores) -> Scores:
    """Return log-probabilities in the type of the scores."""
    shifted = scores - scores.max()
    found: Scores = shifted - np.log(np.exp(shifted).sum(dtype=scores.dtype))
    return found


def _only(scores: Scores, token: int) -> Scores:
    found = np.full_like(scores, -np.inf)
    found[token] = 0
    return found


def _repeated(size: int, sequence: Sequence[int]) -> list[int]:
    """Return the tokens that would repeat a sequence of `size` tokens."""
    if not 0 < size <= len(sequence) + 1:
        return []
    last = tuple(sequence[len(sequence) + 1 - size :])
    starts = range(len(sequence) - size + 1)
    return [sequence[at + size - 1] for at in starts if tuple(sequence[at : at + size - 1]) == last]


def _banned(rules: Rules, ends: Sequence[int], sequence: Sequence[int]) -> list[int]:
    """Return the tokens that would complete a banned sequence; one that ends the answer is never banned by itself."""
    found = []
    for *before, token in rules.banned:
        if not before and token in ends:
            continue
        if len(before) <= len(sequence) and list(sequence[len(sequence) - len(before) :]) == before:
            found.append(token)
    return found
