# SPDX-License-Identifier: Apache-2.0
"""Beam search over an encoder-decoder, as transformers' release 5 searches (`_beam_search`): the same sums in float32.

Of every step the best `max(2, 1 + ends) * beams` continuations are looked at; those that end are kept among the
finished ones by their sum of log-probabilities over the length to the power of `length_penalty`, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.server.generation.decoding import Decoding
from packager.server.generation.encoder_decoder import Cache, EncoderDecoder
from packager.server.generation.rules import Scores, allowed, log_softmax

_NEVER = np.float32(-1e9)


@dataclass(frozen=True, slots=True)
class Found:
    """An answer: its tokens without those that begin it, and its score (log-probabilities over length ** penalty)."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True, slots=True)
class _Beam:
    tokens: tuple[int, ...]
    score: np.float32
    ended: bool = False


def search(
    model: EncoderDecoder,
    cache: Cache,
    decoding: Decoding,
    start: Sequence[int],
    ends: Sequence[int],
    most: int,
    cancelled: Callable[[], bool],
    *,
    beams: int,
    penalty: float = 1.0,
    last: Callable[[Sequence[int], Scores], Scores] | None = None,
) -> Found | None:
    """Return the best answer to the one row of `cache`, None where it was cancelled.

    `most` counts the tokens with those of `start`; `penalty` is that of repetition, and `last` a rule after all others
    of the tokens so far.
    """
    cache = cache.choose([0] * beams)
    first = tuple(start)
    running = [_Beam(first, np.float32(0 if row == 0 else _NEVER)) for row in range(beams)]
    done = [_Beam(first, _NEVER) for _ in range(beams)]
    looked = max(2, 1 + len(ends)) * beams
    ids, improves = np.array([first] * beams, np.int64), True
    for length in range(len(first), most):
        if cancelled():
            return None
        logits = model.step(ids, cache)[:, -1]
        scores = np.stack(
            [
                allowed(log_softmax(row), decoding.rules, ends, beam.tokens, len(first), most, penalty, rule)
                + beam.score
                for row, beam, rule in zip(
                    logits, running, [last and partial(last, b.tokens) for b in running], strict=True
                )
            ]
        )
        continued = _best(scores, running, looked, ends, length + 1 == most)
        shown = [_Beam(b.tokens, b.score + _NEVER if b.ended else b.score, b.ended) for b in (b for _, b in continued)]
        order = _top([beam.score for beam in shown], beams)
        made = np.float32((length + 1 - len(first)) ** decoding.length_penalty)
        full = all(beam.ended for beam in done) and decoding.early_stopping is True
        finished = [
            _Beam(
                beam.tokens,
                _finished(beam.score / made, full, improves, ended=beam.ended and place < beams),
                beam.ended and place < beams,
            )
            for place, (_, beam) in enumerate(continued)
        ]
        merged = [*done, *finished]
        done = [merged[place] for place in _top([beam.score for beam in merged], beams)]
        running = [shown[place] for place in order]
        cache.reorder([continued[place][0] for place in order])
        ids = np.array([[beam.tokens[-1]] for beam in running], np.int64)
        improves = improves and _may_improve(
            running[0].score, done, decoding, length + 1 - len(first), most - len(first)
        )
        stopped = all(beam.ended for beam in done) and decoding.early_stopping is True
        if not improves or stopped or all(beam.ended for _, beam in continued):
            break
    return Found(done[0].tokens[len(first) :], float(done[0].score))


def _best(
    scores: NDArray[Any], running: Sequence[_Beam], looked: int, ends: Sequence[int], last: bool
) -> list[tuple[int, _Beam]]:
    """Return the best continuations, each with the row it goes on from."""
    flat = scores.reshape(-1)
    found = []
    for place in _top(flat, looked):
        row, token = divmod(place, scores.shape[1])
        found.append((row, _Beam((*running[row].tokens, token), np.float32(flat[place]), token in ends or last)))
    return found


def _top(scores: Any, count: int) -> list[int]:
    """Return the places of the largest scores, the largest first; of equal ones the first."""
    values = np.asarray(scores, np.float32)
    if len(values) > 4 * count:
        edge = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero(values >= edge)
    else:
        places = np.arange(len(values))
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")][:count]]


def _finished(score: Any, full: bool, improves: bool, *, ended: bool) -> np.float32:
    """Return the score of a continuation among the finished ones: far below all where it is none of them."""
    return np.float32(
        score + _NEVER * np.float32(full) + _NEVER * np.float32(not improves) + _NEVER * np.float32(not ended)
    )


def _may_improve(best: np.float32, done: Sequence[_Beam], decoding: Decoding, length: int, most: int) -> bool:
    """Return whether a running beam may still get ahead of a finished one, by transformers' estimate."""
    reached = most if decoding.early_stopping == "never" and decoding.length_penalty > 0 else length
    possible = best / np.float32(reached**decoding.length_penalty)
    least = min(beam.score for beam in done)
    return any(possible > (least if beam.ended else _NEVER) for beam in done)
