# SPDX-License-Identifier: Apache-2.0
"""What the source itself answers to the reference prompts: greedy tokens, and its logits behind each of them.

Tokens come from transformers' own `generate`, logits from one pass over prompt and answer without a cache, ids and
conversations from the source's own tokenizer and template. So neither our graph, nor our loop, nor our reading of the
tokenizer's files takes part in what they are compared with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters._generation.decoder import Decoder
from packager.exporters._generation.files import Special
from packager.exporters._torch import program

TEXTS = {
    "plain": "The capital of France is",
    "question": "What is a hash function good for?",
    "numbers": "2 + 2 = 4, 3 + 3 = 6, 1234567 + 1 =",
    "code": 'def greet(name: str) -> str:\n    """Return a greeting."""\n    return',
    "accents": "Über größere Änderungen entschied der Präsident, naïveté à côté:",
    "scripts": "Привет мир, 你好世界, مرحبا بالعالم, नमस्ते 🙂👩‍🚀",
    "spaces": "  two  spaces\n\n\tand a tab\r\nend  ",
}
CHAT = ({"role": "user", "content": "Explain in one sentence what an operating system does."},)
LONG = "The lighthouse keeper wrote down the weather, the ships that passed, and the hour at which the lamp was lit. "
_LEAST_LONG = 160  # tokens of the long prompt
_MOST_LONG = 4608  # tokens: longer windows are not crossed, because the source runs the prompt in one pass


@dataclass(frozen=True, slots=True)
class Prompt:
    """One reference prompt: text and ids; `special` says whether the tokenizer adds the model's own tokens."""

    name: str
    text: str
    special: bool
    ids: tuple[int, ...]
    messages: tuple[JSON, ...] = ()

    def to_json(self) -> JSON:
        chat = {"messages": list(self.messages)} if self.messages else {}
        return {"name": self.name, "text": self.text, "special": self.special, "ids": list(self.ids), **chat}


@dataclass(frozen=True, slots=True)
class Answer:
    """The greedy answer to a prompt: tokens, the source's logits [tokens, vocabulary], and the decoded text."""

    tokens: tuple[int, ...]
    logits: Any
    text: str


def prompts(decoder: Decoder, tokenizer: Any, steps: int, now: Callable[[str], str]) -> Iterator[Prompt]:
    """Yield the prompts that fit into the context together with an answer of `steps` tokens.

    Raises StepError for a tokenizer that has other tokens than the model.
    """
    for prompt in _fitting(decoder, tokenizer, steps, now):
        if outside := [token for token in prompt.ids if token >= decoder.vocabulary]:
            raise StepError(
                f"the tokenizer makes token {outside[0]} of the prompt `{prompt.name}`, "
                f"outside of the model's vocabulary of {decoder.vocabulary}",
                hint="it is not the model's own, or `tokenizer_class` in `tokenizer_config.json` names another one",
            )
        yield prompt


def _fitting(decoder: Decoder, tokenizer: Any, steps: int, now: Callable[[str], str]) -> Iterator[Prompt]:
    room = decoder.context - steps
    for name, text in TEXTS.items():
        ids = _ids(tokenizer, text, special=True)
        if 0 < len(ids) <= room:
            yield Prompt(name, text, True, ids)
    if tokenizer.chat_template:
        rendered = _rendered(tokenizer, now)
        ids = _ids(tokenizer, rendered, special=False)
        if 0 < len(ids) <= room:
            yield Prompt("chat", rendered, False, ids, CHAT)
    text, wanted = LONG, min(max(_LEAST_LONG, decoder.window + 32), _MOST_LONG)
    while len(_ids(tokenizer, text, special=True)) < wanted and len(_ids(tokenizer, text + LONG, special=True)) <= room:
        text += LONG
    ids = _ids(tokenizer, text, special=True)
    if len(ids) <= room:
        yield Prompt("long", text, True, ids)


def _ids(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    return tuple(int(number) for number in tokenizer(text, add_special_tokens=special).input_ids)


def _rendered(tokenizer: Any, now: Callable[[str], str]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True, strftime_now=now)
        )
    except Exception as error:  # a template is a program, and fails as one
        raise StepError(f"the chat template does not take a conversation of one turn: {first_line(error)}") from error


def answer(decoder: Decoder, tokenizer: Any, special: Special, prompt: Prompt, steps: int) -> Answer:
    """Return the greedy answer of at most `steps` tokens."""
    lib, library = program.import_torch(), importlib.import_module("transformers")
    ids = lib.tensor([list(prompt.ids)])
    pad = special.pad if special.pad is not None else (special.eos or (0,))[0]
    settings = library.GenerationConfig(
        max_new_tokens=steps, do_sample=False, num_beams=1, eos_token_id=list(special.eos) or None, pad_token_id=pad
    )
    with lib.inference_mode(), program.silence_warnings():
        whole = decoder.model.generate(ids, attention_mask=lib.ones_like(ids), generation_config=settings)
        found = decoder.model(input_ids=whole, attention_mask=lib.ones_like(whole), use_cache=False)
    logits = found.logits[0, ids.shape[1] - 1 : -1].float().numpy()
    tokens = tuple(int(token) for token in whole[0, ids.shape[1] :])
    return Answer(
        tokens, logits, tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
