# SPDX-License-Identifier: Apache-2.0
"""What a contract says of an encoder-decoder: how its answers begin, tokens that are ruled out, beams, its audio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_BEAMS = 16
_LISTED = 1 << 16  # tokens of one list
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z]+)?")
EarlyStopping = bool | Literal["never"]
MIN_RATE, MAX_RATE = 4000, 192_000  # samples a second of what is sent


@dataclass(frozen=True, slots=True)
class Rules:
    """Tokens that an answer must have or must not have, as `generation_config.json` names them.

    `forced_bos` follows a single start token, `forced_eos` is the last token of an answer of full length. `suppress`
    never come, `begin_suppress` not as the first token, and `banned` are sequences that never come. `no_repeat` is the
    length of sequences that come once only, 0 for none. Before `min_length` tokens, those that begin the answer
    included, no token ends it. With `renormalise` the log-probabilities of what is left are made to add up to 1 again,
    which beams see.
    """

    forced_bos: int | None = None
    forced_eos: int | None = None
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    banned: tuple[tuple[int, ...], ...] = ()
    no_repeat: int = 0
    min_length: int = 0
    renormalise: bool = False

    @staticmethod
    def from_json(value: Any, vocabulary: int) -> Rules:
        """Read the member of a contract, which may be hostile. Raises ValueError."""
        names = ("forced_bos", "forced_eos", "suppress", "begin_suppress", "banned", "no_repeat", "min_length")
        members = _record(value, *names, "renormalise")
        banned = members["banned"]
        if not isinstance(banned, list) or len(banned) > _LISTED or not all(banned):
            raise ValueError("`generation.decoding.rules.banned` is no list of sequences")
        return Rules(
            _token(members["forced_bos"], vocabulary),
            _token(members["forced_eos"], vocabulary),
            _tokens(members["suppress"], vocabulary),
            _tokens(members["begin_suppress"], vocabulary),
            tuple(_tokens(sequence, vocabulary) for sequence in banned),
            parse_integer(members["no_repeat"], 0, 1 << 16),
            parse_integer(members["min_length"], 0, 1 << 31),
            members["renormalise"] is True,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a contract holds it."""
        return {
            "forced_bos": self.forced_bos,
            "forced_eos": self.forced_eos,
            "suppress": list(self.suppress),
            "begin_suppress": list(self.begin_suppress),
            "banned": [list(sequence) for sequence in self.banned],
            "no_repeat": self.no_repeat,
            "min_length": self.min_length,
            "renormalise": self.renormalise,
        }


@dataclass(frozen=True, slots=True)
class Decoding:
    """The member `generation.decoding` of a contract.

    `start` are the tokens that begin every answer. `source` bounds the tokens of what is read, and `longest` is the
    publisher's limit of an answer, `start` included. `beams` is 1 for the most likely token of every step. Scores of
    beams are divided by their length to the power of `length_penalty`. `cross_bytes` is the memory that one token of
    the source takes in the cache, in float32.
    """

    start: tuple[int, ...]
    source: int
    longest: int
    beams: int
    length_penalty: float
    early_stopping: EarlyStopping
    cross_bytes: int
    rules: Rules

    @staticmethod
    def from_json(value: Any, vocabulary: int) -> Decoding:
        """Read the member of a contract, which may be hostile. Raises ValueError."""
        names = ("start", "source", "longest", "beams", "length_penalty", "early_stopping", "cross_bytes", "rules")
        members = _record(value, *names)
        start, early, penalty = (
            _tokens(members["start"], vocabulary),
            members["early_stopping"],
            members["length_penalty"],
        )
        if not start or len(start) > 16:
            raise ValueError("`generation.decoding.start`: expected 1 to 16 tokens")
        if not isinstance(early, bool) and early != "never":
            raise ValueError("`generation.decoding.early_stopping`: expected true, false or `never`")
        if type(penalty) not in (int, float) or not -100 <= penalty <= 100:
            raise ValueError("`generation.decoding.length_penalty`: expected a number from -100 to 100")
        return Decoding(
            start,
            parse_integer(members["source"], 1),
            parse_integer(members["longest"], len(start) + 1),
            parse_integer(members["beams"], 1, MAX_BEAMS),
            float(penalty),
            early,
            parse_integer(members["cross_bytes"], 1),
            Rules.from_json(members["rules"], vocabulary),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a contract holds it."""
        return {
            "start": list(self.start),
            "source": self.source,
            "longest": self.longest,
            "beams": self.beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "cross_bytes": self.cross_bytes,
            "rules": self.rules.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Audio:
    """The member `generation.audio` of a contract: the log-mel spectrogram that a speech model reads.

    `rate` is in samples a second; `window` and `hop` in samples; `seconds` is the length of one pass. `languages` are
    tokens by language code and `tasks` tokens by name, both empty for a model of one language; `no_timestamps` is
    the token that ends the beginning of an answer without times.
    """

    rate: int
    mels: int
    window: int
    hop: int
    seconds: int
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_timestamps: int | None

    @staticmethod
    def from_json(value: Any, vocabulary: int) -> Audio:
        """Read the member of a contract, which may be hostile. Raises ValueError."""
        members = _record(value, "rate", "mels", "window", "hop", "seconds", "languages", "tasks", "no_timestamps")
        languages, tasks = members["languages"], members["tasks"]
        if not isinstance(languages, dict) or not all(map(_LANGUAGE.fullmatch, languages)):
            raise ValueError("`generation.audio.languages`: expected tokens by language code")
        if not isinstance(tasks, dict) or not set(tasks) <= {"transcribe", "translate"}:
            raise ValueError("`generation.audio.tasks`: expected tokens of `transcribe` and `translate`")
        window = parse_integer(members["window"], 2, 1 << 14)
        return Audio(
            parse_integer(members["rate"], MIN_RATE, MAX_RATE),
            parse_integer(members["mels"], 1, 512),
            window,
            parse_integer(members["hop"], 1, window),
            parse_integer(members["seconds"], 1, 60),
            {name: parse_integer(token, 0, vocabulary - 1) for name, token in languages.items()},
            {name: parse_integer(token, 0, vocabulary - 1) for name, token in tasks.items()},
            _token(members["no_timestamps"], vocabulary),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a contract holds it."""
        return {
            "rate": self.rate,
            "mels": self.mels,
            "window": self.window,
            "hop": self.hop,
            "seconds": self.seconds,
            "languages": dict(self.languages),
            "tasks": dict(self.tasks),
            "no_timestamps": self.no_timestamps,
        }

    @property
    def samples(self) -> int:
        """Return the samples of one pass."""
        return self.rate * self.seconds

    @property
    def frames(self) -> int:
        """Return the frames of one pass."""
        return self.samples // self.hop


def parse_integer(value: Any, least: int, most: int = (1 << 53) - 1) -> int:
    """Return a whole number within bounds. Raises ValueError."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got `{value!s:.40}`")
    return value


def _token(value: Any, vocabulary: int) -> int | None:
    return None if value is None else parse_integer(value, 0, vocabulary - 1)


def _tokens(value: Any, vocabulary: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _LISTED:
        raise ValueError(f"expected a list of tokens, got `{value!s:.40}`")
    return tuple(parse_integer(token, 0, vocabulary - 1) for token in value)


def _record(value: Any, *members: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(members):
        raise ValueError(f"expected the members {', '.join(members)}, got `{value!s:.60}`")
    return value
