# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file takes is found by running it, whatever it says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from packager.contract import contract
from packager.errors import StepError
from packager.exporters import ExportOptions
from packager.exporters import onnx as exporter
from packager.exporters._interface.described import describe
from packager.lock.inspection import describe_input
from packager.recipe.lengths import Lengths
from packager.server.errors import RequestError
from packager.steps import export, look, measure
from tests.matrix import fuzz_graphs

Shape = list[Any]


def saved(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    weights: dict[str, Any] | None = None,
    name: str = "m.onnx",
) -> Path:
    values = [[h.make_tensor_value_info(n, *spec) for n, spec in side.items()] for side in (inputs, outputs)]
    held = [nh.from_array(array, n) for n, array in (weights or {}).items()]
    model = h.make_model(h.make_graph(nodes, "g", *values, held), opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / name)
    return folder / name


def convolved(folder: Path, shape: Shape, *, stride: int = 1) -> Path:
    """A convolution that keeps the size, then down by `stride` and up again: the sum takes multiples of it only."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype("float32")
    nodes = [h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])]
    if stride > 1:
        scales = np.array([1, 1, stride, stride], "float32")
        nodes += [
            h.make_node("AveragePool", ["c"], ["d"], kernel_shape=[stride, stride], strides=[stride, stride]),
            h.make_node("Resize", ["d", "", "scales"], ["u"], mode="nearest"),
            h.make_node("Add", ["c", "u"], ["y"]),
        ]
        return saved(folder, nodes, {"x": (T.FLOAT, shape)}, {"y": (T.FLOAT, shape)}, {"w": kernel, "scales": scales})
    nodes += [h.make_node("GlobalAveragePool", ["c"], ["p"]), h.make_node("Flatten", ["p"], ["y"])]
    return saved(folder, nodes, {"x": (T.FLOAT, shape)}, {"y": (T.FLOAT, [shape[0], 3])}, {"w": kernel})


@pytest.mark.parametrize("axis", ["?", "unk__214", "DynamicDimension.0", "", "None"])
def test_a_first_axis_without_a_usable_name_is_the_batch(axis: str, tmp_path: Path) -> None:
    found = describe(convolved(tmp_path, [axis or None, 3, 8, 8]))
    assert found["inputs"][0]["shape"] == ["batch", 3, 8, 8]
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}]


def test_one_name_for_height_and_width_is_two_axes(tmp_path: Path) -> None:
    found = describe(convolved(tmp_path, ["?", 3, "?", "?"]))
    assert found["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert {span["kind"] for span in found["dimensions"].values()} == {"any"}


def test_a_usable_name_stays(tmp_path: Path) -> None:
    assert describe(convolved(tmp_path, ["images", 3, "rows", "columns"]))["inputs"][0]["shape"] == [
        "images",
        3,
        "rows",
        "columns",
    ]


@pytest.mark.slow  # a release does by default: test_promises.py
def test_multiples_are_found_and_proposed(tmp_path: Path) -> None:
    path = convolved(tmp_path, ["images", 3, "H", "W"], stride=32)
    found = describe(path)
    for name in ("H", "W"):
        assert (found["dimensions"][name]["kind"], found["dimensions"][name]["step"]) == ("steps", 32)
    promise = look.run({"source": tmp_path}, tmp_path, {"kind": "onnx", "payload": "m.onnx", "seconds": 30})["promise"]
    assert promise["inputs"]["x"]["shape"] == ["images", 3, "H", "W"]
    interface = exporter.load(tmp_path, "m.onnx", ExportOptions.from_params(promise)).interface
    assert interface.limit("H") == Lengths(32, None, 32, also=(1,)) and interface.limit("images") == Lengths()
    assert interface.dimensions["H"] == tuple(promise["dynamic"]["H"]["measure"])


def halved(folder: Path) -> Path:
    """Every eighth element, each eight times, is added: multiples of 8 run, and length 1, which broadcasts."""
    scales = np.array([1, 1, 8], "float32")
    nodes = [
        h.make_node("MaxPool", ["x"], ["d"], kernel_shape=[1], strides=[8]),
        h.make_node("Resize", ["d", "", "scales"], ["u"], mode="nearest"),
        h.make_node("Add", ["x", "u"], ["y"]),
    ]
    shape: Shape = ["rows", 2, "length"]
    return saved(folder, nodes, {"x": (T.FLOAT, shape)}, {"y": (T.FLOAT, ["rows", 2, None])}, {"scales": scales})


def test_a_length_beside_a_step_is_drafted_promised_and_served(tmp_path: Path) -> None:
    """A detector of text takes multiples of 32, and 1, because a sum broadcasts: the server refuses neither."""
    source = tmp_path / "source"
    source.mkdir()
    halved(source).rename(source / "net.onnx")
    out = tmp_path / "out"
    promise = fuzz_graphs._built(source, out, 8)
    assert isinstance(promise, contract.Contract)
    assert promise.dimensions["length"].limit == Lengths(8, None, 8, also=(1,))
    assert promise.dimensions["length"].lengths.also == (), "what is beside the step is not measured"
    session = fuzz_graphs._session(source / "net.onnx")
    served = fuzz_graphs.Served.of(promise, out)
    assert list(fuzz_graphs._refuted(session, promise, served)) == []
    with pytest.raises(RequestError, match="`length` of at least 8, a multiple of 8, or 1, got 3"):
        served.answer({"x": np.zeros((1, 2, 3), "float32")})


def test_a_switch_has_the_values_that_run(tmp_path: Path) -> None:
    """A gather by the number itself: 0 to 2 run, all others fail."""
    table = np.arange(12, dtype="float32").reshape(3, 4)
    nodes = [h.make_node("Gather", ["table", "which"], ["row"]), h.make_node("Add", ["x", "row"], ["y"])]
    inputs = {"x": (T.FLOAT, ["n", 4]), "which": (T.INT64, [])}
    saved(tmp_path, nodes, inputs, {"y": (T.FLOAT, ["n", 4])}, {"table": table})
    found = look.run({"source": tmp_path}, tmp_path, {"kind": "onnx", "payload": "m.onnx", "seconds": 30})
    which = next(port for port in found["inputs"] if port["name"] == "which")
    assert which["values"] == [-1, 0, 1, 2]
    assert found["promise"]["inputs"]["which"]["range"] == [-1, 2]


def rated(folder: Path, name: str) -> Path:
    """A window of nine samples at 16,000 Hz, of three at any other rate."""
    branches = {}
    for branch, width in (("then_branch", 9), ("else_branch", 3)):
        kernel = nh.from_array(np.ones((1, 1, width), "float32"), f"{branch}_w")
        node = h.make_node("Conv", ["x", f"{branch}_w"], [f"{branch}_y"])
        out = h.make_tensor_value_info(f"{branch}_y", T.FLOAT, None)
        branches[branch] = h.make_graph([node], branch, [], [out], [kernel])
    nodes = [h.make_node("Equal", [name, "high"], ["is_high"]), h.make_node("If", ["is_high"], ["y"], **branches)]
    inputs = {"x": (T.FLOAT, ["n", 1, "length"]), name: (T.INT64, [])}
    return saved(folder, nodes, inputs, {"y": (T.FLOAT, None)}, {"high": np.array(16000)})


def test_rates_are_listed_one_per_set_of_lengths(tmp_path: Path) -> None:
    """What is promised runs with both; a voice detector of this kind was measured at one rate and refused the other."""
    found = describe(rated(tmp_path, "sr"), seconds=20)
    sr = found["inputs"][1]
    assert (sr["values"], sr["alike"]) == ([8000, 16000], True)
    assert found["dimensions"]["length"]["low"] == 9 and found["dimensions"]["length"]["varies"]
    assert "16000; each takes other lengths" in next(describe_input(sr))


def test_other_numbers_are_stated_by_the_smallest(tmp_path: Path) -> None:
    assert describe(rated(tmp_path, "mode"), seconds=20)["inputs"][1]["values"] == [0, 16000]


def test_a_state_is_fed_by_an_output(tmp_path: Path) -> None:
    nodes = [
        h.make_node("ReduceMean", ["x"], ["m"], axes=[1]),
        h.make_node("Add", ["state", "m"], ["stateN"]),
        h.make_node("Add", ["x", "stateN"], ["y"]),
    ]
    inputs = {"x": (T.FLOAT, ["b", "t"]), "state": (T.FLOAT, ["b", 1])}
    path = saved(tmp_path, nodes, inputs, {"y": (T.FLOAT, None), "stateN": (T.FLOAT, ["b", 1])})
    found = describe(path)
    assert [port.get("state") for port in found["inputs"]] == [None, "stateN"]
    assert found["outputs"][0]["shape"] == ["b", "t"]


def test_a_file_that_never_runs_says_why(tmp_path: Path) -> None:
    weights = {"w": np.ones((5, 2), "float32")}
    nodes = [h.make_node("Squeeze", ["x"], ["s"]), h.make_node("MatMul", ["s", "w"], ["y"])]
    found = describe(saved(tmp_path, nodes, {"x": (T.FLOAT, [3, "b", 7])}, {"y": (T.FLOAT, None)}, weights), seconds=5)
    assert found["dimensions"] == {} and "dimension mismatch" in found["failed"]


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"ORTM nothing")
    with pytest.raises(StepError, match="not an ONNX graph"):
        exporter.describe(tmp_path / "m.onnx", seconds=5)


def test_lengths_of_rows_are_drawn_within_the_rows(tmp_path: Path) -> None:
    """A recurrent network refuses lengths beyond the row; which they are is told by the other input."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(1, 6, width)).astype("float32") for name, width in (("w", 2), ("r", 2))}
    nodes = [
        h.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        h.make_node("Cast", ["x_lengths"], ["n"], to=T.INT32),
        h.make_node("GRU", ["t", "w", "r", "", "n"], ["y"], hidden_size=2),
    ]
    inputs = {"x": (T.FLOAT, ["batch", "seq", 2]), "x_lengths": (T.INT64, ["batch"])}
    saved(tmp_path, nodes, inputs, {"y": (T.FLOAT, None)}, weights)
    found = look.run({"source": tmp_path}, tmp_path, {"kind": "onnx", "payload": "m.onnx", "seconds": 20})
    params = {"kind": "onnx", "payload": "m.onnx", "opset": 17, "ir": 8, "seed": 0, **found["promise"]}
    facts = export.run({"source": tmp_path}, tmp_path / "out", params)
    assert "x_lengths" not in {**facts["ranges"], **facts.get("values", {})}, "whatever a row is long is taken"
    given = {**params, "interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    done = measure.run(
        {"source": tmp_path, "artefact": tmp_path / "out"}, tmp_path / "out", {**given, "path": "model/model.onnx"}
    )
    assert len(done["cases"]) > 4


