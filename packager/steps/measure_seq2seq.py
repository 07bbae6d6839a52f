# SPDX-License-Identifier: Apache-2.0
"""Measure an encoder-decoder: both graphs, our loop, beams, tokenizer and features against what the source answered.

Every prompt is one case. The source's own tokens are fed to the artefact one by one; the answer with beams is searched
anew. A last case runs two texts of unequal length as one batch. The source is not opened here: its answers are files.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import canonical, error_causes
from packager.canonical import JSON
from packager.errors import StepError
from packager.formats import safetensors
from packager.steps import _answers, _compare
from packager.steps._seq2seq import open_site

VERSION = 1  # 1: first form
ANSWER = _answers.MEASURE_GENERATION
OUTPUTS = ("beams", "features", "logits", "prompt_ids", "text", "tokens")
"""What is compared of a prompt: the answer with beams, the features of audio, and as of a decoder the other four."""
_LIMIT = 64 << 20
_SHORT = 128  # tokens of a source that goes into the batch


@dataclass(frozen=True, slots=True)
class _Site:
    """What a site has: the graphs, the tokenizer, and what the contract says; the reference besides."""

    model: Any
    tokenizer: Any
    about: Any
    steps: int
    folder: Path


@dataclass(frozen=True, slots=True)
class _Expected:
    prompt: Mapping[str, JSON]
    answer: Mapping[str, JSON]
    logits: Any
    features: Any


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Compare the artefact `path` of the tree `artefact`, with the files of `graph`, to the tree `reference`."""
    model, tokenizer, about = open_site(inputs, params)
    expected, steps = _read(inputs["reference"])
    site = _Site(model, tokenizer, about, steps, inputs["reference"])
    return {"cases": [*(_case(site, item) for item in expected), *_batched(site, expected)]}


def _read(folder: Path) -> tuple[list[_Expected], int]:
    document = canonical.load((folder / "prompts.json").read_bytes(), limit=_LIMIT)
    answers = canonical.load((folder / "outputs.json").read_bytes(), limit=_LIMIT)["prompts"]
    tensors = safetensors.parse((folder / "logits.safetensors").read_bytes())
    numpy = importlib.import_module("numpy")

    def tensor(name: str) -> Any:
        _, shape, data = tensors[name]
        return numpy.frombuffer(data, "<f4").reshape(shape)

    found = []
    for prompt, answer in zip(document["prompts"], answers, strict=True):
        name = prompt["name"]
        features = tensor(f"features {name}") if f"features {name}" in tensors else None
        found.append(_Expected(prompt, answer, tensor(name), features))
    return found, document["steps"]


def _case(site: _Site, item: _Expected) -> JSON:
    numpy = importlib.import_module("numpy")
    prompt, tokens, start = item.prompt, item.answer["tokens"], item.prompt["start"]
    nothing = _compare.compare(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64))
    features, of_features, of_ids = None, nothing, nothing
    if "audio" in prompt:
        features = _features(site, prompt["audio"])
        of_features = _compare.compare(item.features[None], features[None])
    else:
        made = site.tokenizer.encode(prompt["text"], special=prompt["special"])
        of_ids = _compare.compare_exactly(numpy.array(prompt["ids"]), numpy.array(made, dtype=numpy.int64))
    try:
        cache = _encoded(site, prompt, features)
        logits, own = _forced(site, cache, start, tokens)
        of_beams = _beams(site, _encoded(site, prompt, features), item) if "beams" in item.answer else nothing
    except Exception as error:  # each runtime has its own tree of exceptions
        cause = error_causes.find_cause(error)
        raise StepError(
            f"the artefact fails on a prompt that the source answers (`{prompt['name']}`): {cause}"
        ) from error
    gaps = abs(item.logits[numpy.arange(len(tokens)), tokens] - item.logits[numpy.arange(len(tokens)), own])
    outputs = {
        "beams": of_beams,
        "features": of_features,
        "logits": _compare.compare(item.logits[None], logits[None]),
        "prompt_ids": of_ids,
        "text": _compare.compare_exactly(
            *(numpy.array([t], object) for t in (item.answer["text"], site.tokenizer.decode(tokens)))
        ),
        "tokens": _compare.compare(numpy.array(tokens), own, gaps),
    }
    length = len(start) + len(tokens)
    lengths = {"batch": 1, "sequence": len(start), "past": length - 1, "total": length}
    lengths |= {"source": len(prompt["ids"])} if features is None else {}
    return {"name": f"prompt {prompt['name']}", "fill": "prompt", "lengths": lengths, "outputs": outputs}


