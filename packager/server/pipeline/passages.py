# SPDX-License-Identifier: Apache-2.0
"""Answers to questions: the likeliest part of a text, from the scores of its tokens as beginning and end.

The arithmetic is that of transformers' question answering (`select_starts_ends`, 4.57 to 5.23): softmax over the tokens
of the text and the one that stands for no answer, the product of two scores, whole words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from packager.server.pipeline.parts import Passages
from packager.server.pipeline.text import Tokens
from packager.server.protocol.tensors import Array

Passage: TypeAlias = dict[str, Any]
_NEVER = -10_000.0


def find_passages(
    about: Passages, windows: Sequence[tuple[Tokens, Array, Array]], text: str, top: int | None = None
) -> list[Passage]:
    """Return parts of a text, the best first; of every window there are tokens and the scores of their two ends."""
    found: dict[tuple[int, int], float] = {}
    nothing = 1_000_000.0
    for tokens, starts, ends in windows:
        kept = np.array([not special for special in tokens.special]) | (tokens.ids == about.null)
        first, last = (_likely(values, kept) for values in (starts, ends))
        nothing = min(nothing, float(first[0] * last[0]))
        for begin, end, score in _best(about, first, last, kept, about.top if top is None else top):
            place = (tokens.offsets[begin][0], tokens.offsets[end][1])
            found[place] = max(score, found.get(place, 0.0))
    answers: list[Passage] = [
        {"score": score, "start": start, "end": end, "text": text[start:end]} for (start, end), score in found.items()
    ]
    if about.impossible:
        answers.append({"score": nothing, "start": 0, "end": 0, "text": ""})
    answers.sort(key=lambda item: -item["score"])
    return answers[: about.top if top is None else top]


def _likely(logits: Array, kept: Array) -> Array:
    values = np.where(kept, np.asarray(logits, np.float32), np.float32(_NEVER))
    values = np.exp(values - values.max())
    return np.asarray(values / values.sum())


def _best(about: Passages, first: Array, last: Array, kept: Array, top: int) -> Iterator[tuple[int, int, float]]:
    """Yield the best pairs of tokens, the end not before the beginning nor `longest` tokens behind it."""
    first[0] = last[0] = 0.0  # the token that stands for no answer
    count = len(first)
    reach = min(about.longest, count)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([last, np.zeros(reach - 1, last.dtype)]), reach)
    scores = (first[:, None] * ends).ravel()
    places = [int(scores.argmax())] if top == 1 else np.argsort(-scores, kind="stable")[:top].tolist()
    for place in places:
        begin, length = divmod(place, reach)
        if scores[place] > 0 and kept[begin] and kept[begin + length]:
            yield begin, begin + length, float(scores[place])
