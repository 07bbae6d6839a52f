# SPDX-License-Identifier: Apache-2.0
"""What a contract says of generation: the task, the vocabulary, the context, special tokens, files and defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packager.server.generation.decoding import Audio, Decoding

TASK = "text-generation"
TEXT_TO_TEXT, SPEECH = "text2text-generation", "automatic-speech-recognition"
PAIRS = (TEXT_TO_TEXT, SPEECH)  # of encoder-decoders
TASKS = (TASK, *PAIRS)
FOLDER = "generation"
TOKENIZER = f"{FOLDER}/tokenizer.json"
TEMPLATE = f"{FOLDER}/chat_template.jinja"
ADAPTER = "adapter/adapter.safetensors"
LORA = "lora."  # of inputs that hold the matrices of an adapter; behind it the path of the layer
_MEMBERS = {"task", "architecture", "vocabulary", "context", "special", "cache", "tokenizer", "template", "sampling"}
_OF_TASK: Mapping[str, set[str]] = {TASK: set(), TEXT_TO_TEXT: {"decoding"}, SPEECH: {"decoding", "audio"}}
_BEGINNING = 4  # tokens beside the stated start, at most: language, task, no times, and one of the answer
MAX_RANK = 1024  # of the matrices of an adapter
MAX_LAYERS = 64  # kinds of layers that adapters may change
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SAMPLING: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 1 << 31),
    "top_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}
"""The defaults that a publisher may state, with their bounds."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The member `generation` of a contract.

    `context` counts the tokens of prompt and answer together, `token_bytes` the memory of one of them in the cache.
    `eos` end an answer. `template` is the digest of the chat template, None where there is none. `sampling` are the
    publisher's defaults; without a temperature the most likely token is taken. Of an encoder-decoder, `context` counts
    the tokens of the answer with those that begin it, and `decoding` says the rest; `audio` is that of a speech model.
    `adapters` are the layers, by the end of their path, that an adapter may change; None where the graph takes none.
    """

    task: str
    architecture: str
    vocabulary: int
    context: int
    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    layers: int
    token_bytes: int
    tokenizer: str
    template: str | None
    sampling: Mapping[str, float]
    decoding: Decoding | None = None
    audio: Audio | None = None
    adapters: tuple[str, ...] | None = None

    @staticmethod
    def from_json(value: Any) -> Generation:
        """Read the member of a contract, which may be hostile. Raises ValueError."""
        if not isinstance(value, dict) or not isinstance(value.get("task"), str):
            raise ValueError("`generation` states no task")
        task = value["task"]
        if task not in TASKS:
            raise ValueError(f"the task `{task:.40}` is unknown, expected one of {', '.join(TASKS)}")
        members = _MEMBERS | _OF_TASK[task]
        if set(value) - ({"adapters"} if task == TASK else set()) != members:
            raise ValueError(f"`generation` has not the members {', '.join(sorted(members))}")
        vocabulary = _whole(value["vocabulary"], 1)
        context = _whole(value["context"], 2)
        decoding = Decoding.from_json(value["decoding"], vocabulary) if "decoding" in value else None
        if decoding is not None and context < len(decoding.start) + _BEGINNING:
            raise ValueError(f"a context of {context} tokens has no room for an answer")
        special, cache = _record(value["special"], ("bos", "eos", "pad")), _record(value["cache"], ("layers", "bytes"))
        eos = special["eos"]
        if not isinstance(eos, list) or len(eos) > 256:
            raise ValueError("`generation.special.eos` is no list of tokens")
        return Generation(
            task,
            _text(value["architecture"]),
            vocabulary,
            context,
            _token(special["bos"], vocabulary),
            tuple(_whole(token, 0, vocabulary - 1) for token in eos),
            _token(special["pad"], vocabulary),
            _whole(cache["layers"], 1, 1 << 16),
            _whole(cache["bytes"], 1),
            _digest(value["tokenizer"]),
            None if value["template"] is None else _digest(value["template"]),
            _sampling(value["sampling"]),
            decoding,
            Audio.from_json(value["audio"], vocabulary) if "audio" in value else None,
            _layers(value["adapters"]) if "adapters" in value else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a contract holds it."""
        return {
            "task": self.task,
            "architecture": self.architecture,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "special": {"bos": self.bos, "eos": list(self.eos), "pad": self.pad},
            "cache": {"layers": self.layers, "bytes": self.token_bytes},
            "tokenizer": self.tokenizer,
            "template": self.template,
            "sampling": dict(self.sampling),
            **({"decoding": self.decoding.to_json()} if self.decoding else {}),
            **({"audio": self.audio.to_json()} if self.audio else {}),
            **({"adapters": list(self.adapters)} if self.adapters else {}),
        }


def _record(value: Any, members: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(members):
        raise ValueError(f"expected the members {', '.join(members)}, got `{value!s:.60}`")
    return value


def _whole(value: Any, least: int, most: int = (1 << 53) - 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got `{value!s:.40}`")
    return value


def _token(value: Any, vocabulary: int) -> int | None:
    return None if value is None else _whole(value, 0, vocabulary - 1)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", value):
        raise ValueError(f"`{value!s:.60}` cannot be an architecture")
    return value


def _layers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_LAYERS or len(set(map(str, value))) != len(value):
        raise ValueError("`generation.adapters` is no list of layers")
    return tuple(_text(name) for name in value)


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"`{value!s:.60}` is no digest")
    return value


def _sampling(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not set(value) <= set(SAMPLING):
        raise ValueError(f"`generation.sampling` has other members than {', '.join(SAMPLING)}")
    for name, number in value.items():
        low, high = SAMPLING[name]
        if type(number) not in (int, float) or not low <= number <= high:
            raise ValueError(f"`generation.sampling.{name}`: expected a number from {low:g} to {high:g}")
    return {name: float(number) for name, number in value.items()}
