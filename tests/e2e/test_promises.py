# SPDX-License-Identifier: Apache-2.0
"""The level follows from the promise, is explained, and a promise that cannot be kept names operator and version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from packager import plugins
from packager.errors import UsageError
from packager.formats import platforms
from packager.lock import opset_level
from packager.recipe import recipe
from packager.runtime import load_runtime
from tests.e2e.conftest import Project

TEXT = """<ir_version: {ir}, opset_import: ["" : {opset}]>
net (float[N, 4] x) => (float[N, 4] y) {{ y = {operator}(x) }}"""
RECIPE = (
    'name: m\nversion: 1.0.0\nsource: ./model.onnx\nruns-on: {{onnxruntime: "{versions}"}}\n'
    f"platforms: [{platforms.name_host()}]\n"
)


def made(
    project: Callable[..., Project], folder: Path, operator: str, opset: int, versions: str, ir: int = 9
) -> Project:
    onnx.save(onnx.parser.parse_model(TEXT.format(operator=operator, opset=opset, ir=ir)), folder / "model.onnx")
    return project(RECIPE.format(versions=versions), **{"model.onnx": folder / "model.onnx"})


def test_the_operator_and_the_version_that_has_it_are_named(project: Callable[..., Project], tmp_path: Path) -> None:
    here = made(project, tmp_path, "Gelu", 20, ">=1.15")
    refused = here.run("build", code=4).stderr
    assert "opset 18, IR 9: onnxruntime 1.15.0, the oldest in `>=1.15`, reads opset 18 and IR 9" in refused
    assert "`Gelu` (opset 20) needs onnxruntime >= 1.17.0, promised >=1.15" in refused
    assert 'hint: raise the promise to `onnxruntime: ">=1.17.0"`' in refused
    here.write(RECIPE.format(versions=">=1.17"))
    assert here.run("build", "--json")["verdict"]["ok"]
    lock = json.loads((here.folder / "bundle.lock").read_bytes())
    assert (lock["export"]["opset"], lock["export"]["ir"]) == (20, 9)


def test_an_older_form_is_taken_where_there_is_one(project: Callable[..., Project], tmp_path: Path) -> None:
    here = made(project, tmp_path, "Relu", 21, ">=1.15", ir=10)
    assert here.run("lock", "--json")["level"]["opset"] == 18
    assert here.run("build", "--locked", "--json")["verdict"]["ok"]


def test_an_opset_that_breaks_the_promise_is_refused(project: Callable[..., Project], tmp_path: Path) -> None:
    here = made(project, tmp_path, "Relu", 18, ">=1.15")
    here.write(RECIPE.format(versions=">=1.15") + "export: {opset: 20}\n")
    refused = here.run("lock", code=2).stderr
    assert "`export.opset` is 20, and onnxruntime >=1.15 promises a version that reads 18 at most" in refused


def parsed(versions: str, more: str = "") -> recipe.Recipe:
    text = f'name: m\nversion: 1.0.0\nsource: ./m\nruns-on: {{onnxruntime: {{versions: "{versions}"{more}}}}}\n'
    return recipe.parse(text, "bundle.yaml")


@pytest.mark.parametrize("kind", ["onnx", "pt2", "sklearn"])
def test_the_oldest_version_decides_also_where_a_newer_one_reads_less(kind: str) -> None:
    """1.21 opens opset 22 without all kernels: what it runs is what counts."""
    found = opset_level.choose_level(parsed(">=1.21,<1.24"), kind)
    assert found.opset == (21 if kind == "onnx" else 18)
    assert opset_level.choose_level(parsed("==1.15.1"), kind).opset == 18


def test_every_runtime_that_explains_itself_knows_its_oldest() -> None:
    for name in plugins.list_names("runtimes"):
        assert load_runtime(name).oldest_with(99) is None

    with pytest.raises(UsageError):
        opset_level.choose_level(parsed("==0.1"), "onnx")
