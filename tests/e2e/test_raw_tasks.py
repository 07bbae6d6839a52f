# SPDX-License-Identifier: Apache-2.0
"""Each task of raw inputs from the draft of `init` to an answer, with workers confined as they always are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Project, tool
from tests.e2e.test_raw_inputs import served
from tests.support.raw_models import Made
from tests.unit.pipelines.conftest import detector, pair, reader, segmenter, spectral  # noqa: F401 - fixtures
from tests.unit.pipelines.test_ways import CASES, plain

pytestmark = pytest.mark.slow
RECIPE = "name: raw\nversion: 1.0.0\nsource: ./model\npipeline: {}\npolicy: dev\nplatforms: [{}]\n"
ROUNDING = {"detector": "tolerance: {last_hidden_state: {atol: 4e-5, rtol: 1e-4}}\n"}  # of seeded weights
PLATFORM = f"linux_x86_64-cp3{sys.version_info.minor}"


@pytest.mark.parametrize("source", ["reader", "detector", "segmenter", "spectral", "pair"])
def test_a_task_is_drafted_built_installed_and_answers(
    source: str, request: pytest.FixtureRequest, project: Callable[..., Project]
) -> None:
    tool("bwrap")
    made: Made = request.getfixturevalue(source)
    spec, rows = CASES[source]
    task = spec["task"] if isinstance(spec, dict) else spec
    here = project("")
    shutil.copytree(made.source, here.folder / "model")
    here.run("init", "./model", "-o", "drafted.yaml")
    drafted = (here.folder / "drafted.yaml").read_text()
    assert f"pipeline: {task}" in drafted or f"task: {task}" in drafted
    here.write(RECIPE.format(json.dumps(spec), PLATFORM) + ROUNDING.get(source, ""))
    here.run("lock")
    here.run("build", "--locked")
    here.run("keygen", "release")
    here.run("sign", "raw:1.0.0", "--key", "release.pem", "-o", "raw.bundle.tar")
    here.run("install", "raw.bundle.tar", "site", "--key", "release.pub")
    with served(here, "site") as client:
        answers = client.ask("/predict", {"rows": [plain(row) for row in rows]})[1]["answers"]
    assert len(answers) == len(rows) and all(answers)
