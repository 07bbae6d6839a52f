# SPDX-License-Identifier: Apache-2.0
"""int4 through the command line: one digest in two places, what the contract says, where it runs, and a chat with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.graph import canonicalise
from tests.e2e.conftest import Project
from tests.support import language_models
from tests.unit.steps.test_int4 import network

RECIPE = """\
name: net
version: 1.0.0
source: model.onnx
inputs: {ids: {dtype: int64, shape: [batch], range: [0, 39]}}
dynamic: {batch: [1, 16]}
tolerance: {int4: {atol: 0.5, rtol: 0}}
policy: release
runs-on:
  onnxruntime: {versions: ">=1.17", precision: [fp32, int4]}
"""


@pytest.fixture
def net(project: Callable[..., Project]) -> Project:
    made = project(RECIPE)
    canonicalise.import_onnx().save(network(), made.folder / "model.onnx")
    return made


def test_blocks_travel_with_what_they_are(net: Project, tmp_path: Path) -> None:
    net.run("lock")
    built = net.run("build", "--locked", "--json")
    assert built["verdict"]["ok"] and built["targets"] == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-int4"]
    other = Project(tmp_path / "else where", tmp_path / "another store")
    other.folder.mkdir()
    for name in ("bundle.yaml", "bundle.lock", "model.onnx"):
        shutil.copy(net.folder / name, other.folder / name)
    again = other.run("build", "--locked", "--json", PYTHONHASHSEED="5", OMP_NUM_THREADS="1")
    assert again["digest"] == built["digest"]
    net.run("keygen", "release")
    net.run("sign", "net:1.0.0", "--key", "release.pem", "-o", "net.bundle.tar")
    shown = net.run("inspect", "net.bundle.tar").stdout
    assert "onnxruntime-cpu-int4: 2 layers in blocks of 32 weights with 4 bits, off by up to 0.0" in shown
    assert "in float32: 1 looked up, 1 of a last layer" in shown
    net.run("unpack", "net.bundle.tar", "plain", "--key", "release.pub")
    contract = json.loads((net.folder / "plain" / "contract.json").read_bytes())
    target = contract["targets"]["onnxruntime-cpu-int4"]
    assert target["artefact"]["quantised"]["layers"] == 2 and target["stability"] == "bitwise"
    versions = [word for version in ("1.16.3", "1.17.0", "1.32.0") for word in ("--runtime", f"onnxruntime=={version}")]
    cells = net.run("compat", "net.bundle.tar", *versions, "--json")["cells"]
    found = {cell["version"]: cell["outcome"] for cell in cells if cell["target"] == "onnxruntime-cpu-int4"}
    assert found == {"1.16.3": "no", "1.17.0": "ok", "1.32.0": "ok"}


def test_a_promise_that_no_kernel_keeps_is_narrowed(net: Project) -> None:
    """The oldest version that is promised has the operator, and reads zero points of odd numbers of blocks elsewhere."""
    net.write(RECIPE.replace(">=1.17", ">=1.16.3"))
    net.run("lock")
    refused = net.run("build", "--locked", code=4)
    assert "target `onnxruntime-cpu-int4` cannot keep `onnxruntime>=1.16.3`" in refused.stderr
    assert "has no kernel for com.microsoft.MatMulNBits-1(" in refused.stderr and '">=1.17.0"' in refused.stderr


@pytest.mark.slow  # an export
def test_a_language_model_in_blocks_is_measured_and_answers(tmp_path: Path) -> None:
    made = Project(tmp_path / "here", tmp_path / "store", {"PACKAGER_PASSPHRASE": "secret"})
    made.folder.mkdir()
    language_models.write(made.folder / "model")
    recipe = "name: tiny\nversion: 1.0.0\nsource: model\ntask: text-generation\npolicy: dev\nruns-on:\n"
    promise = '  onnxruntime: {versions: ">=1.31", precision: [fp32, int4]}\n'
    (made.folder / "bundle.yaml").write_text(f"{recipe}{promise}tolerance: {{int4: {{atol: 0.001, rtol: 0}}}}\n")
    made.run("keygen", "release")
    made.run("lock")
    refused = made.run("build", code=1)
    assert "target `onnxruntime-cpu-int4`" in refused.stderr and "output `logits`: off by" in refused.stderr
    (made.folder / "bundle.yaml").write_text(f"{recipe}{promise}tolerance: {{int4: {{atol: 2, rtol: 0}}}}\n")
    made.run("lock")
    made.run("build")
    made.run("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "tiny.bundle.tar")
    target = ("--target", "onnxruntime-cpu-int4")
    made.run("install", "tiny.bundle.tar", "site", "--key", "release.pub", *target)
    found = made.run("chat", "site", "--prompt", "What is a module?", "--max-tokens", "12", "--json")
    assert len(found["tokens"]) == 12
