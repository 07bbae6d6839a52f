# SPDX-License-Identifier: Apache-2.0
"""An opened encoder-decoder: texts or audio in, jobs checked against the contract, answers out.

Without a choice in the request an answer is the publisher's: the most likely token of every step, or beams, whichever
the contract states. With a temperature tokens are drawn, and beams are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from packager.server.config import Config
from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import session
from packager.server.generation import audio, beams
from packager.server.generation.decoding import MAX_BEAMS, Audio, Decoding
from packager.server.generation.encoder_decoder import Cache, EncoderDecoder, open_pair
from packager.server.generation.engine import Engine, TooLongError
from packager.server.generation.loop import Finish, Step, never
from packager.server.generation.options import sampling_of, whole_within
from packager.server.generation.rules import Scores, allowed
from packager.server.generation.sampling import Sampling, choose, log_probabilities
from packager.server.generation.settings import SAMPLING, TOKENIZER, Generation
from packager.server.generation.timestamps import Segment, Timestamps
from packager.server.generation.tokenizer import Stream, Tokenizer

Options: TypeAlias = Mapping[str, Any]
Features: TypeAlias = NDArray[np.float32]
_OWN = {"max_tokens", "seed", "beams", *SAMPLING}
_SPOKEN = {"language", "task", "timestamps"}


@dataclass(frozen=True, slots=True)
class Job:
    """One source and how to answer: `ids` of a text or `features` of audio, and of the answer at most `most` tokens.

    `language` and `task` are tokens of a speech model of several languages, None to hear the language. `seconds` is the
    length of the audio. With `times` the answer has segments, and the audio may be longer than one pass; `most` then
    counts for each pass.
    """

    ids: tuple[int, ...]
    features: Features | None
    most: int
    beams: int
    sampling: Sampling
    language: int | None = None
    task: int | None = None
    seconds: float = 0.0
    times: Timestamps | None = None

    @property
    def length(self) -> int:
        """The tokens of the source; 0 of audio."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: text, tokens, those that begin it, why it ended (`stop`, `length`), and the audio's length.

    `segments`, with their texts, are those of an answer with times.
    """

    text: str
    tokens: tuple[int, ...]
    start: tuple[int, ...]
    finish: str
    seconds: float
    segments: tuple[tuple[Segment, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Seq2Seq:
    """A model with its tokenizer. Several threads may use it."""

    about: Generation
    decoding: Decoding
    model: EncoderDecoder
    tokenizer: Tokenizer
    session: session.Session
    runtime: str

    @staticmethod
    def open(config: Config, threads: int) -> Seq2Seq:
        """Open what an installation's configuration names. Raises StartError."""
        about = config.generation
        if about is None or about.decoding is None or config.files is None:
            raise StartError("this bundle holds no encoder-decoder")
        opened = []

        def open_one(path: Any) -> session.Session:
            opened.append(session.open_artefact(config.runtime, path, threads, config.device))
            return opened[-1]

        try:
            model = open_pair(open_one, config.artefact)
            session.check_ports(opened[-1].inputs, opened[-1].outputs, config.interface)
            tokenizer = Tokenizer.open(config.files / TOKENIZER)
        except ImportError as error:
            raise StartError(
                f"{error}", hint="pip install 'model-packager[chat]', or install the bundle again"
            ) from None
        except (OSError, ValueError) as error:
            raise StartError(str(error), hint="install the bundle again") from None
        return Seq2Seq(about, about.decoding, model, tokenizer, opened[-1], f"{config.runtime} {opened[-1].version}")

    def try_out(self) -> None:
        """Make one token. Raises StartError where the model cannot."""
        try:
            features = None if self.about.audio is None else audio.log_mel(np.zeros(1, np.float32), self.about.audio)
            job = Job((0,), features, 1, 1, Sampling(), *self._spoken({}))
            list(self.answer(job))
        except Exception as error:  # every runtime raises others
            raise StartError(f"the model fails on a small source: {str(error).strip()[:500]}") from None

    def job_of_text(self, text: str, options: Options) -> Job:
        """Check a request with a text. Raises RequestError, TooLongError."""
        if self.about.audio is not None:
            raise RequestError("the model reads audio, not texts")
        if "\0" in text:
            raise RequestError("the text holds a character 0")
        return self.job_of_ids(self.tokenizer.encode(text), options)

    def job_of_ids(self, ids: Sequence[int], options: Options) -> Job:
        """Check a request with the tokens of a text. Raises RequestError, TooLongError."""
        if not ids:
            raise RequestError("the text is empty")
        if outside := [token for token in ids if not 0 <= token < self.about.vocabulary]:
            raise RequestError(f"the vocabulary has no token {outside[0]}")
        if len(ids) > self.decoding.source:
            raise TooLongError(f"the text has {len(ids)} tokens, expected at most {self.decoding.source}")
        return self._job(tuple(ids), None, options)

    def job_of_audio(self, data: bytes | bytearray | memoryview, options: Options) -> Job:
        """Check a request with the bytes of a WAV file; what is longer than a pass has times. Raises RequestError."""
        about = self.about.audio
        if about is None:
            raise RequestError("the model reads texts, not audio")
        known = Timestamps.of(about, self.about.vocabulary)
        samples, rate = audio.read_wav(data, about.seconds if known is None else math.inf)
        heard = audio.resample(samples, rate, about.rate)
        is_long = len(samples) > about.seconds * rate
        if not is_long:
            heard = heard[: about.samples]
        job = self._job((), audio.log_mel(heard, about), {"timestamps": True, **options} if is_long else options)
        if is_long and job.times is None:
            raise audio.too_long(len(samples) / rate, about.seconds)
        return replace(job, seconds=len(samples) / rate)

    def memory(self, job: Job) -> int:
        """Return the bytes that the caches of a job take at most."""
        source = job.length or self.decoding.source
        start = len(self.decoding.start) + 3
        return job.beams * ((start + job.most) * self.about.token_bytes + source * self.decoding.cross_bytes)

    def whole(self, job: Job, cancelled: Callable[[], bool] = never) -> Answer | None:
        """Return an answer at once, None where it was cancelled."""
        if cancelled():
            return None
        about = self.about.audio
        if job.times is not None and job.features is not None and about is not None:
            return self._pass_by_pass(job, job.features, job.times, about, cancelled)
        cache, start = self.read(job)
        steps = list(self._steps(job, cache, start, cancelled))
        if not steps or steps[-1].finish is None:
            return None
        tokens = tuple(step.token for step in steps)
        return Answer("".join(step.text for step in steps), tokens, start, steps[-1].finish, job.seconds)

    def _job(self, ids: tuple[int, ...], features: Features | None, options: Options) -> Job:
        given = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(set(given) - _OWN - (_SPOKEN if self.about.audio else set())):
            raise RequestError(f"{quote(unknown[0])} is not supported")
        language, task = self._spoken(given)
        times = self._times(given)
        begun = self._begun(language or 0)
        room = self.about.context - begun
        usual = min(self.decoding.longest - begun, room)
        most = min(whole_within(given, "max_tokens", 1, (1 << 31) - 1, usual), room)
        drawn = sampling_of(self.about, given)
        width = whole_within(given, "beams", 1, MAX_BEAMS, self.decoding.beams if drawn.temperature == 0 else 1)
        if width > 1 and drawn.temperature > 0:
            raise RequestError("`beams` and `temperature` exclude each other")
        return Job(ids, features, most, width, drawn, language, task, times=times)

    def _times(self, given: Options) -> Timestamps | None:
        """Return the tokens of times where the request wants them. Raises RequestError."""
        wanted, about = given.get("timestamps", False), self.about.audio
        if not isinstance(wanted, bool):
            raise RequestError("`timestamps`: expected true or false")
        known = Timestamps.of(about, self.about.vocabulary) if about and wanted else None
        if wanted and known is None:
            raise RequestError("`timestamps`: the model has no tokens of times")
        return known

    def _spoken(self, given: Options) -> tuple[int | None, int | None]:
        """Return the tokens of the language, None to hear it, and of the task. Raises RequestError."""
        about = self.about.audio
        if about is None:
            return None, None
        language = _named(given, "language", about.languages)
        task = _named(given, "task", about.tasks)
        stated = self.decoding.start[1:]
        language = next((t for t in stated if t in about.languages.values()), None) if language is None else language
        task = next((t for t in stated if t in about.tasks.values()), None) if task is None else task
        return language, about.tasks.get("transcribe") if task is None else task

    def _begun(self, language: int) -> int:
        return len(self._start(self.about.audio, language, 0))

    def _start(self, about: Audio | None, language: int | None, task: int | None) -> tuple[int, ...]:
        """Return the tokens that begin an answer."""
        if about is None or not about.languages:
            return self.decoding.start
        found = (self.decoding.start[0], language, task if about.tasks else None, about.no_timestamps)
        return tuple(token for token in found if token is not None)

    def read(self, job: Job) -> tuple[Cache, tuple[int, ...]]:
        """Run the encoder; return the cache, and what begins the answer. Raises RequestError beyond a pass."""
        about = self.about.audio
        if about is not None and job.features is not None and job.features.shape[1] > about.frames:
            raise audio.too_long(job.seconds, about.seconds)
        if job.features is None:
            return self.model.read_texts(np.array([job.ids], np.int64)), self._start(about, None, None)
        cache, language = self.model.read_audio(job.features[None]), job.language
        if about is not None and about.languages and language is None:
            heard = self.model.step(np.array([self.decoding.start[:1]], np.int64), cache.choose([0]))[0, -1]
            places = sorted(about.languages.values())
            language = places[int(heard[places].argmax())]
        start = self._start(about, language, job.task)
        return cache, start if job.times is None else tuple(token for token in start if token != job.times.none)

    def answer(self, job: Job, cancelled: Callable[[], bool] = never) -> Iterator[Step]:
        """Yield the tokens of an answer; with beams all of them once the best is known."""
        if cancelled():
            return
        yield from self._steps(job, *self.read(job), cancelled)

    def _pass_by_pass(
        self, job: Job, features: Features, times: Timestamps, about: Audio, cancelled: Callable[[], bool]
    ) -> Answer | None:
        """Return an answer with segments; the next pass begins where the last whole segment ends."""
        segments: list[Segment] = []
        start: tuple[int, ...] = ()
        at, finish, length = 0, "stop", max(round(job.seconds * about.rate) // about.hop, 1)
        while at < length:
            part = features[:, at : at + about.frames]
            wide = np.pad(part, ((0, 0), (0, about.frames - part.shape[1])))
            one = replace(job, features=wide, language=self._language_of(start) if start else job.language)
            cache, start = self.read(one)
            steps = list(self._steps(one, cache, start, cancelled))
            if not steps or steps[-1].finish is None:
                return None
            finish = "length" if steps[-1].finish == "length" else finish
            answer = [step.token for step in steps if step.token not in self.about.eos]
            found, count = times.cut(answer, min(about.frames, length - at))
            segments += [segment.later(at * about.hop / about.rate) for segment in found if segment.tokens]
            at += count
        tokens = tuple(token for segment in segments for token in segment.tokens)
        texts = tuple((segment, self.tokenizer.decode(segment.tokens)) for segment in segments)
        return Answer(self.tokenizer.decode(tokens), tokens, start, finish, job.seconds, texts)

    def _language_of(self, start: Sequence[int]) -> int | None:
        """Return the token of the language among those that begin an answer."""
        known = self.about.audio.languages.values() if self.about.audio else ()
        return next((token for token in start if token in known), None)

    def _steps(self, job: Job, cache: Cache, start: tuple[int, ...], cancelled: Callable[[], bool]) -> Iterator[Step]:
        return (self._best if job.beams > 1 else self._one_by_one)(job, cache, start, cancelled)

    def _one_by_one(
        self, job: Job, cache: Cache, start: tuple[int, ...], cancelled: Callable[[], bool]
    ) -> Iterator[Step]:
        sampling = replace(job.sampling, repetition_penalty=1.0)
        chance, stream, sequence = job.sampling.generator(), Stream(self.tokenizer), list(start)
        ids, most, rules = list(start), len(start) + job.most, self.decoding.rules
        last = self._rule_of_times(job.times, len(start))
        while not cancelled():
            logits = self.model.step(np.array([ids], np.int64), cache)[0, -1]
            penalty, rule = job.sampling.repetition_penalty, last and partial(last, sequence)
            scores = allowed(logits, rules, self.about.eos, sequence, len(start), most, penalty, rule)
            token = choose(scores, sampling, chance, ())
            sequence.append(token)
            finish: Finish | None = "stop" if token in self.about.eos else "length" if len(sequence) >= most else None
            text = stream.finish() if finish == "stop" else stream.add(token)
            text += stream.finish() if finish == "length" else ""
            yield Step(token, float(log_probabilities(logits)[token]), (), text, finish)
            if finish:
                return
            ids = [token]

    def _best(self, job: Job, cache: Cache, start: tuple[int, ...], cancelled: Callable[[], bool]) -> Iterator[Step]:
        most, penalty = len(start) + job.most, job.sampling.repetition_penalty
        read = cache.choose([0])
        found = beams.search(
            self.model,
            cache,
            self.decoding,
            start,
            self.about.eos,
            most,
            cancelled,
            beams=job.beams,
            penalty=penalty,
            last=self._rule_of_times(job.times, len(start)),
        )
        if found is None:
            return
        odds = [float(row[t]) for row, t in zip(self.forced(read, start, found.tokens), found.tokens, strict=True)]
        stream, last = Stream(self.tokenizer), len(found.tokens) - 1
        for place, token in enumerate(found.tokens):
            ended = token in self.about.eos
            text = "" if ended else stream.add(token)
            finish: Finish | None = None
            if place == last:
                text, finish = text + stream.finish(), "stop" if ended else "length"
            yield Step(token, odds[place], (), text, finish)

    def _rule_of_times(self, times: Timestamps | None, begun: int) -> Callable[[Sequence[int], Scores], Scores] | None:
        if times is None:
            return None
        return lambda sequence, scores: times.allowed(scores, sequence[begun:], self.about.eos)

    def forced(self, cache: Cache, start: Sequence[int], tokens: Sequence[int]) -> list[Any]:
        """Return the log-probabilities behind every token but the last, in one pass."""
        ids = np.array([[*start, *tokens[:-1]]], np.int64)
        logits = self.model.step(ids, cache)[0, len(start) - 1 :]
        return [log_probabilities(row) for row in logits]


def _named(given: Options, name: str, known: Mapping[str, int]) -> int | None:
    """Return the token of a name. Raises RequestError."""
    value = given.get(name)
    if value is None:
        return None
    if not known:
        raise RequestError(f"`{name}`: the model has one alone, leave it out")
    if not isinstance(value, str) or value not in known:
        raise RequestError(f"`{name}`: expected one of {', '.join(sorted(known))[:600]}, got {quote(value)}")
    return known[value]


def open_engine(config: Config, threads: int) -> Engine | Seq2Seq:
    """Open a model that generates text, of whichever kind. Raises StartError."""
    pair = config.generation is not None and config.generation.decoding is not None
    return Seq2Seq.open(config, threads) if pair else Engine.open(config, threads)
