# SPDX-License-Identifier: Apache-2.0
"""Compare boxes and regions of pictures with what the source's image processor makes of the source's own results."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from packager.errors import StepError
from packager.pipelines.compare import Run, other_answer
from packager.pipelines.pictures import draw_pictures, open_picture
from packager.pipelines.source import Own
from packager.server.errors import RequestError
from packager.server.pipeline import scenes
from packager.server.pipeline.parts import Boxes, Regions
from packager.server.pipeline.pipeline import Pipeline

_ROWS = 12
_TIE = 1e-5  # of scores: those that are nearer may stand the other way round
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Picture(NamedTuple):
    """A picture by name with its height and width, the source's results on its own pixels, and ours."""

    name: str
    size: tuple[int, int]
    theirs: Any
    ours: Any


def _shown(pipeline: Pipeline, own: Own, processor: Any, run: Run, seed: int) -> Iterator[_Picture]:
    torch, model = importlib.import_module("torch"), own.model()
    listed = list(draw_pictures(seed))
    for name, data in listed[:: max(1, len(listed) // _ROWS)]:
        try:
            prepared = pipeline.prepare([{"image": data}])
        except RequestError:
            continue  # of a size that the graph does not take
        with torch.no_grad():
            theirs = model(**processor(images=open_picture(data), return_tensors="pt"))
        yield _Picture(f"image {name}", prepared.sizes[0], theirs, run(prepared.feeds))


def compare_boxes(pipeline: Pipeline, own: Own, processor: Any, run: Run, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield the scores of every query, then its corners as parts of the picture. Raises StepError for a label.

    Pictures in which a near tie decides what the queries are (RT-DETR) are left out; if there are no others, that is an
    error too.
    """
    answer = pipeline.about.answer
    if not isinstance(answer, Boxes):
        raise StepError("the pipeline answers no boxes")
    numpy = importlib.import_module("numpy")
    everything = replace(answer, threshold=-1.0)
    shown, tied = 0, 0
    for one in _shown(pipeline, own, processor, run, seed):
        shown, tied = shown + 1, tied + _is_open(one.theirs)
        if _is_open(one.theirs):
            continue
        height, width = one.size
        (wanted,) = processor.post_process_object_detection(one.theirs, threshold=-1.0, target_sizes=[one.size])
        (found,) = scenes.find_things(everything, one.ours, [one.size])
        scores = wanted["scores"].numpy()
        yield one.name, scores, [item["score"] for item in found]
        sure = _sure(answer, one.theirs, scores)
        boxes = numpy.array([[item[corner] for corner in _CORNERS] for item in found])
        parts = numpy.array([width, height, width, height])
        yield one.name, (wanted["boxes"].numpy() / parts)[sure[0]], (boxes / parts)[sure[0]]
        for index in sure[1].nonzero()[0]:
            expected = answer.labels[int(wanted["labels"][index])]
            if expected != found[index]["label"]:
                raise other_answer(one.name, f"expected `{expected}`, got `{found[index]['label']}`")
    if tied and tied == shown:
        raise StepError(
            "the model gives one score to all places of every picture that was compared, so which of them it looks at "
            "is open: another runtime chooses others",
            hint="its weights are not trained; train it, or remove `pipeline` from the recipe",
        )


def _is_open(theirs: Any) -> bool:
    """Return whether a near tie of the encoder's scores decides which places become queries."""
    scores = getattr(theirs, "enc_outputs_class", None)
    if scores is None or scores.shape[1] <= theirs.logits.shape[1]:
        return False
    best = scores[0].max(-1).values.sort(descending=True).values
    last, next_one = best[theirs.logits.shape[1] - 1], best[theirs.logits.shape[1]]
    return bool(last - next_one <= _TIE)


def _sure(answer: Boxes, theirs: Any, scores: Any) -> tuple[Any, Any]:
    """Return which places in the list have a box, and which a label, that no near tie decides."""
    numpy = importlib.import_module("numpy")
    if answer.function == "softmax":  # the list is that of the queries
        best = theirs.logits[0].softmax(-1)[:, :-1].topk(min(2, theirs.logits.shape[-1] - 1), -1).values.numpy()
        return numpy.ones(len(scores), bool), best[:, 0] - best[:, -1] > _TIE if best.shape[1] > 1 else best[:, 0] >= 0
    gaps = numpy.concatenate([[1.0], scores[:-1] - scores[1:], [1.0]]) > _TIE
    return gaps[:-1] & gaps[1:], gaps[:-1] & gaps[1:]


def compare_regions(
    pipeline: Pipeline, own: Own, processor: Any, run: Run, seed: int
) -> Iterator[tuple[str, Any, Any]]:
    """Yield, for the pixels whose label is another one, the source's scores of its label and of ours."""
    answer = pipeline.about.answer
    if not isinstance(answer, Regions):
        raise StepError("the pipeline answers no regions")
    torch, numpy = importlib.import_module("torch"), importlib.import_module("numpy")
    for one in _shown(pipeline, own, processor, run, seed):
        (wanted,) = processor.post_process_semantic_segmentation(one.theirs, target_sizes=[one.size])
        found = scenes.label_pixels(one.ours[answer.output][0], one.size)
        if tuple(wanted.shape) != found.shape:
            raise other_answer(one.name, f"expected a mask of {list(wanted.shape)}, got {list(found.shape)}")
        scores = torch.nn.functional.interpolate(one.theirs.logits, size=one.size, mode="bilinear")[0].numpy()
        rows, columns = numpy.nonzero(wanted.numpy() != found)
        expected = scores[wanted.numpy()[rows, columns], rows, columns]
        yield one.name, expected, scores[found[rows, columns], rows, columns]
