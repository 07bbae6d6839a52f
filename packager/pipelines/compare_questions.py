# SPDX-License-Identifier: Apache-2.0
"""Compare answers to questions with the source's own: the windows of tokens, then the passages.

transformers 5 has no pipeline for questions any more. What is compared with is its tokenizer, its model and
`select_starts_ends`, put together as its pipeline did it until 4.57.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from packager.errors import StepError
from packager.pipelines.compare import Run, other_answer, other_tokens
from packager.pipelines.source import Own
from packager.pipelines.strings import draw_strings
from packager.server.pipeline.parts import Passages
from packager.server.pipeline.pipeline import Pipeline

_ROWS = 48
_QUESTIONS = ("who sat?", "东京?", "¿años?", "why 🙂?")  # few tokens: beside longer ones small windows have no room
_TIE = 1e-3  # part of a score: passages that are nearer to each other say nothing about which one is right
_PIECES = 6  # strings of a text of several windows


def draw_questions(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield questions and texts: hostile strings alone, and some of them together."""
    drawn = [text for text in draw_strings(2 * count + _PIECES, seed) if text and len(text) < 2000]
    for index in range(count):
        size = _PIECES if index % 3 == 0 else 1
        start = (2 * index) % (len(drawn) - size)
        yield _QUESTIONS[index % len(_QUESTIONS)], " ".join(drawn[start : start + size])


def compare_windows(pipeline: Pipeline, tokenizer: Any, count: int, seed: int) -> int:
    """Return how many pairs have equal windows in both tokenizers. Raises StepError for the first that has others."""
    for pair in draw_questions(count, seed):
        expected = [list(part.ids) for part in _encoded(pipeline, tokenizer, pair)]
        got = [window.ids.tolist() for window in pipeline.windows(*pair)]
        if expected != got:
            wrong = next((index for index, own in enumerate(zip(expected, got, strict=False)) if own[0] != own[1]), 0)
            raise other_tokens(tokenizer, pair[1], expected[wrong], got[wrong])
    return count


def _encoded(pipeline: Pipeline, tokenizer: Any, pair: tuple[str, str]) -> Sequence[Any]:
    about = pipeline.about.text
    if about is None or about.overlap is None:
        raise StepError("the pipeline has no windows")
    made = tokenizer(
        *pair,
        truncation="only_second",
        max_length=about.longest,
        stride=about.overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    encoded: Sequence[Any] = made.encodings
    return encoded


def compare_passages(
    pipeline: Pipeline, answer: Passages, own: Own, tokenizer: Any, run: Run, seed: int
) -> Iterator[tuple[str, Any, Any]]:
    """Yield texts with the score of the source's best passage and ours. Raises StepError for another passage."""
    model = own.model()
    for pair in draw_questions(_ROWS, seed):
        prepared = pipeline.prepare([{"question": pair[0], "context": pair[1]}])
        found = pipeline.answers(run(prepared.feeds), prepared, 2)[0]
        places = [_expected(answer, model, tokenizer, part) for part in _encoded(pipeline, tokenizer, pair)]
        start, end, score = max(places, key=lambda place: place[2])
        ours = [item for item in found if item["text"] or not answer.impossible]
        if not ours:
            continue  # a text without a token
        tied = len(ours) > 1 and ours[0]["score"] - ours[1]["score"] <= _TIE * ours[0]["score"]
        if (start, end) != (ours[0]["start"], ours[0]["end"]) and not tied:
            raise other_answer(pair[1], f"expected {start} to {end}, got {ours[0]['start']} to {ours[0]['end']}")
        yield pair[1], [score], [ours[0]["score"]]


def _expected(answer: Passages, model: Any, tokenizer: Any, part: Any) -> tuple[int, int, float]:
    """Return the best passage of a window by the library's own functions."""
    torch, numpy = importlib.import_module("torch"), importlib.import_module("numpy")
    select = importlib.import_module("transformers.pipelines.document_question_answering").select_starts_ends
    feeds = {"input_ids": part.ids, "attention_mask": part.attention_mask}
    if "token_type_ids" in tokenizer.model_input_names:
        feeds["token_type_ids"] = part.type_ids
    with torch.no_grad():
        results = model(**{name: torch.tensor([values]) for name, values in feeds.items()})
    sides = zip(part.sequence_ids, part.ids, strict=True)
    outside = numpy.array([int(side != 1 and token != answer.null) for side, token in sides])
    starts, ends, scores, _ = select(
        results.start_logits.numpy(),
        results.end_logits.numpy(),
        outside,
        numpy.array(part.attention_mask),
        top_k=1,
        max_answer_len=answer.longest,
    )
    if not len(starts):
        return 0, 0, 0.0
    return _word(part, int(starts[0]))[0], _word(part, int(ends[0]))[1], float(scores[0])


def _word(part: Any, token: int) -> tuple[int, int]:
    """Return where the word of a token lies in the text."""
    word = part.token_to_word(token)
    place: tuple[int, int] = part.offsets[token] if word is None else part.word_to_chars(word, 1)
    return place
