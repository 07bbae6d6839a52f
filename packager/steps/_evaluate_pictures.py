# SPDX-License-Identifier: Apache-2.0
"""What a pipeline finds in pictures, held against what is there: regions by mean IoU, boxes by COCO's precision.

    miou            the intersection of two regions over their union in pixels, the mean over classes that appear
    map             the mean average precision of boxes, over classes and IoU from 0.50 to 0.95
    map@50, map@75  the same where a box counts from an IoU of 0.50 or 0.75

Pixels are counted by scikit-learn's confusion matrix, boxes by pycocotools. Of a run as much is kept as is counted.
Sources: COCO detection evaluation (cocodataset.org/#detection-eval); 255 is "not judged" as in PASCAL VOC.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.server.errors import RequestError
from packager.server.pipeline import scenes
from packager.server.pipeline.parts import Boxes, Regions

REGIONS, BOXES = ("miou",), ("map", "map@50", "map@75")
_IGNORED = 255
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_MASK = "a PNG of the picture's size in base64, whose pixels are numbers of labels"
_THINGS = 'a list like [{"label": "cat", "xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}]'
_STATISTICS = {"map": 0, "map@50": 1, "map@75": 2}  # places in COCOeval.stats


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of every picture by class, [pictures, 3, classes]: found rightly, found, there."""

    table: Any

    def value(self, places: Sequence[int]) -> float | None:
        """Return the mean IoU over the chosen pictures; None where no pixel is judged."""
        right, found, there = self.table[list(places)].sum(0)
        union = found + there - right
        return float((right[union > 0] / union[union > 0]).mean()) if (union > 0).any() else None


@dataclass(frozen=True, slots=True)
class Detections:
    """Things that are in every picture and things that were found, in the words of an answer."""

    metric: str
    labels: tuple[str, ...]
    there: Sequence[Sequence[Mapping[str, Any]]]
    found: Sequence[Sequence[Mapping[str, Any]]]

    def value(self, places: Sequence[int]) -> float | None:
        """Return COCO's average precision over the chosen pictures; None where there is nothing to find."""
        classes = {label: number for number, label in enumerate(dict.fromkeys(self.labels), 1)}
        right = [row for place in places for row in _records(place, self.there[place], classes)]
        said = [row for place in places for row in _records(place, self.found[place], classes)]
        if not right or not said:
            return 0.0 if right else None
        reached = _average_precision([place + 1 for place in places], classes, right, said)[_STATISTICS[self.metric]]
        return None if reached < 0 else float(reached)


class PictureCollector:
    """The answers of one side about pictures, run by run, with what is there."""

    def __init__(self, about: Regions | Boxes, outputs: Sequence[str], metric: str, truth: Sequence[JSON]) -> None:
        self._about, self._outputs, self._metric, self._truth = about, list(outputs), metric, truth
        self._counts: list[Any] = []
        self._there: list[Any] = []
        self._found: list[Any] = []

    def add(self, results: Sequence[Any], start: int, sizes: Sequence[tuple[int, int]]) -> None:
        """Count a run, whose first picture is row `start`; `sizes` are heights and widths. Raises StepError."""
        named = dict(zip(self._outputs, results, strict=True))
        try:
            if isinstance(self._about, Regions):
                self._add_regions(self._about, named[self._about.output], start, sizes)
            else:
                self._add_boxes(self._about, named, start, sizes)
        except RequestError as error:
            raise StepError(f"evaluation: rows from {start} on: {error.message}") from None

    def _add_regions(self, about: Regions, logits: Any, start: int, sizes: Sequence[tuple[int, int]]) -> None:
        classes = range(len(about.labels))
        for number, (scores, size) in enumerate(zip(logits, sizes, strict=True), start):
            there, found = (
                _read_mask(self._truth[number], size, len(classes), number),
                scenes.label_pixels(scores, size),
            )
            judged = there != _IGNORED
            table = _library("sklearn.metrics", "scikit-learn", "sklearn").confusion_matrix(
                there[judged], found[judged], labels=classes
            )
            numpy = importlib.import_module("numpy")
            self._counts.append(numpy.stack([table.diagonal(), table.sum(0), table.sum(1)]))

    def _add_boxes(self, about: Boxes, named: Mapping[str, Any], start: int, sizes: Sequence[tuple[int, int]]) -> None:
        self._found += scenes.find_things(about, named, sizes)
        for number in range(start, start + len(sizes)):
            self._there.append(_read_things(self._truth[number], about.labels, number))

    def answers(self) -> Counts | Detections:
        """Return what was said of all pictures."""
        if isinstance(self._about, Regions):
            return Counts(importlib.import_module("numpy").stack(self._counts))
        return Detections(self._metric, self._about.labels, self._there, self._found)


