# SPDX-License-Identifier: Apache-2.0
"""Files as they are, built without edits: what the model takes is not cut, what it does not take is said.

Each model is the smallest with a fault that a trained one showed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from packager.errors import StepError
from packager.exporters import ExportOptions
from packager.exporters import onnx as exporter
from packager.formats import platforms
from packager.recipe.recipe import parse as parse_recipe
from packager.steps import _cases, export
from tests.conftest import Run
from tests.unit.exporters.test_described import convolved, saved

HEAD = f"name: m\nversion: 1.0.0\nsource: m.onnx\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"


def built(packager: Run, folder: Path, recipe: str = "") -> dict[str, Any]:
    (folder / "bundle.yaml").write_text(HEAD + recipe)
    packager("build")
    found: dict[str, Any] = json.loads(packager("inspect", "m:1.0.0", "--json").stdout)
    return found


def exported(folder: Path, recipe: str = "") -> dict[str, Any]:
    """Return what the export step says of `m.onnx`, asked as a build of this recipe asks."""
    parsed = parse_recipe(HEAD + recipe, "bundle.yaml").to_json()
    options = {key: parsed.get(key) for key in ("inputs", "dynamic")}
    (folder / "out").mkdir()
    asked = {"kind": "onnx", "payload": "m.onnx", "opset": 17, "ir": 8, **options}
    found: dict[str, Any] = export.run({"source": folder}, folder / "out", asked)
    return found


def shapes(found: dict[str, Any], side: str = "inputs") -> list[list[int | str]]:
    return [port["shape"] for port in found["interface"][side]]


def test_two_axes_of_one_unwritable_name_are_two(tmp_path: Path) -> None:
    """A file calls height and width `?`: they are not tied, and nothing has to be written for that."""
    convolved(tmp_path, ["?", 3, "?", "?"])
    found = exported(tmp_path)
    assert shapes(found) == [["batch", 3, "height", "width"]]
    height = found["interface"]["dimensions"]["height"]
    assert height["limit"] == {"min": 1} and height["max"] > 512


def test_a_wide_default_fails_no_build_and_cuts_nothing(tmp_path: Path) -> None:
    """Of large images 64 are too many to measure, which is a reason to measure fewer."""
    nodes = [h.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)]
    saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 3, 1500, 1500])}, {"y": (T.FLOAT, ["n"])})
    found = exported(tmp_path)
    assert found["interface"]["dimensions"]["n"]["limit"] == {"min": 1}
    assert 1 < found["interface"]["dimensions"]["n"]["max"] < 64
    source = exporter.load(tmp_path, "m.onnx", ExportOptions())
    assert (
        _cases.shortened_dimensions(_cases.build_cases(found["interface"], work=source.work()), found["interface"])
        == {}
    )


def test_a_recipe_of_three_lines_is_built_however_wide_its_model_is(packager: Run, tmp_path: Path) -> None:
    """Nothing is promised, so what can be measured is, and under the rules that ask whether promises were measured."""
    nodes = [h.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)]
    saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 3, 700, 700])}, {"y": (T.FLOAT, ["n"])})
    (tmp_path / "bundle.yaml").write_text(HEAD.replace("policy: dev\n", ""))
    built = json.loads(packager("build", "--json").stdout)
    assert built["verdict"]["ok"] and "coverage" in built["verdict"]["rules"]
    (line,) = (line for line in built["takes"] if line.startswith("axis"))
    assert line.endswith("any other is taken") and "1 to 64" not in line


def test_a_promise_that_was_not_measured_is_still_a_finding(packager: Run, tmp_path: Path) -> None:
    nodes = [h.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)]
    saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 4096])}, {"y": (T.FLOAT, ["n"])})
    (tmp_path / "own.yaml").write_text("rules: [coverage]\n")
    recipe = HEAD.replace("policy: dev", "policy: own.yaml") + "dynamic: {n: [1, 2000000]}\n"
    (tmp_path / "bundle.yaml").write_text(recipe)
    assert "less than the recipe promises" in packager("build", code=1).stderr


def test_a_long_signal_is_not_cut(packager: Run, tmp_path: Path) -> None:
    nodes = [h.make_node("Cos", ["audio"], ["y"])]
    saved(tmp_path, nodes, {"audio": (T.FLOAT, [1, "samples"])}, {"y": (T.FLOAT, [1, "samples"])})
    found = built(packager, tmp_path)
    assert found["takes"] == ["axis samples: measured 1 to 4096; any other is taken"]
    assert "axis samples: measured 1 to 4096; any other is taken" in packager("compat", "m:1.0.0").stdout


@pytest.mark.slow  # tests of sizes hold it by default
def test_multiples_are_found_and_are_the_limit(tmp_path: Path) -> None:
    convolved(tmp_path, ["n", 3, "height", "width"], stride=32)
    sizes = exported(tmp_path)["interface"]["dimensions"]
    assert sizes["height"]["limit"] == sizes["width"]["limit"] == {"min": 32, "step": 32, "also": [1]}
    assert sizes["height"]["step"] == 32 and sizes["height"]["max"] % 32 == 0


@pytest.mark.slow  # that they are found is held by default
def test_multiples_can_be_said(tmp_path: Path) -> None:
    convolved(tmp_path, ["n", 3, "height", "width"], stride=32)
    recipe = "dynamic: {height: {step: 32, measure: [32, 96]}, width: {values: [64, 96]}}\n"
    sizes = exported(tmp_path, recipe)["interface"]["dimensions"]
    assert sizes["height"] == {"min": 32, "max": 96, "step": 32, "limit": {"min": 1, "step": 32}}
    assert sizes["width"] == {"min": 64, "max": 96, "values": [64, 96]}


def branching(folder: Path) -> None:
    """A rate chooses between branches; the one that a fixed length of 4 contradicts is never taken at 16000."""
    x = [h.make_tensor_value_info("y1", T.FLOAT, None)]
    taken = h.make_graph([h.make_node("ReduceMean", ["x"], ["y1"], axes=[1], keepdims=0)], "taken", [], x)
    other = h.make_graph([h.make_node("Squeeze", ["x", "ax"], ["y1"])], "other", [], x)
    nodes = [
        h.make_node("Equal", ["sr", "rate"], ["is"]),
        h.make_node("If", ["is"], ["y"], then_branch=taken, else_branch=other),
    ]
    weights = {"rate": np.array(16000), "ax": np.array([1])}
    values = [h.make_tensor_value_info("x", T.FLOAT, ["n", "samples"]), h.make_tensor_value_info("sr", T.INT64, [])]
    made = [h.make_tensor_value_info("y", T.FLOAT, None)]
    held = [nh.from_array(array, name) for name, array in weights.items()]
    model = h.make_model(h.make_graph(nodes, "g", values, made, held), opset_imports=[h.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "m.onnx")


def test_a_rate_is_said_alone_and_a_length_that_contradicts_a_branch_is_kept_off_the_graph(
    packager: Run, tmp_path: Path
) -> None:
    branching(tmp_path)
    found = built(packager, tmp_path, "inputs: {sr: {values: [16000]}}\ndynamic: {samples: [4, 4], n: [1, 3]}\n")
    assert found["contract"]["values"] == {"sr": {"values": [16000]}}
    shape = next(port["shape"] for port in found["contract"]["interface"]["inputs"] if port["name"] == "x")
    assert shape == ["n", 4]
    assert "values sr: 16000; others are refused" in found["takes"]


@pytest.mark.parametrize("stated", [[], ["n"], None])
def test_a_stated_rank_that_is_wrong_is_corrected_by_runs(tmp_path: Path, stated: Any) -> None:
    nodes = [
        h.make_node("MaxPool", ["x"], ["p"], kernel_shape=[8], strides=[8], ceil_mode=1),
        h.make_node("Relu", ["p"], ["y"]),
    ]
    saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 4, "width"])}, {"y": (T.FLOAT, stated)})
    assert shapes(exported(tmp_path), "outputs") == [["n", 4, "ceil(width/8)"]]


def test_an_axis_that_depends_on_the_data_is_called_so(packager: Run, tmp_path: Path) -> None:
    nodes = [
        h.make_node("Relu", ["x"], ["r"]),
        h.make_node("NonZero", ["r"], ["i"]),
        h.make_node("Cast", ["i"], ["y"], to=T.FLOAT),
    ]
    saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 4])}, {"y": (T.FLOAT, [2, 9])})
    found = built(packager, tmp_path)
    assert found["contract"]["interface"]["outputs"][0]["shape"] == [2, "data_y_1"]
    assert "axis data_y_1: of an output, depends on the data" in found["takes"]


def test_axes_follow_others_where_the_recipe_says_so(packager: Run, tmp_path: Path) -> None:
    """Four frames for each step, and one name less: a request with other lengths is refused."""
    nodes = [
        h.make_node("Reshape", ["frames", "to"], ["f"]),
        h.make_node("ReduceMean", ["f"], ["m"], axes=[2], keepdims=0),
        h.make_node("Add", ["m", "steps"], ["y"]),
    ]
    inputs = {"steps": (T.FLOAT, ["batch", "t"]), "frames": (T.FLOAT, ["rows", "t4"])}
    saved(tmp_path, nodes, inputs, {"y": (T.FLOAT, ["batch", "t"])}, {"to": np.array([0, -1, 4])})
    interface = exported(tmp_path, "dynamic: {rows: = batch, t4: = 4 * t, t: [1, 9]}\n")["interface"]
    assert shapes({"interface": interface}) == [["batch", "t"], ["batch", "t4"]]
    assert interface["dimensions"]["t4"]["is"] == [4, "t"] and interface["dimensions"]["t4"]["max"] == 36
    assert {case.lengths["t4"] / case.lengths["t"] for case in _cases.build_cases(interface)} == {4}


def test_a_dimension_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    convolved(tmp_path, ["n", 3, "height", 8])
    with pytest.raises(StepError, match="no input of the source has the free dimension `hieght`") as caught:
        exported(tmp_path, "dynamic: {hieght: [1, 8]}\n")
    assert "it has `height`, `n`" in (caught.value.hint or "")
