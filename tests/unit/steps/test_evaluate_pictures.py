# SPDX-License-Identifier: Apache-2.0
"""Regions and boxes of pictures: the figures are those of scikit-learn and of COCO's code, and spoilt masks are named."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from packager.policies import evaluation as rule
from sklearn.metrics import jaccard_score

from packager.errors import StepError
from packager.server.pipeline import scenes
from packager.server.pipeline.parts import Boxes
from packager.steps import _evaluate

LABELS = ("sky", "tree", "road")
SIDE, COUNT = 16, 24
IMAGE = {
    "input": "pixels",
    "channels": 3,
    "size": [SIDE, SIDE],
    "resampling": "nearest",
    "crop": None,
    "scale": None,
    "mean": [],
    "deviation": [],
}


def port(name: str, *shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": list(shape)}


def about(*outputs: dict[str, Any]) -> dict[str, Any]:
    dimensions = {"batch": {"min": 1, "max": 7}}
    interface = {"inputs": [port("pixels", "batch", 3, SIDE, SIDE)], "outputs": list(outputs), "dimensions": dimensions}
    return {"interface": interface}


def png(values: np.ndarray) -> str:
    sink = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pipeline(folder: Path, task: str, answer: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "pipeline.json").write_text(json.dumps({"format": 1, "task": task, "image": IMAGE, "answer": answer}))
    return folder


# regions: the colour of a pixel says its class, and the model sees some wrongly


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "pipe", "image-segmentation", {"output": "logits", "labels": list(LABELS)})


REGIONS = about(port("logits", "batch", 3, SIDE, SIDE))


def drawn() -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Rows, masks, and what a model answers that takes a tenth of the pixels wrongly, by night a third."""
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 3, (COUNT, SIDE, SIDE))
    masks[draw.random(masks.shape) < 0.05] = 255
    rows, said = [], []
    for number, mask in enumerate(masks):
        shown = np.where(draw.random(mask.shape) < (0.33 if number % 3 else 0.1), draw.integers(0, 3, mask.shape), mask)
        said.append(np.where(shown == 255, 0, shown))
        picture = np.repeat((said[-1] * 100)[..., None], 3, 2)
        rows.append({"image": png(picture), "mask": png(mask), "time": "night" if number % 3 else "day"})
    return rows, masks, np.array(said)


def by_colour(feeds: Any) -> list[np.ndarray]:
    classes = np.rint(feeds["pixels"][:, 0] / 100).astype(int)
    return [np.eye(3, dtype=np.float32)[classes].transpose(0, 3, 1, 2)]


def blind(feeds: Any) -> list[np.ndarray]:
    """The same model with one class lost."""
    (scores,) = by_colour(feeds)
    scores[:, 2] = -1
    return [scores]


def test_mean_iou_is_that_of_scikit_learn(regions: Path, tmp_path: Path) -> None:
    rows, masks, said = drawn()
    spec = {"label": "mask", "metric": "miou", "slices": ["time"]}
    found, _ = _evaluate.evaluate(write(tmp_path / "data", rows), regions, spec, REGIONS, by_colour, blind)

    def library(places: list[int], got: np.ndarray) -> float:
        judged = masks[places] != 255
        return float(jaccard_score(masks[places][judged], got[places][judged], average="macro"))

    every, lost = list(range(COUNT)), np.where(said == 2, 0, said)
    assert found["source"] == pytest.approx(library(every, said), abs=1e-12)
    assert found["target"] == pytest.approx(library(every, lost), abs=1e-12)
    for item in found["slices"]:
        places = [number for number in every if rows[number]["time"] == item["value"]]
        assert item["rows"] == len(places) and item["source"] == pytest.approx(library(places, said), abs=1e-12)
    facts = {"metric": "miou", "bound": 0.5, "slice-bound": 0.4, **found}
    overall, *_ = rule.check({"targets": {"cpu-int8": {"unmeasured": None, "evaluation": facts}}}, False, 1)
    assert f"miou is {found['target']:.4g}" in overall.message


@pytest.mark.parametrize(
    ("change", "spec", "message"),
    [
        ({"mask": "no base64"}, {}, "row 3: the label is not a PNG"),
        ({"mask": png(np.zeros((SIDE, 5)))}, {}, f"row 3: .*it is 5x{SIDE}, the picture {SIDE}x{SIDE}"),
        ({"mask": png(np.zeros((SIDE, SIDE, 3)))}, {}, "row 3: .*its pixels are RGB"),
        ({"mask": png(np.full((SIDE, SIDE), 3))}, {}, "row 3: the mask has 3, and the model 3 labels"),
        ({}, {"metric": "map"}, "`map` is not measured for `image-segmentation`"),
        ({}, {"metric": "accuracy"}, "`accuracy` is not measured for `image-segmentation`"),
        ({}, {"slices": ["mask"]}, "`mask` has masks or boxes"),
    ],
)
def test_masks_that_do_not_fit(change: Any, spec: Any, message: str, regions: Path, tmp_path: Path) -> None:
    rows, _, _ = drawn()
    rows[3] |= change
    asked = {"label": "mask", "metric": "miou", **spec}
    with pytest.raises(StepError, match=message):
        _evaluate.evaluate(write(tmp_path / "data", rows), regions, asked, REGIONS, by_colour, by_colour)


def test_pictures_without_a_pipeline_are_refused(tmp_path: Path) -> None:
    rows, _, _ = drawn()
    with pytest.raises(StepError, match="`miou` is of what a pipeline finds") as caught:
        spec = {"label": "mask", "metric": "miou"}
        _evaluate.evaluate(write(tmp_path / "data", rows), None, spec, REGIONS, by_colour, by_colour)
    assert caught.value.hint


