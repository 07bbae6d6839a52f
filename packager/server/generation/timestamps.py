# SPDX-License-Identifier: Apache-2.0
"""Times in the answers of a speech model: which may come next, and how they lead through audio of any length.

Whisper has a token for every second frame of a pass, behind `<|notimestamps|>`: one for every 20 ms. An answer with
times is made of segments, each between two of them. Audio that is longer than a pass is read pass by pass, and the next
one begins where the last whole segment ends.

Source: Whisper (Radford et al., 2022, section 3.8); rules and cuts in the order of transformers' `generate`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from packager.server.generation.decoding import Audio
from packager.server.generation.rules import Scores

_FRAMES = 2  # of the spectrogram for one position of the encoder, and so for one time
_LATEST = 1.0  # seconds into a pass at which its first segment begins at the latest, as OpenAI's own program has it


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said from `start` to `end`, in seconds; `tokens` without times."""

    start: float
    end: float
    tokens: tuple[int, ...]

    def later(self, seconds: float) -> Segment:
        """Return the segment of a pass that begins at `seconds`."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True, slots=True)
class Timestamps:
    """The tokens of times: `first` is that of 0 s, each next one is `step` seconds later, and `none` means no times."""

    none: int
    step: float

    @property
    def first(self) -> int:
        """Return the token of 0 s."""
        return self.none + 1

    @staticmethod
    def of(about: Audio, vocabulary: int) -> Timestamps | None:
        """Return those of a model, None of one without a token for every time of a pass."""
        none = about.no_timestamps
        if none is None or vocabulary - none - 1 <= about.frames // _FRAMES:
            return None
        return Timestamps(none, _FRAMES * about.hop / about.rate)

    def allowed(self, scores: Scores, answer: Sequence[int], ends: Sequence[int]) -> Scores:
        """Return the scores of tokens that may follow `answer`, which begins behind the start of the sequence.

        Times come in pairs, the end of a segment and the beginning of the next, and never go back; the first token is
        a time; and where all times together are likelier than any other token, a time comes.
        """
        found, first = scores.copy(), self.first
        found[self.none] = -np.inf
        timed = bool(answer) and answer[-1] >= first
        paired = len(answer) < 2 or answer[-2] >= first
        if timed and paired:
            found[first:] = -np.inf
        elif timed:
            found[: min(ends, default=self.none)] = -np.inf
        if times := [token for token in answer if token >= first]:
            found[first : times[-1] + (not timed or paired)] = -np.inf
        if not answer:
            found[:first] = -np.inf
            found[first + round(_LATEST / self.step) + 1 :] = -np.inf
        if self._are_likelier(found):
            found[:first] = -np.inf
        return found

    def _are_likelier(self, scores: Scores) -> bool:
        """Return whether the probabilities of all times add up to more than that of the likeliest other token."""
        times = scores[self.first :]
        most = times.max()
        if not np.isfinite(most):
            return False
        return bool(most + np.log(np.exp(times - most).sum()) > scores[: self.first].max())

    def cut(self, answer: Sequence[int], frames: int) -> tuple[list[Segment], int]:
        """Return the segments of an answer without its end, and how many of the pass's `frames` they account for.

        Times count from the beginning of the pass. What follows the last pair of times is left to the next pass,
        unless the answer ends with a single time: then nothing was said behind it.
        """
        timed = [token >= self.first for token in answer]
        pairs = [at for at in range(1, len(answer)) if timed[at - 1] and timed[at]]
        if not pairs:
            times = [token for token in answer if token > self.first]
            end = self._seconds(times[-1]) if times else frames * self.step / _FRAMES
            return [Segment(0.0, end, self._words(answer))], frames
        whole = timed[-2:] == [False, True]
        bounds = [0, *pairs, *([len(answer)] if whole else [])]
        segments = []
        for begin, end in itertools.pairwise(bounds):
            start, last = self._seconds(answer[begin]), self._seconds(answer[end - 1])
            segments.append(Segment(start, last, self._words(answer[begin:end])))
        return segments, frames if whole else (answer[pairs[-1] - 1] - self.first) * _FRAMES

    def _seconds(self, token: int) -> float:
        return round((token - self.first) * self.step, 6)

    def _words(self, tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(token for token in tokens if token < self.none)
