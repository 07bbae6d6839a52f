# SPDX-License-Identifier: Apache-2.0
"""Compare an image pipeline with the source's own processor: pixel by pixel, then answer by answer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.pipelines.compare import Run, compare_pairs
from packager.pipelines.compare_scenes import compare_boxes, compare_regions
from packager.pipelines.pictures import draw_pictures, open_picture
from packager.pipelines.source import Own
from packager.server.errors import RequestError
from packager.server.pipeline.parts import Boxes, Choices, Classes, Image, Regions
from packager.server.pipeline.pipeline import Pipeline

MOST = 1.0  # of 255: what two libraries that round a resized pixel may differ by
_ROWS = 12
_STEPS = 1000  # parts of a level that the largest difference is rounded up to


def compare_pixels(pipeline: Pipeline, processor: Any, seed: int) -> JSON:
    """Return how many pictures were compared, and the largest difference. Raises StepError that names the picture."""
    about, count, largest = pipeline.about.image, 0, 0.0
    if about is None:
        raise StepError("the pipeline takes no images")
    for name, data in draw_pictures(seed):
        expected = _theirs(processor, data)
        if expected is None:
            _check_refused(pipeline, name, data, "the source's processor refuses it")
            continue
        gap = _gap(about, name, expected, pipeline.pixels(data))
        if gap > MOST:
            raise _other_pixels(name, f"a pixel differs by {gap:.3g} of 255")
        largest, count = max(largest, gap), count + 1
        if len(data) > _SMALL:  # a decoder may read the few pixels of a tiny one from half of it
            _check_refused(pipeline, name, data[: len(data) // 2], "half of its file is taken for a whole image")
    return {"inputs": count, "largest": math.ceil(largest * _STEPS - 0.01) / _STEPS}


def _gap(about: Image, name: str, expected: Any, got: Any) -> float:
    """Return the largest difference of two pictures, in levels of 255."""
    numpy = importlib.import_module("numpy")
    if expected.shape != got.shape:
        raise _other_pixels(name, f"expected the shape {list(expected.shape)}, got {list(got.shape)}")
    levels = abs(expected.astype("float64") - got.astype("float64"))
    if about.deviation:
        levels *= numpy.array(about.deviation)[:, None, None]
    return float(levels.max(initial=0.0) / (about.scale or 1.0))


def _theirs(processor: Any, data: bytes) -> Any:
    """Return the pixels of the source's processor; None for a picture that it does not take."""
    try:
        return processor(images=open_picture(data), return_tensors="np")["pixel_values"][0]
    except ValueError:
        return None


def _check_refused(pipeline: Pipeline, name: str, data: bytes, otherwise: str) -> None:
    try:
        pipeline.pixels(data)
    except RequestError:
        return
    raise _other_pixels(name, otherwise)


_SMALL = 8192  # bytes


def _other_pixels(name: str, said: str) -> StepError:
    return StepError(
        f"the pipeline makes other pixels of the image `{name}` than the source's processor: {said}",
        hint="the processor does what is not known here; remove `pipeline` from the recipe",
    )


def compare_answers(
    pipeline: Pipeline, own: Own, processor: Any, run: Run, bounds: Mapping[str, float], seed: int
) -> JSON:
    """Return how many answers were compared, and the largest difference of a score. Raises StepError."""
    pairs = _pairs
    if isinstance(pipeline.about.answer, Choices):
        pairs = _choices
    elif isinstance(pipeline.about.answer, Boxes):
        pairs = compare_boxes
    elif isinstance(pipeline.about.answer, Regions):
        pairs = compare_regions
    return compare_pairs(pairs(pipeline, own, processor, run, seed), bounds)


def _pairs(pipeline: Pipeline, own: Own, processor: Any, run: Run, seed: int) -> Iterator[tuple[str, Any, Any]]:
    answer = pipeline.about.answer
    labels = answer.labels if isinstance(answer, Classes) else ()
    theirs, names = own.pipeline("image-classification", image_processor=processor), own.labels()
    listed = list(draw_pictures(seed))
    for name, data in listed[:: max(1, len(listed) // _ROWS)]:
        prepared = pipeline.prepare([{"image": data}])
        found = pipeline.answers(run(prepared.feeds), prepared, len(labels))[0]
        wanted = theirs(open_picture(data), top_k=len(names))
        scores = {item["label"]: item["score"] for item in wanted}
        own_scores = {item["label"]: item["score"] for item in found}
        yield f"image {name}", [scores[label] for label in names], [own_scores[label] for label in labels]


def _choices(pipeline: Pipeline, own: Own, processor: Any, run: Run, seed: int) -> Iterator[tuple[str, Any, Any]]:
    answer = pipeline.about.answer
    if not isinstance(answer, Choices):
        raise StepError("the pipeline answers no choices")
    labels = list(answer.labels or _LABELS)
    theirs = own.pipeline("zero-shot-image-classification", image_processor=processor, tokenizer=own.tokenizer())
    listed = list(draw_pictures(seed))
    for name, data in listed[:: max(1, len(listed) // _ROWS)]:
        prepared = pipeline.prepare([{"image": data, "labels": labels}])
        found = pipeline.answers(run(prepared.feeds), prepared, len(labels))[0]
        wanted = theirs(open_picture(data), candidate_labels=labels, hypothesis_template=answer.template)
        scores, own_scores = ({item["label"]: item["score"] for item in side} for side in (wanted, found))
        yield f"image {name}", [scores[label] for label in labels], [own_scores[label] for label in labels]


_LABELS = ("a cat", "two dogs", "naïve 東京", "a very long day by the sea")