# boxes: the first pixel of a picture is its number, by which the model remembers what it saw


ANSWER = {"scores": "scores", "boxes": "boxes", "function": "sigmoid", "labels": list(LABELS), "threshold": 0.3}
BOXES = about(port("scores", "batch", 4, 3), port("boxes", "batch", 4, 4))


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "pipe", "object-detection", ANSWER)


def scene() -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Rows with what is in them, and a model's scores and boxes: shifted, some missed, some of nothing."""
    draw = np.random.default_rng(1)
    rows, scores, places = [], np.full((COUNT, 4, 3), -5.0), np.zeros((COUNT, 4, 4))
    for number in range(COUNT):
        picture = np.zeros((SIDE, SIDE, 3))
        picture[0, 0] = number
        things = []
        for place in range(number % 4):
            left, top = draw.uniform(0, 8, 2)
            wide, high = draw.uniform(2, 8, 2)
            label = int(draw.integers(0, 3))
            things.append({"label": LABELS[label], "xmin": left, "ymin": top, "xmax": left + wide, "ymax": top + high})
            scores[number, place, label if draw.random() < 0.8 else 0] = draw.normal(2, 1)
            shift = draw.normal(0, 0.6, 4)
            places[number, place] = np.array([left + wide / 2, top + high / 2, wide, high] + shift * 0.5) / SIDE
        if number % 5 == 0:
            scores[number, 3, 1], places[number, 3] = 1.0, [0.5, 0.5, 0.2, 0.2]
        rows.append({"image": png(picture), "things": things, "size": "even" if number % 2 else "odd"})
    return rows, scores.astype(np.float32), places.astype(np.float32)


def remembers(scores: np.ndarray, places: np.ndarray) -> Any:
    def run(feeds: Any) -> list[np.ndarray]:
        numbers = np.rint(feeds["pixels"][:, 0, 0, 0]).astype(int)
        return [scores[numbers], places[numbers]]

    return run


def library(rows: Sequence[dict[str, Any]], scores: np.ndarray, places: np.ndarray, chosen: Sequence[int]) -> Any:
    """COCO's figures by files, as its own users have them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    said = scenes.find_things(
        Boxes("scores", "boxes", "sigmoid", LABELS, 0.3), {"scores": scores, "boxes": places}, [(SIDE, SIDE)] * COUNT
    )
    there, found = [], []
    for number in chosen:
        for source, sink in ((rows[number]["things"], there), (said[number], found)):
            for item in source:
                box = [item["xmin"], item["ymin"], item["xmax"] - item["xmin"], item["ymax"] - item["ymin"]]
                row = {"id": len(sink) + 1, "image_id": number + 1, "category_id": LABELS.index(item["label"]) + 1}
                sink.append({**row, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": item.get("score")})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number + 1} for number in chosen],
            "categories": [{"id": number + 1} for number in range(3)],
            "annotations": there,
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def test_precision_of_boxes_is_coco_s(boxes: Path, tmp_path: Path) -> None:
    rows, scores, places = scene()
    data, run = write(tmp_path / "data", rows), remembers(scores, places)
    wrong = remembers(scores, np.roll(places, 1, 0))
    for metric, place in (("map", 0), ("map@50", 1), ("map@75", 2)):
        spec = {"label": "things", "metric": metric, "slices": ["size"]}
        found, _ = _evaluate.evaluate(data, boxes, spec, BOXES, run, wrong)
        wanted = library(rows, scores, places, range(COUNT))[place]
        assert 0.1 < found["source"] == pytest.approx(wanted, abs=1e-9) and found["target"] < wanted
        for item in found["slices"]:
            chosen = [number for number in range(COUNT) if rows[number]["size"] == item["value"]]
            assert item["source"] == pytest.approx(library(rows, scores, places, chosen)[place], abs=1e-9)


def test_pictures_with_nothing_in_them(boxes: Path, tmp_path: Path) -> None:
    rows, scores, places = scene()
    empty = [{**row, "things": []} for row in rows]
    nothing = remembers(np.full_like(scores, -9), places)
    spec = {"label": "things", "metric": "map"}
    found, _ = _evaluate.evaluate(write(tmp_path / "a", rows), boxes, spec, BOXES, nothing, nothing)
    assert found["source"] == 0.0, "nothing is found of what is there"
    found, _ = _evaluate.evaluate(write(tmp_path / "b", empty), boxes, spec, BOXES, remembers(scores, places), nothing)
    assert found["source"] is None, "there is nothing to find"


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ("words", "row 3: the label is not a list"),
        ([{"label": "sky"}], "row 3: .*xmin"),
        ([{"label": "sky", "xmin": 5, "ymin": 0, "xmax": 1, "ymax": 1}], "row 3: .*ends before it begins"),
        ([{"label": "sky", "xmin": "nan", "ymin": 0, "xmax": 1, "ymax": 1}], "row 3: .*not a number"),
        ([{"label": "sea", "xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}], "row 3: the label `sea` is none"),
    ],
)
def test_boxes_that_do_not_fit(things: Any, message: str, boxes: Path, tmp_path: Path) -> None:
    rows, scores, places = scene()
    rows[3]["things"] = things
    run = remembers(scores, places)
    with pytest.raises(StepError, match=message):
        spec = {"label": "things", "metric": "map"}
        _evaluate.evaluate(write(tmp_path / "data", rows), boxes, spec, BOXES, run, run)
