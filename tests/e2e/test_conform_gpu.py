# SPDX-License-Identifier: Apache-2.0
"""Engines on a host without a GPU: built, shipped, and honestly skipped by their runtimes, with the driver's words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from packager.runtimes import _gpu

from tests.e2e.conftest import CNN_RECIPE, Project

pytestmark = pytest.mark.slow
CACHE = Path.home() / ".cache" / "packager-tests"
PROMISE = """
runs-on:
  onnxruntime: ">=1.17"
  tensorrt-rtx: {versions: "==1.7.*", devices: [sm_86, sm_89], precision: fp16}
"""


@pytest.fixture(scope="module")
def engines(cnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    if _gpu.list_capabilities():
        pytest.skip("this host has a GPU")
    root = tmp_path_factory.mktemp("engines")
    shutil.copytree(cnn, root / "project" / "model")
    project = Project(root / "project", root / "store")
    project.write(CNN_RECIPE + PROMISE)
    assert project.run("build", "--json")["verdict"]["ok"]
    return project


def test_engines_are_skipped_with_the_driver_s_message(engines: Project) -> None:
    result = engines.run(
        "conform",
        "cnn:1.2.3",
        "--runtime",
        "tensorrt-rtx",
        "--runtime",
        "tensorrt",
        "--runtime",
        "onnxruntime==1.31.1",
        "--level",
        "L3",
        "--cache",
        CACHE,
        "--json",
    )
    cells = {cell["cell"]: cell for cell in result["cells"]}
    rtx = [cell for name, cell in cells.items() if name.startswith("tensorrt-rtx")]
    assert {cell["target"] for cell in rtx} == {"tensorrt-rtx-sm_86-fp16", "tensorrt-rtx-sm_89-fp16"}
    for cell in rtx:
        assert cell["outcome"] == "skip" and cell["levels"]["L0"] == "pass" and cell["levels"]["L1"] == "skip"
        assert cell["reason"].startswith(
            "no GPU can be used on this machine: cudaGetDeviceProperties failed: CUDA driver"
        )
    (other,) = [cell for cell in cells.values() if cell["runtime"] == "tensorrt"]
    assert other["reason"] == "the bundle holds no artefact for tensorrt"
    assert result["verdict"]["ok"] and len(result["verdict"]["unproven"]) == 3, "skips are no passes"
    engines.run("conform", "cnn:1.2.3", "--runtime", "tensorrt-rtx", "--level", "L3", "--cache", CACHE, code=1)
