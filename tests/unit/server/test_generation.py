# SPDX-License-Identifier: Apache-2.0
"""Tokens, templates, sampling and the loop of generation, over a decoder that is arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from packager.server.generation.decoder import Decoder
from packager.server.generation.loop import Job, generate
from packager.server.generation.sampling import Sampling, choose, log_probabilities
from packager.server.generation.settings import Generation
from packager.server.generation.templates import MAX_TURNS, Template, TemplateError
from packager.server.generation.tokenizer import Stream

TEXT = "abcdefgh. Ü€🙂"
BYTES = TEXT.encode()
END = 255


class Successors:
    """A decoder graph in arithmetic: what is most likely after a byte is the byte behind it in `TEXT`.

    It answers by the last token of its cache alone, so a cache that was lost would show.
    """

    inputs = (
        SimpleNamespace(name="input_ids", dtype="int64", shape=("batch", "sequence")),
        SimpleNamespace(name="attention_mask", dtype="int64", shape=("batch", "total")),
        SimpleNamespace(name="position_ids", dtype="int64", shape=("batch", "sequence")),
        SimpleNamespace(name="past_key_values.0.key", dtype="float32", shape=("batch", 1, "past", 1)),
        SimpleNamespace(name="past_key_values.0.value", dtype="float32", shape=("batch", 1, "past", 1)),
    )
    outputs = tuple(SimpleNamespace(name=n) for n in ("logits", "present.0.key", "present.0.value"))

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        ids = feeds["input_ids"]
        batch, length = ids.shape
        key = np.concatenate([feeds["past_key_values.0.key"], ids[:, None, :, None].astype(np.float32)], axis=2)
        assert feeds["attention_mask"].shape == (batch, key.shape[2])
        assert (feeds["position_ids"][0] == np.arange(key.shape[2] - length, key.shape[2])).all()
        self.steps.append((length, key.shape[2]))
        logits = np.zeros((batch, length, 256), np.float32)
        for row in range(batch):
            for place in range(length):
                seen = len(feeds["past_key_values.0.key"][row, 0]) + place
                logits[row, place, [*BYTES, END][seen % (len(BYTES) + 1)]] = 9.0
        return [logits, key, key]


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: Any, *, special: bool = False) -> str:
        return bytes(i for i in ids if i != END or special).decode("utf-8", "replace")


def answer(text_before: int = 1, most: int = 64, **more: Any) -> tuple[str, list[Any]]:
    job = Job(tuple(BYTES[:1] * text_before), most, more.pop("sampling", Sampling()), **more)
    steps = list(generate(Decoder(Successors()), Bytes(), (END,), job))  # type: ignore[arg-type]
    return "".join(step.text for step in steps), steps


def test_the_answer_ends_at_a_token_that_ends_it() -> None:
    text, steps = answer()
    assert text == TEXT
    assert (steps[-1].token, steps[-1].finish) == (END, "stop")
    assert [step.finish for step in steps[:-1]] == [None] * (len(steps) - 1)


def test_characters_appear_whole() -> None:
    _, steps = answer()
    assert "🙂" in [step.text for step in steps]
    assert not any("\ufffd" in step.text for step in steps)


def test_a_character_that_is_cut_off_is_shown_at_the_end() -> None:
    text, steps = answer(most=len("abcdefgh. Ü€".encode()) + 1)
    assert text == "abcdefgh. Ü€\ufffd"
    assert steps[-1].finish == "length"


@pytest.mark.parametrize(
    ("stop", "expected", "finish"),
    [
        (("de",), "abc", "stop"),
        (("Ü€",), "abcdefgh. ", "stop"),
        (("h. x", "gh"), "abcdef", "stop"),
        (("xyz",), TEXT, "stop"),
        (("🙂🙂",), TEXT, "stop"),
    ],
)
def test_a_text_that_stops_is_no_part_of_the_answer(stop: tuple[str, ...], expected: str, finish: str) -> None:
    text, steps = answer(stop=stop)
    assert (text, steps[-1].finish) == (expected, finish)


def test_what_may_become_a_stop_is_held_back() -> None:
    _, steps = answer(stop=("cdx",))
    shown = [step.text for step in steps]
    assert shown[:5] == ["a", "b", "", "", "cde"]


def test_long_prompts_go_in_chunks_and_nothing_is_lost() -> None:
    session = Successors()
    job = Job(tuple(b"a" * 295), 3, Sampling())
    steps = list(generate(Decoder(session), Bytes(), (END,), job))  # type: ignore[arg-type]
    assert session.steps == [(128, 128), (128, 256), (39, 295), (1, 296), (1, 297)]
    expected = [[*BYTES, END][place % (len(BYTES) + 1)] for place in (294, 295, 296)]
    assert [step.token for step in steps] == expected


def test_a_cancelled_job_stops_before_the_next_step() -> None:
    session, calls = Successors(), iter([False, False, True])
    job = Job(tuple(b"a"), 50, Sampling())
    steps = list(generate(Decoder(session), Bytes(), (END,), job, lambda: next(calls)))  # type: ignore[arg-type]
    assert (len(steps), steps[-1].finish) == (2, "cancelled")
    assert len(session.steps) == 2


def test_the_most_likely_tokens_are_reported_in_order() -> None:
    _, steps = answer(most=1, top=3)
    (first,) = steps
    assert len(first.top) == 3 and first.top[0] == (first.token, pytest.approx(first.logprob))
    assert sorted((odds for _, odds in first.top), reverse=True) == [odds for _, odds in first.top]


# sampling


def test_log_probabilities_are_of_one_distribution() -> None:
    logits = np.array([1.0, 2.0, 3.0, 1e4], np.float32)
    assert np.exp(log_probabilities(logits)).sum() == pytest.approx(1.0)


def test_a_seed_repeats_and_another_differs() -> None:
    logits = np.random.default_rng(0).normal(size=100).astype(np.float32)

    def drawn(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.0, seed=seed)
        chance = sampling.generator()
        return [choose(logits, sampling, chance, ()) for _ in range(50)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_filters_leave_the_likely_ones() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    def found(**members: Any) -> set[int]:
        sampling = Sampling(temperature=1.0, seed=0, **members)
        chance = sampling.generator()
        return {choose(logits, sampling, chance, ()) for _ in range(400)}

    assert found() == {0, 1, 2, 3}
    assert found(top_k=2) == {0, 1}
    assert found(top_p=0.75) == {0, 1}
    assert found(top_p=0.0) == {0}


def test_a_penalty_makes_repetition_less_likely() -> None:
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    chance = Sampling().generator()
    assert choose(logits, Sampling(repetition_penalty=2.0), chance, {0}) == 1
    assert choose(logits, Sampling(), chance, {0}) == 0
    assert logits[0] == 2.0


def test_sampling_is_that_of_transformers() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    logits = np.random.default_rng(5).normal(size=64).astype(np.float32)
    scores = torch.tensor(logits)[None] / 0.7
    scores = transformers.TopKLogitsWarper(12)(None, scores)
    scores = transformers.TopPLogitsWarper(0.8)(None, scores)
    kept = set(torch.isfinite(scores[0]).nonzero().flatten().tolist())
    sampling = Sampling(temperature=0.7, top_k=12, top_p=0.8, seed=0)
    chance = sampling.generator()
    drawn = {choose(logits, sampling, chance, ()) for _ in range(4000)}
    assert drawn == kept


def test_a_stream_adds_up_to_the_whole_text() -> None:
    stream = Stream(Bytes())  # type: ignore[arg-type]
    assert "".join([*(stream.add(byte) for byte in BYTES), stream.finish()]) == TEXT


# templates

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<b>Yes</b>"}]


def test_a_template_is_rendered_as_transformers_does() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n"
        "  {%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% continue %}{% endif %}\n"
        "[{{ m.role }}] {{ m.content | tojson }}{{ loop.last }}\n{% endfor %}"
        "{%- if add_generation_prompt %}{{ '>' * 3 }}{% endif %}"
    )
    transformers = pytest.importorskip("transformers")
    from tests.support import language_models

    theirs = language_models.tokenizer()
    theirs.chat_template = source
    theirs.bos_token = "<|end|>"
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert transformers and Template(source, bos="<|end|>").render(CHAT) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 999999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x.replace('x', 'xxxxxxxx') %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('system messages are not supported') }}",
        "{% for m in messages %}",
    ],
)
def test_a_template_that_does_harm_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="template"):
        Template(source).render(CHAT)


def test_the_turns_of_all_loops_count_together() -> None:
    rows = int(MAX_TURNS**0.5) + 2
    source = f"{{% for a in range({rows}) %}}{{% for b in range({rows}) %}}{{% endfor %}}{{% endfor %}}"
    with pytest.raises(TemplateError, match="turns"):
        Template(source).render(CHAT)


# settings

ABOUT = {
    "task": "text-generation",
    "architecture": "LlamaForCausalLM",
    "vocabulary": 512,
    "context": 256,
    "special": {"bos": None, "eos": [0, 3], "pad": 0},
    "cache": {"layers": 2, "bytes": 512},
    "tokenizer": "sha256:" + "a" * 64,
    "template": None,
    "sampling": {"temperature": 0.7},
}


def test_settings_go_to_json_and_back() -> None:
    assert Generation.from_json(ABOUT).to_json() == ABOUT


@pytest.mark.parametrize(
    "change",
    [
        {"task": "translation"},
        {"vocabulary": 0},
        {"context": True},
        {"special": {"bos": None, "eos": [512], "pad": 0}},
        {"special": {"bos": None, "eos": 0, "pad": 0}},
        {"special": []},
        {"cache": {"layers": 2}},
        {"tokenizer": "sha256:"},
        {"template": "x"},
        {"sampling": {"beams": 4}},
        {"sampling": {"temperature": -1}},
        {"architecture": "../x"},
        {"more": 1},
    ],
)
def test_settings_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Generation.from_json({**ABOUT, **change})
