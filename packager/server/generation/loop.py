# SPDX-License-Identifier: Apache-2.0
"""Generate the answer to one prompt, token by token: the reference loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from packager.server.generation.decoder import CHUNK, Steps, Weights
from packager.server.generation.guidance import Guide
from packager.server.generation.sampling import Logits, Sampling, choose, log_probabilities
from packager.server.generation.tokenizer import Stream, Tokenizer

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and how to go on. `stop` are texts that end the answer and are no part of it.

    `top` is how many of the most likely tokens are reported with every token. `grammar` is what the answer keeps to,
    empty for none. `adapter` changes the model for this answer, None for the model as it is.
    """

    ids: tuple[int, ...]
    most: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    top: int = 0
    grammar: str = ""
    adapter: Weights | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer: `text` is what is certain to belong to the answer by now, and may be empty.

    `top` lists tokens and their log-probabilities, the most likely first: those of the model, before any grammar,
    temperature or penalty. The last step has a `finish`.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    text: str
    finish: Finish | None = None


def never() -> bool:
    """Go on: the default of `cancelled`."""
    return False


def prefill(decoder: Steps, ids: Sequence[int], cache: Any, cancelled: Callable[[], bool] = never) -> Logits | None:
    """Run a prompt in chunks; return the logits behind its last token, or None where it was cancelled."""
    logits = None
    for start in range(0, len(ids), CHUNK):
        if cancelled():
            return None
        logits = decoder.step(np.array([ids[start : start + CHUNK]], np.int64), cache)[0, -1]
    return logits


def generate(
    decoder: Steps,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    job: Job,
    cancelled: Callable[[], bool] = never,
    guide: Guide | None = None,
) -> Iterator[Step]:
    """Yield the tokens of the answer. `ends` are the tokens that end it; `cancelled` is called before every step.

    With a guide the answer keeps to its grammar, and ends where nothing can follow.

    An answer without any token, of a job that was cancelled during its prompt, has no step.
    """
    cache = decoder.empty() if job.adapter is None else decoder.empty(1, job.adapter)
    try:
        yield from _steps(decoder, cache, _Text(Stream(tokenizer), job.stop), ends, job, cancelled, guide)
    finally:
        decoder.leave(cache)


def _steps(
    decoder: Steps,
    cache: Any,
    text: _Text,
    ends: Sequence[int],
    job: Job,
    cancelled: Callable[[], bool],
    guide: Guide | None,
) -> Iterator[Step]:
    chance, seen = job.sampling.generator(), set(job.ids)
    logits = prefill(decoder, job.ids, cache, cancelled)
    for number in range(1, job.most + 1):
        if logits is None:
            return
        token = choose(logits if guide is None else guide.allowed(logits), job.sampling, chance, seen)
        seen.add(token)
        odds = log_probabilities(logits)
        found = text.end() if token in ends else text.add(token)
        over: Finish | None = "stop" if token in ends or text.stopped else "length" if number == job.most else None
        if guide is not None and token not in ends:
            guide.accept(token)
            over = "stop" if guide.over else over
        if over is not None and token not in ends and not text.stopped:
            found += text.end()
            over = "stop" if text.stopped else over
        if over is None and cancelled():
            over = "cancelled"
        yield Step(token, float(odds[token]), _top(odds, job.top), found, over)
        if over is not None:
            return
        logits = decoder.step(np.array([[token]], np.int64), cache)[0, -1]


def _top(odds: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    places = np.argpartition(-odds, min(count, len(odds) - 1))[:count]
    return tuple((int(place), float(odds[place])) for place in sorted(places, key=lambda place: -odds[place]))


class _Text:
    """Holds text back for as long as it may be the beginning of a text that stops."""

    def __init__(self, stream: Stream, stop: Sequence[str]) -> None:
        self._stream, self._stop = stream, [text for text in stop if text]
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Return what is certain after one more token."""
        return self._released(self._stream.add(token))

    def end(self) -> str:
        """Return all that is left."""
        found = self._released(self._stream.finish())
        found, self._held = found if self.stopped else found + self._held, ""
        return found

    def _released(self, more: str) -> str:
        self._held += more
        places = [(self._held.find(text), text) for text in self._stop if text in self._held]
        if places:
            self.stopped = True
            found, self._held = self._held[: min(place for place, _ in places)], ""
            return found
        kept = max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - kept
        found, self._held = self._held[:cut], self._held[cut:]
        return found


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
