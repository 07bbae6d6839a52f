# SPDX-License-Identifier: Apache-2.0
"""Compare a derived pipeline with the source's own: token ids must be equal, answers within a tolerance.

The first difference ends the build and names the input: a tokenizer that differs for one string in a thousand answers
wrongly without a word.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import SourceModel
from packager.pipelines.source import Own, token_ids
from packager.pipelines.strings import draw_strings
from packager.server.pipeline.parts import Classes, Embedding, Spans
from packager.server.pipeline.pipeline import Pipeline
from packager.server.pipeline.prepared import Prepared

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]
ROWS = 48  # texts whose answers are compared
_BATCH = 8
_CHUNK = 256
_SHOWN = 60  # characters of a text in a message
_TIE = 1e-4  # two scores that are nearer say nothing about which label is right


def compare_tokens(pipeline: Pipeline, tokenizer: Any, count: int, seed: int) -> int:
    """Return how many texts have equal ids in both tokenizers. Raises StepError for the first that has others."""
    about = pipeline.about.text
    if about is None:
        raise StepError("the pipeline has no tokenizer")
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", ())]
    for chunk in _chunks(draw_strings(count, seed, special), _CHUNK):
        expected = token_ids(tokenizer, chunk, about.longest)
        for text, own, row in zip(chunk, expected, pipeline.tokens(chunk), strict=True):
            if own != row.ids.tolist():
                raise other_tokens(tokenizer, text, own, row.ids.tolist())
    return count


def other_tokens(tokenizer: Any, text: str, expected: Sequence[int], got: Sequence[int]) -> StepError:
    """Return the error about a text that has other ids, with the first that differ."""
    length = min(len(expected), len(got))
    first = next((index for index in range(length) if expected[index] != got[index]), length)
    span = slice(max(0, first - 2), first + 6)
    return StepError(
        f"the tokenizer gives other ids for {show_text(text)} than the source's `{type(tokenizer).__name__}`: "
        f"expected {list(expected[span])}, got {list(got[span])} from token {span.start} on",
        hint="`tokenizer.json` and `tokenizer_config.json` contradict each other: load the tokenizer with the class it "
        "was made with and save it again with `save_pretrained`, or remove `pipeline` from the recipe",
    )


def show_text(text: str) -> str:
    """Return a text in backticks, cut, with every character that does not print as its code."""
    cut = text[:_SHOWN]
    printed = "".join(
        character if character == " " or unicodedata.category(character)[0] in "LNPS" else f"\\u{{{ord(character):x}}}"
        for character in cut
    )
    return f"`{printed}`" + (f" ({len(text)} characters)" if len(text) > _SHOWN else "")


def answer_texts(seed: int) -> list[str]:
    """Return the texts whose answers are compared: short and long ones, none twice."""
    drawn = [text for text in draw_strings(40 * ROWS, seed) if len(text) < 4000]
    plain = ["A small cat sits on the mat.", "", "Stock prices fell sharply on Monday.", "naïve Überraschung 東京 🙂"]
    return list(dict.fromkeys([*plain, *drawn[:: len(drawn) // ROWS]]))[:ROWS]


def compare_answers(
    pipeline: Pipeline, own: Own, tokenizer: Any, source: SourceModel, run: Run, bounds: Mapping[str, float], seed: int
) -> JSON:
    """Return how many rows were compared and the largest difference. Raises StepError for a row beyond the bounds."""
    answer, texts = pipeline.about.answer, answer_texts(seed)
    if isinstance(answer, Embedding):
        pairs = _vectors(pipeline, answer, tokenizer, source, run, texts)
    elif isinstance(answer, Classes):
        pairs = _classes(pipeline, own, tokenizer, run, texts)
    elif isinstance(answer, Spans):
        pairs = _spans(pipeline, answer, own, tokenizer, run, texts)
    else:
        raise StepError(f"answers of `{pipeline.about.task}` are not compared here")
    return compare_pairs(pairs, bounds)


def compare_pairs(pairs: Iterable[tuple[str, Any, Any]], bounds: Mapping[str, float]) -> JSON:
    """Return how many pairs of scores were compared, and the largest difference. Raises StepError beyond the bounds."""
    largest, rows = 0.0, 0
    numpy = importlib.import_module("numpy")
    for text, expected, got in pairs:
        wanted, found = (numpy.asarray(side, numpy.float64) for side in (expected, got))
        if wanted.shape != found.shape:
            raise other_answer(text, f"expected {len(wanted)} scores, got {len(found)}")
        gap = abs(wanted - found)
        if bool((gap > bounds["atol"] + bounds["rtol"] * abs(wanted)).any()) or not numpy.isfinite(gap).all():
            raise other_answer(text, f"a score differs by {gap.max():.2g}")
        largest, rows = max(largest, float(gap.max(initial=0.0))), rows + 1
    return {"rows": rows, "max_abs": largest}


def other_answer(text: str, said: str) -> StepError:
    """Return the error about a text that has another answer."""
    return StepError(
        f"the pipeline answers {show_text(text)} otherwise than the source's own: {said}",
        hint="compare `pipeline` of the recipe with how the source is used: `function`, `labels`, `pooling`",
    )


def _prepared(pipeline: Pipeline, run: Run, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Prepared, Any]]:
    size = min(_BATCH, pipeline.most_rows or _BATCH)
    for chunk in _chunks(texts, size):
        prepared = pipeline.prepare(chunk)
        yield chunk, prepared, run(prepared.feeds)


def _vectors(
    pipeline: Pipeline, answer: Embedding, tokenizer: Any, source: SourceModel, run: Run, texts: Sequence[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield texts with the source's vector and ours: the source's own tokens, padding and pooling, in torch."""
    about, names = pipeline.about.text, [port.name for port in source.interface.inputs]
    for chunk, prepared, results in _prepared(pipeline, run, texts):
        made = tokenizer(
            list(chunk), padding=True, truncation=True, max_length=about.longest if about else None, return_tensors="np"
        )
        outputs = source.run({name: made[name].astype(prepared.feeds[name].dtype) for name in names})
        position = list(results).index(answer.output)
        vectors = _pooled(answer, outputs[position], made["attention_mask"])
        yield from zip(chunk, vectors, pipeline.vectors(results, prepared), strict=True)