def test_no_larger_inputs_are_tried_once_one_took_much_memory(tmp_path: Path) -> None:
    """Every length makes a square of it: small inputs, and memory that no laptop has at the longest lengths."""
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["m"]),
        h.make_node("Transpose", ["m"], ["t"], perm=[1, 0]),
        h.make_node("MatMul", ["m", "t"], ["y"]),
    ]
    path = saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 1])}, {"y": (T.FLOAT, None)}, {"w": np.ones((1, 2), "float32")})
    code = (
        "import json, sys; from pathlib import Path; from packager.exporters._interface import described as _described; "
        "_described._MEMORY = 32 << 20; "
        "print(json.dumps([_described.describe(Path(sys.argv[1]), seconds=30), _described._memory()]))"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    found, peak = json.loads(said)
    span = next(iter(found["dimensions"].values()))
    assert span["kind"] == "any" and 1000 <= span["high"] <= 16000 and not span["limited"]
    assert peak < 2 << 30  # 65,536 rows would be 17 GB


def test_a_file_that_does_not_load_is_an_error_with_its_cause(tmp_path: Path) -> None:
    nodes = [h.make_node("Reshape", ["x", "s"], ["a"]), h.make_node("MatMul", ["a", "w"], ["y"])]
    weights = {"s": np.array([-1, 3]), "w": np.ones((2, 2), "float32")}
    path = saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 3])}, {"y": (T.FLOAT, ["n", 2])}, weights)
    with pytest.raises(StepError, match=r"`m\.onnx` does not load in onnxruntime: .*Incompatible dimensions") as caught:
        describe(path)
    assert "the file is at fault" in str(caught.value.hint)
