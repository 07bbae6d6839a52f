# SPDX-License-Identifier: Apache-2.0
"""An encoder-decoder with its tokenizer as a source: graphs, files, and its own answers, greedy and with beams."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import packager.exporters._generation.files as beside
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import Port
from packager.exporters._generation import signals
from packager.exporters._generation.encoder_decoder import EncoderDecoder, decoded, encoded, open_model
from packager.exporters._generation.reference import LONG, TEXTS
from packager.exporters._generation.tokenized import Tokenized
from packager.exporters._torch import program
from packager.exporters._transformers.files import read_json
from packager.server.errors import RequestError
from packager.server.generation.decoding import MAX_BEAMS, Audio, Decoding, Rules
from packager.server.generation.rules import allowed
from packager.server.generation.sampling import log_probabilities
from packager.server.generation.settings import SPEECH, TEXT_TO_TEXT, TOKENIZER

_TOP, _DIGITS = 8, 6
_CERTAIN = 99.0  # the gap of a token that no other could be
_EXTRACTOR = "preprocessor_config.json"
_FIXED: Mapping[str, tuple[JSON, ...]] = {
    "do_normalize": (None, False),
    "dither": (None, 0, 0.0),
    "padding_value": (None, 0, 0.0),
    "feature_extractor_type": ("WhisperFeatureExtractor",),
}


@dataclass(frozen=True, slots=True)
class Source(Tokenized):
    """An opened directory; tokenizer and extractor are transformers' own and take part in the reference alone."""

    model: EncoderDecoder
    tokenizer: Any
    extractor: Any
    special: beside.Special
    sampling: Mapping[str, float]
    decoding: Decoding
    audio: Audio | None
    travelling: Mapping[str, bytes]

    @property
    def ports(self) -> tuple[Sequence[Port], Sequence[Port]]:
        return self.model.inputs(), self.model.outputs()

    def graphs(self, opset: int) -> Mapping[str, Any]:
        made = self.model.graphs(opset)
        return {"model": made["decoder"], "model/encoder": made["encoder"]}

    def files(self) -> Mapping[str, bytes]:
        return self.travelling

    def about(self) -> JSON:
        model, special = self.model, self.special
        return {
            "task": SPEECH if self.audio else TEXT_TO_TEXT,
            "architecture": model.architecture,
            "vocabulary": model.vocabulary,
            "context": model.context,
            "special": {"bos": special.bos, "eos": list(special.eos), "pad": special.pad},
            "cache": {"layers": len(model.own), "bytes": token_bytes(model.own)},
            "sampling": dict(self.sampling),
            "decoding": self.decoding.to_json(),
            **({"audio": self.audio.to_json()} if self.audio else {}),
        }

    def answers(self, steps: int) -> Iterator[tuple[JSON, JSON, Any]]:
        steps = min(steps, self.model.context - len(self.decoding.start) - 2)
        for name, about, read, more in self._sources(steps):
            start = self._start(read)
            greedy, _ = self._generated(read, steps, 1)
            tokens = _without(greedy, start)
            logits = self._forced(read, start, tokens)
            answer = {"name": name, **self._answer(start, tokens, logits, len(start) + steps)}
            if self.decoding.beams > 1:
                best, score = self._generated(read, steps, self.decoding.beams)
                answer["beams"] = {"tokens": list(_without(best, start)), "score": round(score, _DIGITS)}
            yield {"name": name, **about, "start": list(start)}, answer, {"logits": logits, **more}

    def answer_row(self, read: str | bytes) -> str:
        given = self._read(read)
        start = self._start(given)
        room = min(self.decoding.longest, self.model.context) - len(start)
        tokens, _ = self._generated(given, room, self.decoding.beams)
        return self.decode(list(_without(tokens, start)))

    def _read(self, read: str | bytes) -> dict[str, Any]:
        """Return what the model reads of a text or a WAV file. Raises RequestError."""
        lib = program.import_torch()
        if self.audio is not None and isinstance(read, bytes):
            sound = importlib.import_module("packager.server.generation.audio")
            samples, rate = sound.read_wav(read, self.audio.seconds)
            heard = sound.resample(samples, rate, self.audio.rate)[: self.audio.samples]
            features = self.extractor(heard, sampling_rate=self.audio.rate, return_tensors="np").input_features
            return {"input_features": lib.from_numpy(features)}
        ids = [int(token) for token in self.encode(str(read))]
        if not 0 < len(ids) <= self.decoding.source:
            raise RequestError(f"the text has {len(ids)} tokens, expected 1 to {self.decoding.source}")
        return {"input_ids": lib.tensor([ids]), "attention_mask": lib.ones(1, len(ids), dtype=lib.int64)}

    def _sources(self, steps: int) -> Iterator[tuple[str, dict[str, JSON], dict[str, Any], dict[str, Any]]]:
        """Yield of every reference prompt: name, what the bundle says of it, what the model reads, and more."""
        lib = program.import_torch()
        if self.audio is not None:
            for name, samples in signals.reference(self.audio.rate):
                features = self.extractor(samples, sampling_rate=self.audio.rate, return_tensors="np").input_features
                more = {"features": features[0], "file": signals.wav(samples, self.audio.rate)}
                path = f"audio/{name}.wav"
                yield name, {"audio": path, "ids": []}, {"input_features": lib.from_numpy(features)}, more
            return
        texts = {**TEXTS, "long": LONG * 8}
        for name, text in texts.items():
            ids = [int(token) for token in self.encode(text)]
            if outside := [token for token in ids if token >= self.model.vocabulary]:
                raise StepError(
                    f"the tokenizer makes token {outside[0]} of the prompt `{name}`, "
                    f"outside of the model's vocabulary of {self.model.vocabulary}",
                    hint="it is not the model's own, or `tokenizer_class` in `tokenizer_config.json` names another one",
                )
            if 0 < len(ids) <= self.decoding.source:
                read = {"input_ids": lib.tensor([ids]), "attention_mask": lib.ones(1, len(ids), dtype=lib.int64)}
                yield name, {"text": text, "special": True, "ids": ids}, read, {}

    def _start(self, read: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the tokens that begin the answer to a source; the language is heard where none is stated."""
        stated, audio = self.decoding.start, self.audio
        if audio is None or not audio.languages:
            return stated
        language = next((token for token in stated if token in audio.languages.values()), None)
        if language is None:
            with program.import_torch().inference_mode():
                language = int(self.model.model.detect_language(input_features=read["input_features"])[0])
        task = next((token for token in stated if token in audio.tasks.values()), audio.tasks.get("transcribe"))
        return tuple(token for token in (stated[0], language, task, audio.no_timestamps) if token is not None)

    def _generated(self, read: Mapping[str, Any], steps: int, beams: int) -> tuple[tuple[int, ...], float]:
        """Return the tokens of transformers' own `generate`, and the score of beams."""
        settings = importlib.import_module("copy").deepcopy(self.model.model.generation_config)
        settings.update(
            do_sample=False, num_beams=beams, max_new_tokens=steps, max_length=None, return_timestamps=False
        )
        settings.update(return_dict_in_generate=True, output_scores=beams > 1)
        more = {}
        if self.audio and self.audio.languages:
            start = self._start(read)
            code = next(name for name, token in self.audio.languages.items() if token == start[1])
            task = next((name for name, token in self.audio.tasks.items() if token == start[2]), None)
            more = {"language": code, **({"task": task} if task else {})}
        with program.import_torch().inference_mode(), program.silence_warnings():
            found = self.model.model.generate(**read, generation_config=settings, **more)
        score = float(found["sequences_scores"][0]) if beams > 1 else 0.0
        return tuple(int(token) for token in found["sequences"][0]), score

    def _forced(self, read: Mapping[str, Any], start: Sequence[int], tokens: Sequence[int]) -> Any:
        """Return the source's logits behind every token, of one pass without a cache."""
        lib = program.import_torch()
        mask = read.get("attention_mask")
        ids = lib.tensor([[*start, *tokens[:-1]]])
        with lib.inference_mode(), program.silence_warnings():
            hidden = encoded(self.model.model, next(iter(read.values())), mask)
            logits, _, _ = decoded(self.model.model, hidden, mask, ids, (), ())
        return logits[0, len(start) - 1 :].float().numpy()

    def _answer(self, start: Sequence[int], tokens: Sequence[int], logits: Any, most: int) -> dict[str, JSON]:
        rows, gaps, tops, sequence = [], [], [], list(start)
        penalty = self.sampling.get("repetition_penalty", 1.0)
        for token, row in zip(tokens, logits, strict=True):
            odds = log_probabilities(row)
            scores = allowed(row, self.decoding.rules, self.special.eos, sequence, len(start), most, penalty)
            order = (-scores).argsort(kind="stable")
            gap = min(float(scores[order[0]] - scores[order[1]]), _CERTAIN)
            rows.append(round(float(odds[token]), _DIGITS))
            gaps.append(round(gap, _DIGITS))
            best = (-odds).argsort(kind="stable")[:_TOP]
            tops.append([[int(place), round(float(odds[place]), _DIGITS)] for place in best])
            sequence.append(token)
        return {"tokens": list(tokens), "text": self.decode(list(tokens)), "logprobs": rows, "gaps": gaps, "top": tops}


def token_bytes(layers: Sequence[Any]) -> int:
    """Return the bytes that one token takes in a cache, in float32."""
    return sum(4 * heads * size for layer in layers for heads, size in layer)


def _without(sequence: Sequence[int], start: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens of an answer; `generate` of some models leaves out those that begin it."""
    known = tuple(sequence[: len(start)]) == tuple(start)
    return tuple(sequence[len(start) :] if known else sequence)


def open_source(source: Path, folder: Path, *, speech: bool) -> Source:
    """Open the model, the tokenizer and the settings. Raises StepError for what does not fit together."""
    model = open_model(folder, speech=speech)
    settings = model.model.generation_config
    table = {name: value for name, value in settings.to_dict().items() if value is not None}
    sampling = beside.sampling(folder, table, beside.OF_PAIRS)
    tokenizer = beside.open_tokenizer(source, folder)
    special = beside.special_tokens(folder, tokenizer)
    audio = _audio(source, folder, table) if speech else None
    decoding = _decoding(model, table, audio)
    files = {TOKENIZER: beside.tokenizer_json(source, folder)}
    extractor = None
    if speech:
        extractor = importlib.import_module("transformers").WhisperFeatureExtractor.from_pretrained(str(folder))
    return Source(model, tokenizer, extractor, special, sampling, decoding, audio, files)


def _decoding(model: EncoderDecoder, table: Mapping[str, Any], audio: Audio | None) -> Decoding:
    first = table.get("decoder_start_token_id", table.get("bos_token_id"))
    if type(first) is not int:
        raise StepError(
            "`generation_config.json` states no `decoder_start_token_id`",
            hint="write the token that begins every answer there; for a model of several languages one of them",
        )
    start = (first, *(_spoken(table, audio) if audio else ()))
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if isinstance(table.get(name), list):
            raise StepError(f"`generation_config.json` sets `{name}` to several tokens", hint="state one of them")
    beams = int(table.get("num_beams", 1))
    if not 1 <= beams <= MAX_BEAMS or (beams > 1 and table.get("do_sample")):
        raise StepError(
            f"`generation_config.json` asks for {beams} beams{' that are drawn' if table.get('do_sample') else ''}",
            hint=f"1 to {MAX_BEAMS} are searched, and without `do_sample`",
        )
    fewest = max(int(table.get("min_length", 0)), len(start) + int(table.get("min_new_tokens", -len(start))))
    longest = table.get("max_length") or table.get("max_new_tokens", model.context) + len(start)
    try:
        return Decoding.from_json(
            {
                "start": list(start),
                "source": model.source,
                "longest": min(int(longest), model.context),
                "beams": beams,
                "length_penalty": float(table.get("length_penalty", 1.0)),
                "early_stopping": table.get("early_stopping", False),
                "cross_bytes": token_bytes(model.cross),
                "rules": Rules(
                    table.get("forced_bos_token_id"),
                    table.get("forced_eos_token_id"),
                    tuple(table.get("suppress_tokens", ())),
                    tuple(table.get("begin_suppress_tokens", ())),
                    tuple(tuple(sequence) for sequence in table.get("bad_words_ids", ())),
                    int(table.get("no_repeat_ngram_size", 0)),
                    fewest,
                    table.get("renormalize_logits") is True,
                ).to_json(),
            },
            model.vocabulary,
        )
    except (TypeError, ValueError) as error:
        raise StepError(f"`generation_config.json`: {error}", hint="correct it, and build again") from error


def _spoken(table: Mapping[str, Any], audio: Audio) -> list[int]:
    """Return what follows the first token: of one language the mark of no times, else language and task if stated."""
    forced = [pair[1] for pair in table.get("forced_decoder_ids") or () if pair[1] is not None]
    if not audio.languages:
        return [*forced, *(token for token in (audio.no_timestamps,) if token is not None and token not in forced)]
    named = [audio.languages.get(str(table.get("language", "")).strip("<|>")), audio.tasks.get(str(table.get("task")))]
    known = {*audio.languages.values(), *audio.tasks.values()}
    return [token for token in named if token is not None] or [token for token in forced if token in known]


def _audio(source: Path, folder: Path, table: Mapping[str, Any]) -> Audio:
    """Return what the model hears. Raises StepError for a spectrogram that is not Whisper's."""
    path = folder / _EXTRACTOR
    stated = read_json(path) if path.is_file() else {}
    if not isinstance(stated, dict):
        stated = {}
    for name, fixed in _FIXED.items():
        if stated.get(name) not in fixed:
            raise StepError(
                f"`{_EXTRACTOR}` sets `{name}` to `{stated.get(name)!s:.60}`, expected `{fixed[-1]}`",
                hint="the log-mel spectrogram of Whisper is what is computed at a site; save the model's own extractor",
            )
    languages = table.get("lang_to_id") or {}
    try:
        return Audio.from_json(
            {
                "rate": stated.get("sampling_rate", 16000),
                "mels": stated.get("feature_size", 80),
                "window": stated.get("n_fft", 400),
                "hop": stated.get("hop_length", 160),
                "seconds": stated.get("chunk_length", 30),
                "languages": {name.strip("<|>"): token for name, token in languages.items()},
                "tasks": dict(table.get("task_to_id") or {}) if languages else {},
                "no_timestamps": table.get("no_timestamps_token_id"),
            },
            1 << 31,
        )
    except ValueError as error:
        raise StepError(f"`{_EXTRACTOR}` or `generation_config.json`: {error}", hint="save the model again") from error