def _features(site: _Site, path: str) -> Any:
    audio = importlib.import_module("packager.server.generation.audio")
    about = site.about.audio
    samples, rate = audio.read_wav((site.folder / path).read_bytes(), about.seconds)
    return audio.log_mel(audio.resample(samples, rate, about.rate), about)


def _encoded(site: _Site, prompt: Mapping[str, JSON], features: Any) -> Any:
    numpy = importlib.import_module("numpy")
    if features is not None:
        return site.model.read_audio(features[None])
    return site.model.read_texts(numpy.array([prompt["ids"]], numpy.int64))


def _forced(site: _Site, cache: Any, start: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Any]:
    """Return the logits behind the start and behind every token but the last, and the best token of each."""
    numpy = importlib.import_module("numpy")
    rules = importlib.import_module("packager.server.generation.rules")
    about, rows, best, sequence, ids = site.about, [], [], list(start), list(start)
    penalty, most = about.sampling.get("repetition_penalty", 1.0), len(start) + site.steps
    for token in tokens:
        rows.append(site.model.step(numpy.array([ids], numpy.int64), cache)[0, -1])
        scores = rules.allowed(rows[-1], about.decoding.rules, about.eos, sequence, len(start), most, penalty)
        best.append(int(scores.argmax()))
        sequence.append(token)
        ids = [token]
    return numpy.stack(rows), numpy.array(best)


def _beams(site: _Site, cache: Any, item: _Expected) -> JSON:
    """Search with beams; another answer ties where its score differs from the source's by no more than the tolerance.

    Scores are divided by lengths, so the difference is multiplied by that of the answer.
    """
    numpy = importlib.import_module("numpy")
    beams = importlib.import_module("packager.server.generation.beams")
    about, expected, start = site.about, item.answer["beams"], item.prompt["start"]
    penalty, most = about.sampling.get("repetition_penalty", 1.0), len(start) + site.steps
    found = beams.search(
        site.model,
        cache,
        about.decoding,
        start,
        about.eos,
        most,
        lambda: False,
        beams=about.decoding.beams,
        penalty=penalty,
    )
    left, right = list(expected["tokens"]), list(found.tokens)
    width = max(len(left), len(right))
    gap = abs(expected["score"] - found.score) * width**about.decoding.length_penalty
    wanted, got = (numpy.array([*tokens, *[-1] * (width - len(tokens))], numpy.int64) for tokens in (left, right))
    return _compare.compare(wanted, got, numpy.full(width, gap))


def _batched(site: _Site, expected: Sequence[_Expected]) -> list[JSON]:
    """Run the shortest and the longest of the short texts as one batch, padded on the right, if there are two."""
    numpy = importlib.import_module("numpy")
    short = [item for item in expected if 0 < len(item.prompt["ids"]) <= _SHORT]
    short.sort(key=lambda item: len(item.prompt["ids"]))
    if len(short) < 2:
        return []
    pair = (short[0], short[-1])
    width = len(pair[1].prompt["ids"])
    ids, mask = numpy.zeros((2, width), numpy.int64), numpy.zeros((2, width), numpy.int64)
    for row, item in enumerate(pair):
        own = item.prompt["ids"]
        ids[row, : len(own)], mask[row, : len(own)] = own, 1
    start = pair[0].prompt["start"]
    logits = site.model.step(numpy.array([start, start], numpy.int64), site.model.read_texts(ids, mask))[:, -1]
    nothing = _compare.compare(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64))
    wanted = numpy.stack([item.logits[0] for item in pair])
    outputs = {**dict.fromkeys(OUTPUTS, nothing), "logits": _compare.compare(wanted[:, None], logits[:, None])}
    lengths = {"batch": 2, "sequence": len(start), "past": 1, "total": len(start), "source": width}
    name = f"prompts {pair[0].prompt['name']} and {pair[1].prompt['name']} in one batch"
    return [{"name": name, "fill": "prompt", "lengths": lengths, "outputs": outputs}]