def _read_mask(value: JSON | bytes, size: tuple[int, int], classes: int, row: int) -> Any:
    """Return the class of every pixel [height, width]. Raises StepError for anything but such a PNG."""
    numpy = importlib.import_module("numpy")
    try:
        data = value if isinstance(value, bytes) else base64.b64decode(str(value), validate=True)
        picture = importlib.import_module("PIL.Image").open(io.BytesIO(data), formats=("PNG",))
        if picture.mode not in ("1", "L", "P", "I", "I;16"):
            raise ValueError(f"its pixels are {picture.mode}, not numbers")
        if picture.size != (size[1], size[0]):
            raise ValueError(f"it is {picture.size[0]}x{picture.size[1]}, the picture {size[1]}x{size[0]}")
        found = numpy.asarray(picture).astype(numpy.int64)
    except Exception as error:  # a decoder of a user's bytes raises what it likes
        raise StepError(f"evaluation: row {row}: the label is not {_MASK}: {error!s:.200}") from None
    wrong = (found >= classes) & (found != _IGNORED)
    if wrong.any():
        raise StepError(
            f"evaluation: row {row}: the mask has {int(found[wrong][0])}, and the model {classes} labels",
            hint=f"the first label is 0; {_IGNORED} is not judged",
        )
    return found


def _read_things(value: JSON, labels: Sequence[str], row: int) -> list[dict[str, Any]]:
    """Return the things of a picture. Raises StepError for another form, and for a label that is none of `labels`."""
    try:
        items = json.loads(value) if isinstance(value, str) else value
        found: list[dict[str, Any]] = [
            {"label": str(item["label"]), **{side: float(item[side]) for side in _SIDES}} for item in items
        ]
        for item in found:
            if not all(math.isfinite(item[side]) for side in _SIDES):
                raise ValueError("a side is not a number")
            if item["xmax"] < item["xmin"] or item["ymax"] < item["ymin"]:
                raise ValueError("a box ends before it begins")
    except (ValueError, TypeError, KeyError) as error:
        raise StepError(f"evaluation: row {row}: the label is not {_THINGS}: {error!r:.200}") from None
    if unknown := sorted({item["label"] for item in found} - set(labels)):
        raise StepError(f"evaluation: row {row}: the label `{unknown[0]:.60}` is none of the model's")
    return found


def _records(place: int, things: Sequence[Mapping[str, Any]], classes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return things as COCO has them; its identifiers begin with 1."""
    rows = []
    for thing in things:
        width, height = thing["xmax"] - thing["xmin"], thing["ymax"] - thing["ymin"]
        box = [thing["xmin"], thing["ymin"], width, height]
        row = {"image_id": place + 1, "category_id": classes[thing["label"]], "bbox": box}
        rows.append({**row, "area": width * height, "iscrowd": 0, "score": thing.get("score", 1.0)})
    return rows


def _average_precision(
    pictures: Sequence[int], classes: Mapping[str, int], right: list[dict[str, Any]], said: list[dict[str, Any]]
) -> Any:
    """Return COCO's twelve figures."""
    coco = _library("pycocotools.coco", "pycocotools", "detection")
    judge = _library("pycocotools.cocoeval", "pycocotools", "detection")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in pictures],
            "categories": [{"id": number, "name": label} for label, number in classes.items()],
            "annotations": [{**row, "id": number} for number, row in enumerate(right, 1)],
        }
        truth.createIndex()
        found = judge.COCOeval(truth, truth.loadRes(said), "bbox")
        for part in (found.evaluate, found.accumulate, found.summarize):
            part()
    return found.stats


def _library(module: str, name: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingToolError(name, extra) from None
