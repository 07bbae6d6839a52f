# SPDX-License-Identifier: Apache-2.0
"""Builds of a segmenter and a detector with labelled pictures: bounds that are kept, and one that a slice misses."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL.Image
import pytest

from packager.server.pipeline import scenes
from packager.server.pipeline.parts import Regions
from packager.server.pipeline.pipeline import open_pipeline
from packager.server.protocol.interface import Interface
from tests.e2e.conftest import Project
from tests.support.raw_models import Made
from tests.unit.pipelines.conftest import detector, segmenter  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow  # a detector and a segmenter are exported, built and evaluated
COUNT = 64
RECIPE = """
name: seen
version: 1.0.0
source: ./model
pipeline: {task}
tolerance: {{last_hidden_state: {{atol: 4e-5, rtol: 1e-4}}}}
evaluation: {{data: rows.jsonl, label: there, metric: {metric}, bound: {bound}, slices: [light], slice-bound: {least}}}
policy: dev
"""
CASES = {
    "segmenter": ({"task": "image-segmentation"}, "miou"),
    "detector": ({"task": "object-detection", "threshold": 0.2}, "map@50"),
}


def png(values: Any) -> str:
    sink = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def rows_of(made: Made, folder: Path, spec: Any) -> list[dict[str, Any]]:
    """Return pictures with what the model sees in them; by night half of it is elsewhere."""
    made.step(folder, spec)
    pipeline = open_pipeline(folder, Interface.from_json(made.interface))
    session = onnxruntime.InferenceSession(made.graph / "model" / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    draw, found = np.random.default_rng(0), []
    for number in range(COUNT):
        picture = png(draw.integers(0, 256, (8, 8, 3)).repeat(8, 0).repeat(8, 1))
        prepared = pipeline.prepare([{"image": base64.b64decode(picture)}])
        results = dict(zip(names, session.run(None, dict(prepared.feeds)), strict=True))
        night = number % 2 == 1
        if isinstance(pipeline.about.answer, Regions):
            mask = scenes.label_pixels(results[pipeline.about.answer.output][0], (64, 64))
            there: Any = png(np.where(np.arange(64) < 32, mask, (mask + 1) % 3) if night else mask)
        else:
            (things,) = pipeline.answers(results, prepared)
            sides = ("xmin", "xmax")
            moved = [{**item, **{side: item[side] + 40 for side in sides}} for item in things]
            there = moved if night and number % 4 == 1 else things
        found.append({"image": picture, "there": there, "light": "night" if night else "day"})
    return found


@pytest.mark.parametrize("case", CASES)
def test_bounds_of_pictures(
    case: str, request: pytest.FixtureRequest, project: Callable[..., Project], tmp_path: Path
) -> None:
    made: Made = request.getfixturevalue(case)
    spec, metric = CASES[case]
    here = project("")
    shutil.copytree(made.source, here.folder / "model")
    rows = rows_of(made, tmp_path / "pipe", spec)
    (here.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"task": json.dumps(spec), "metric": f'"{metric}"'}
    recipe = RECIPE.format(**words, bound=0.4, least=0.9)
    here.write(recipe if case == "detector" else re.sub("tolerance: .*\n", "", recipe))
    here.run("lock")
    refused = here.run("build", "--locked", code=1)
    said = " ".join((refused.stdout + refused.stderr).split())
    figures = re.search(
        rf"`onnxruntime-cpu-fp32`, slice `light` = `night`: {metric} is (0\.\d+) where at least 0\.9 is required, "
        r"and (0\.\d+) in the source over 32 rows",
        said,
    )
    assert figures and "`day`" not in said, said
    target, source = map(float, figures.groups())
    assert 0.1 < target < 0.9 and source == pytest.approx(target, abs=0.01)
    here.write(
        (here.folder / "bundle.yaml").read_text().replace("slice-bound: 0.9", f"slice-bound: {target - 0.01:.3f}")
    )
    here.run("build", "--locked")
    here.run("keygen", "release")
    here.run("sign", "seen:1.0.0", "--key", "release.pem", "-o", "seen.bundle.tar")
    shown = here.run("inspect", "seen.bundle.tar", "--json")["accuracy"]["onnxruntime-cpu-fp32"]
    assert shown["metric"] == metric and shown["worst"]["value"] == "night" and shown["rows"] == COUNT
    assert shown["target"] > target and shown["source"] == pytest.approx(shown["target"], abs=0.01)
