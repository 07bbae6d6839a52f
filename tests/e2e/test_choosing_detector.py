# SPDX-License-Identifier: Apache-2.0
"""RT-DETR, whose encoder chooses the places that are looked at: from the draft of `init` to the boxes of its source."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Project, tool
from tests.e2e.test_raw_inputs import served
from tests.matrix.raw_sources import find_boxes
from tests.matrix.raw_ways import largest_difference
from tests.support.raw_models import CHOOSER_INPUTS, make_chooser
from tests.unit.pipelines.test_ways import PICTURES, plain

pytestmark = pytest.mark.slow  # a detector is exported twice, built and served
SPEC = {"task": "object-detection", "threshold": 0.2}
RECIPE = f"""\
name: seen
version: 1.0.0
source: ./model
pipeline: {json.dumps(SPEC)}
inputs: {json.dumps(CHOOSER_INPUTS)}
policy: dev
platforms: [linux_x86_64-cp3{sys.version_info.minor}]
"""


def boxes(answer: Any) -> list[Any]:
    return [
        [item["label"], item["score"], *(item[side] for side in ("xmin", "ymin", "xmax", "ymax"))] for item in answer
    ]


def test_boxes_are_those_of_the_source(project: Callable[..., Project], tmp_path: Path) -> None:
    tool("bwrap")
    made = make_chooser(tmp_path)
    rows = [{"image": data} for data in PICTURES]
    expected = find_boxes(made, rows)
    assert all(expected), "every picture has things to find"
    here = project("")
    shutil.copytree(made.source, here.folder / "model")
    here.run("init", "./model", "-o", "drafted.yaml")
    assert "pipeline: object-detection" in (here.folder / "drafted.yaml").read_text()
    here.write(RECIPE)
    here.run("lock")
    here.run("build", "--locked")
    here.run("keygen", "release")
    here.run("sign", "seen:1.0.0", "--key", "release.pem", "-o", "seen.bundle.tar")
    here.run("install", "seen.bundle.tar", "site", "--key", "release.pub")
    with served(here, "site") as client:
        answers = [client.ask("/predict", {"rows": [plain(row)]})[1]["answers"][0] for row in rows]
    assert largest_difference(expected, [boxes(answer) for answer in answers]) < 1e-3, "scores, and corners in pixels"
    pictures = here.folder / "pictures"
    pictures.mkdir()
    for number, data in enumerate(PICTURES):
        suffix = "png" if data.startswith(b"\x89PNG") else "jpg"
        (pictures / f"{number}.{suffix}").write_bytes(data)
    here.run("run", "site", "pictures", "-o", "found.jsonl", "--processes", "1")
    found = [json.loads(line)["answer"] for line in (here.folder / "found.jsonl").read_text().splitlines()]
    assert largest_difference(expected, [boxes(answer) for answer in found]) < 1e-3
