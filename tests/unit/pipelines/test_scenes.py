# SPDX-License-Identifier: Apache-2.0
"""Boxes and regions of pictures: as the source's processors make them, and pictures of several sizes together."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from packager.errors import StepError
from packager.pipelines.pictures import draw_pictures, open_picture
from packager.server.errors import RequestError
from packager.server.pipeline import scenes
from packager.server.pipeline.parts import Boxes
from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.protocol.interface import Interface
from tests.support.raw_models import BODY, NAMED, Made, make_chooser, seen
from tests.unit.pipelines.test_images import jpeg
from tests.unit.pipelines.test_served import serving


def opened(made: Made, out: Path, spec: Any) -> tuple[Any, Pipeline]:
    facts = made.step(out, spec)
    return facts, open_pipeline(out, Interface.from_json(made.interface))


@pytest.mark.slow  # the export of a detector takes most of a minute on a busy machine
def test_boxes_of_pictures_of_several_sizes(detector: Made, tmp_path: Path) -> None:
    facts, pipeline = opened(detector, tmp_path / "out", {"task": "object-detection", "threshold": 0.25})
    assert facts["inputs"] > 100 and facts["largest"] < 0.01 and facts["rows"] >= 16 and facts["max_abs"] < 1e-5
    files = dict(draw_pictures(0))
    data = [files[name] for name in ("64x64 RGB PNG", "97x131 RGB JPEG", "320x241 L PNG")]
    prepared = pipeline.prepare([{"image": item} for item in data])
    processor = transformers.AutoImageProcessor.from_pretrained(detector.source)
    wanted = processor(images=[open_picture(item) for item in data], return_tensors="np")
    np.testing.assert_allclose(prepared.feeds["pixel_values"], wanted["pixel_values"], atol=0.02)
    np.testing.assert_array_equal(prepared.feeds["pixel_mask"], wanted["pixel_mask"])
    assert prepared.sizes == [(64, 64), (131, 97), (241, 320)] and pipeline.single
    with serving(detector, tmp_path / "out") as client:
        status, answer = client.ask("/predict", jpeg(), content_type="image/jpeg")
        assert status == 200 and set(answer["answers"][0][0]) == {"label", "score", "xmin", "ymin", "xmax", "ymax"}
        assert all(item["score"] > 0.25 for item in answer["answers"][0])


@pytest.mark.slow  # a second detector
def test_edges_that_are_multiples(tmp_path: Path) -> None:
    """YOLOS rounds edges down to multiples of 16, which its configuration does not say."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(**BODY, image_size=[64, 96], patch_size=16, num_detection_tokens=5, **NAMED)
    processor = {"image_processor_type": "YolosImageProcessor", "do_pad": True}
    processor |= {"size": {"shortest_edge": 64, "longest_edge": 96}}
    made = seen(tmp_path, transformers.YolosForObjectDetection(config), processor)
    facts, pipeline = opened(made, tmp_path / "out", {"task": "object-detection"})
    assert facts["rows"] >= 16 and facts["max_abs"] < 1e-5 and pipeline.single
    assert json.loads((tmp_path / "out" / "pipeline.json").read_text())["image"]["multiple"] == 16


@pytest.mark.slow  # a third detector, exported twice
def test_queries_that_an_encoder_chooses(tmp_path: Path) -> None:
    """RT-DETR looks at the best places of a picture; where all are equal, any of them may be chosen."""
    for name in ("trained", "untrained"):
        (tmp_path / name).mkdir()
    facts, pipeline = opened(make_chooser(tmp_path / "trained"), tmp_path / "out", {"task": "object-detection"})
    assert facts["rows"] >= 16 and facts["max_abs"] < 1e-5 and pipeline.about.answer.function == "sigmoid"
    with pytest.raises(StepError, match="which of them it looks at is open") as refused:
        opened(make_chooser(tmp_path / "untrained", untrained=True), tmp_path / "none", {"task": "object-detection"})
    assert "not trained" in str(refused.value.hint)


def test_regions(segmenter: Made, tmp_path: Path) -> None:
    facts, _ = opened(segmenter, tmp_path / "out", {"task": "image-segmentation"})
    assert facts["inputs"] > 100 and facts["largest"] < 0.01 and facts["rows"] >= 10 and facts["max_abs"] < 1e-4
    with serving(segmenter, tmp_path / "out") as client:
        (answer,) = client.ask("/predict", jpeg(), content_type="image/jpeg")[1]["answers"]
    masks = [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(item["mask"])))) for item in answer]
    assert len(answer) > 1 and sum(item["share"] for item in answer) == pytest.approx(1)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in masks), np.ones((50, 70), int))


def test_pixels_have_the_label_that_torch_gives_them() -> None:
    draw = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (64, 64), (150, 333), (1, 150_000), (70_000, 2)):
        logits = draw.normal(0, 1, (30, 16, 12)).astype(np.float32)
        logits[::3] -= 9
        scores = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size=size, mode="bilinear")[0]
        wanted, got = scores.argmax(0).numpy(), scenes.label_pixels(logits, size)
        assert (wanted == got).mean() > 0.999
        gap = np.take_along_axis(scores.numpy(), wanted[None], 0) - np.take_along_axis(scores.numpy(), got[None], 0)
        assert gap.max() < 1e-5


def test_a_picture_with_too_many_pixels_for_so_many_classes() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (200, 8, 8)).astype(np.float32)
    with pytest.raises(RequestError, match=r"a picture of at most \d+ pixels for \d+ classes") as caught:
        scenes.label_pixels(logits, (8000, 8000))
    assert caught.value.status == 413


def test_the_best_pairs_of_query_and_class() -> None:
    about = Boxes("logits", "boxes", "sigmoid", ("cat", "dog"), 0.5)
    logits = np.array([[[3.0, -1], [2, 4], [-5, -5]]], np.float32)
    boxes = np.array([[[0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 1], [0, 0, 1, 1]]], np.float32)
    (found,) = scenes.find_things(about, {"logits": logits, "boxes": boxes}, [(10, 20)])
    assert [(item["label"], item["xmax"]) for item in found] == [("dog", 10.0), ("cat", 20.0), ("cat", 10.0)]
    assert found[0]["score"] == pytest.approx(1 / (1 + np.exp(-4)))
    (one,) = scenes.find_things(about, {"logits": logits, "boxes": boxes}, [(10, 20)], top=1)
    assert one == found[:1]


def test_a_processor_that_pads_to_a_size_is_refused(segmenter: Made, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in segmenter.source.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    path = source / "preprocessor_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"do_pad": True, "pad_size": {"height": 80, "width": 80}})
    )
    with pytest.raises(StepError, match="pads images, which is not known here"):
        segmenter.step(tmp_path / "out", {"task": "image-segmentation"}, source=source)