def _pooled(answer: Embedding, values: Any, mask: Any) -> Any:
    """Pool and normalise in torch as sentence-transformers does."""
    torch = importlib.import_module("torch")
    found, weights = torch.from_numpy(values), torch.from_numpy(mask).unsqueeze(-1).float()
    if answer.pooling == "mean":
        found = (found * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    elif answer.pooling == "cls":
        found = found[torch.arange(len(found)), torch.from_numpy(mask).argmax(1)]
    return (torch.nn.functional.normalize(found, p=2, dim=-1) if answer.normalize else found).numpy()


def _classes(
    pipeline: Pipeline, own: Own, tokenizer: Any, run: Run, texts: Sequence[str]
) -> Iterator[tuple[str, Any, Any]]:
    about, answer = pipeline.about.text, pipeline.about.answer
    theirs = own.pipeline("text-classification", tokenizer=tokenizer, top_k=None)
    labels = answer.labels if isinstance(answer, Classes) else ()
    names = own.labels()  # another name may be in the recipe
    for chunk, prepared, results in _prepared(pipeline, run, texts):
        ours = pipeline.answers(results, prepared, len(labels))
        expected = theirs(list(chunk), truncation=True, max_length=about.longest if about else None)
        for text, wanted, found in zip(chunk, expected, ours, strict=True):
            scores = {item["label"]: item["score"] for item in wanted}
            own_scores = {item["label"]: item["score"] for item in found}
            yield text, [scores[name] for name in names], [own_scores[name] for name in labels]


def _spans(
    pipeline: Pipeline, answer: Spans, own: Own, tokenizer: Any, run: Run, texts: Sequence[str]
) -> Iterator[tuple[str, Any, Any]]:
    about = pipeline.about.text
    tokenizer.model_max_length = about.longest if about else tokenizer.model_max_length
    theirs = own.pipeline(
        "token-classification",
        tokenizer=tokenizer,
        aggregation_strategy=answer.grouping,
        ignore_labels=list(answer.outside),
    )
    renamed = dict(zip(own.labels(), answer.labels, strict=True))
    for chunk, prepared, results in _prepared(pipeline, run, texts):
        for index, (text, found) in enumerate(zip(chunk, pipeline.answers(results, prepared), strict=True)):
            if not text or _is_tied(results[answer.output][index]):
                continue  # transformers' pipeline takes no empty text; near ties may fall either way
            wanted = theirs(text)
            places = [(_kind(item, renamed), int(item["start"]), int(item["end"])) for item in wanted]
            if places != [(item["label"], item["start"], item["end"]) for item in found]:
                raise other_answer(text, f"expected {len(places)} spans {places[:2]}, got {len(found)}")
            yield text, [float(item["score"]) for item in wanted], [item["score"] for item in found]


def _kind(item: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    return str(item["entity_group"]) if "entity_group" in item else renamed[item["entity"]]


def _is_tied(logits: Any) -> bool:
    numpy = importlib.import_module("numpy")
    if logits.shape[-1] < 2:
        return False
    best = numpy.sort(logits, axis=-1)
    return bool(((best[..., -1] - best[..., -2]) < _TIE).any())


def _chunks(items: Any, size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
