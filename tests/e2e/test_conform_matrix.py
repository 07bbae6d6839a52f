# SPDX-License-Identifier: Apache-2.0
"""The matrices: four real models over every runtime that can be tested here. Minutes; environments are kept per user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import HERE, Project
from tests.e2e.test_tables import RECIPE

pytestmark = pytest.mark.slow
CACHE = Path.home() / ".cache" / "packager-tests"
EVERY = (
    "onnxruntime==*",
    "triton==*",
    "mlserver",
    "kserve",
    "bentoml",
    "serve",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
ABSENT = {  # why a cell may be skipped on a host without a GPU, by runtime
    "onnxruntime-gpu": "CUDAExecutionProvider cannot be used on this machine",
    "openvino": "OpenVINO ",
    "tensorrt": "the bundle holds no artefact for tensorrt",
    "tensorrt-rtx": "the bundle holds no artefact for tensorrt-rtx",
}
SERVERS = ("triton", "mlserver", "kserve", "bentoml", "serve")
ENCODER = """
name: sentence-encoder
version: 1.0.0
source: ./model
runs-on: {onnxruntime: ">=1.17"}
"""
XGBOOST = """
import sys, numpy, xgboost
random = numpy.random.RandomState(0)
x = random.randn(400, 6).astype("f4")
x[random.rand(400, 6) < 0.1] = numpy.nan
y = (numpy.nan_to_num(x[:, 0]) * numpy.nan_to_num(x[:, 1]) > 0).astype(int) + (numpy.nan_to_num(x[:, 2]) > 1)
xgboost.XGBClassifier(n_estimators=20, max_depth=4, n_jobs=1).fit(x, y).get_booster().save_model(sys.argv[1])
"""


def signed(project: Project, name: str) -> str:
    assert project.run("build", "--json")["verdict"]["ok"]
    project.run("keygen", "release")
    project.run("sign", f"{name}:1.0.0", "--key", "release.pem", "-o", f"{name}.bundle.tar")
    return f"{name}.bundle.tar"


def judge(project: Project, bundle: str) -> Any:
    selections = [word for name in EVERY for word in ("--runtime", name)]
    result = project.run(
        "conform",
        bundle,
        "--key",
        "release.pub",
        *selections,
        "--jobs",
        "2",
        "--cache",
        CACHE,
        "--report",
        "out",
        "--json",
        code=None,
    )
    return result


def check(result: Any) -> None:
    """Every cell passes, or has a reason why it cannot; none passes without its own process, version and numbers."""
    cells = {cell["cell"]: cell for cell in result["cells"]}
    assert len(cells) >= 25
    assert not result["verdict"]["failed"], [cell["reason"] for cell in cells.values() if cell["outcome"] == "fail"]
    pids = [cell["identity"]["pid"] for cell in cells.values() if cell["outcome"] == "pass"]
    assert len(pids) == len({*pids}), "two cells were answered by one process"
    for cell in cells.values():
        if cell["outcome"] == "skip":
            assert cell["reason"].startswith(ABSENT[cell["runtime"]]), cell["reason"]
            continue
        assert cell["outcome"] == "pass" and min(pids) > 1, cell["reason"]
        assert cell["identity"]["version"].startswith(cell["version"])
        assert cell["runtime"] not in SERVERS or cell["identity"]["engine"].startswith("onnxruntime 1.")
        assert cell["measures"]["drift"], "no numbers were compared"
    print_costs(result)


def print_costs(result: Any) -> None:
    """Print what `-s` shows: wall time, cells, and what a cell costs beside loading and testing."""
    spent = [cell["measures"].get("overhead_seconds", 0.0) for cell in result["cells"] if cell["outcome"] == "pass"]
    bundle, minutes = result["bundle"]["name"], result["seconds"] / 60
    print(
        f"\n{bundle}: {len(result['cells'])} cells in {minutes:.1f} min; overhead per cell {sum(spent) / len(spent):.2f} s, "
        f"at most {max(spent):.2f} s; load average {os.getloadavg()[0]:.1f}"
    )


def test_a_sentence_encoder(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "project").mkdir()
    shutil.copytree(encoder, tmp_path / "project" / "model")
    project = Project(tmp_path / "project", tmp_path / "store")
    project.write(ENCODER)
    check(judge(project, signed(project, "sentence-encoder")))


def test_a_pipeline_of_scikit_learn(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    script = [sys.executable, str(HERE / "table_models.py")]
    subprocess.run(script, cwd=tmp_path / "project", check=True, capture_output=True)
    project = Project(tmp_path / "project", tmp_path / "store")
    project.write(RECIPE.format(name="churn", source="churn@champion"))
    check(judge(project, signed(project, "churn")))


def test_boosted_trees(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    subprocess.run([sys.executable, "-c", XGBOOST, "model.ubj"], cwd=tmp_path / "project", check=True)
    project = Project(tmp_path / "project", tmp_path / "store")
    project.write("name: trees\nversion: 1.0.0\nsource: ./model.ubj\n")
    check(judge(project, signed(project, "trees")))


def test_a_cnn(built: Project) -> None:
    check(judge(built, "cnn.bundle.tar"))
