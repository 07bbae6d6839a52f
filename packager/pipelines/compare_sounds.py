# SPDX-License-Identifier: Apache-2.0
"""Compare a pipeline of sound with the source's own feature extractor: number by number, then answer by answer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.pipelines.compare import Run, compare_pairs
from packager.pipelines.source import Own
from packager.server.pipeline.parts import Classes
from packager.server.pipeline.pipeline import Pipeline

MOST = 1e-3  # of features, whose deviation is about 1
_LENGTHS = (0.05, 0.2, 0.5, 1.0, 1.7, 3.0)  # seconds; lengths that the graph does not take are left out
_PARTS = 1_000_000  # of one that the largest difference is rounded up to


def draw_sounds(rate: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Yield names and samples in [-1, 1]: noise, tones, silence, clipping, a click, and an offset."""
    numpy = importlib.import_module("numpy")
    draw = numpy.random.default_rng(seed)
    for seconds in _LENGTHS:
        count = round(seconds * rate)
        time = numpy.arange(count) / rate
        made = {
            "noise": draw.normal(0, 0.1, count),
            "tone": 0.5 * numpy.sin(2 * numpy.pi * 440 * time),
            "rising tone": 0.5 * numpy.sin(2 * numpy.pi * (100 + 0.4 * rate * time / seconds) * time),
            "silence": numpy.zeros(count),
            "clipped noise": draw.normal(0, 3, count).clip(-1, 1),
            "click": (numpy.arange(count) == count // 2) * 1.0,
            "offset": 0.3 + draw.normal(0, 0.01, count),
        }
        for name, samples in made.items():
            yield f"{name} of {seconds} s", samples.astype("float32")


def compare_features(pipeline: Pipeline, extractor: Any, seed: int) -> JSON:
    """Return how many sounds were compared, and the largest difference. Raises StepError that names the sound."""
    numpy = importlib.import_module("numpy")
    count, largest, rate = 0, 0.0, int(extractor.sampling_rate)
    for name, samples in draw_sounds(rate, seed):
        expected = extractor(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        got = pipeline.features(samples)
        if expected.shape != got.shape:
            raise _other(name, f"expected the shape {list(expected.shape)}, got {list(got.shape)}")
        gap = float(abs(numpy.asarray(expected, "float64") - got).max())
        if not gap <= MOST:
            raise _other(name, f"a number differs by {gap:.3g}")
        largest, count = max(largest, gap), count + 1
    return {"inputs": count, "largest": math.ceil(largest * _PARTS) / _PARTS}


def _other(name: str, said: str) -> StepError:
    return StepError(
        f"the pipeline makes other features of the sound `{name}` than the source's extractor: {said}",
        hint="the extractor does what is not known here; remove `pipeline` from the recipe",
    )


def compare_answers(
    pipeline: Pipeline, own: Own, extractor: Any, run: Run, bounds: Mapping[str, float], seed: int
) -> JSON:
    """Return how many answers were compared, and the largest difference of a score. Raises StepError."""
    return compare_pairs(_pairs(pipeline, own, extractor, run, seed), bounds)


def _pairs(pipeline: Pipeline, own: Own, extractor: Any, run: Run, seed: int) -> Iterator[tuple[str, Any, Any]]:
    answer = pipeline.about.answer
    labels = answer.labels if isinstance(answer, Classes) else ()
    theirs, names = own.pipeline("audio-classification", feature_extractor=extractor), own.labels()
    for name, samples in draw_sounds(int(extractor.sampling_rate), seed):
        prepared = pipeline.prepare_samples([samples])
        if prepared is None:
            continue
        scores = {item["label"]: item["score"] for item in theirs(samples, top_k=len(names))}
        own_scores = {
            item["label"]: item["score"] for item in pipeline.answers(run(prepared.feeds), prepared, len(labels))[0]
        }
        yield f"sound {name}", [scores[label] for label in names], [own_scores[label] for label in labels]
