# SPDX-License-Identifier: Apache-2.0
"""`.pt2`: the program decides which axes are free, the recipe and the signature how they are called."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from packager.errors import StepError
from packager.exporters._files import archive
from tests.unit.exporters.conftest import cnn, mlmodel, opened, tensor

Write = Callable[..., Path]
IMAGE = {"dtype": "float32", "shape": ["batch", 1, 8, 8], "range": [0, 1]}


@pytest.fixture(scope="session")
def source(pt2: Write) -> Path:
    return pt2(inputs=[tensor("float32", [-1, 1, 8, 8])], outputs=[tensor("float32", [-1, 10])])


def test_mlflows_batch_is_free_and_named(source: Path) -> None:
    model = opened(source)
    (port,) = model.interface.inputs
    assert (port.name, port.shape) == ("input", ("batch", 1, 8, 8))
    assert model.interface.dimensions == {"batch": (1, 64)}


def test_the_graph_computes_what_the_program_does(source: Path) -> None:
    model = opened(source, inputs={"image": IMAGE}, dynamic={"batch": [1, 8]}, outputs=["logits"])
    proto = model.to_onnx(18)
    assert [value.name for value in proto.graph.input] == ["image"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for rows in (1, 2, 8):
        image = np.random.default_rng(rows).random((rows, 1, 8, 8), dtype="float32")
        (expected,), (got,) = model.run({"image": image}), session.run(None, {"image": image})
        np.testing.assert_allclose(got, expected, atol=1e-6)
        with torch.no_grad():
            np.testing.assert_array_equal(expected, cnn()(torch.from_numpy(image)).numpy())


def test_an_opset_torch_does_not_know_is_an_error(source: Path) -> None:
    with pytest.raises(StepError, match="expected a graph at opset 99, got opset 18"):
        opened(source).to_onnx(99)


def test_names_come_from_the_signature(pt2: Write) -> None:
    source = pt2(inputs=[tensor("float32", [-1, 1, 8, 8], "scan")], outputs=[tensor("float32", [-1, 10], "digits")])
    model = opened(source)
    assert [port.name for port in model.interface.inputs] == ["scan"]
    assert [value.name for value in model.to_onnx(18).graph.output] == ["digits"]


def test_a_sole_dimension_takes_the_name_under_dynamic(source: Path) -> None:
    assert opened(source, dynamic={"rows": [1, 16]}).interface.dimensions == {"rows": (1, 16)}


def test_a_length_in_the_recipe_fixes_a_free_axis(source: Path) -> None:
    model = opened(source, inputs={"image": {"dtype": "float32", "shape": [4, 1, 8, 8]}})
    assert model.interface.dimensions == {}
    axis = model.to_onnx(18).graph.input[0].type.tensor_type.shape.dim[0]
    assert (axis.dim_value, axis.dim_param) == (4, "")


def test_a_range_of_one_is_a_length(source: Path) -> None:
    model = opened(source, dynamic={"batch": [3, 3]})
    assert model.interface.inputs[0].shape == (3, 1, 8, 8)
    assert model.to_onnx(18).graph.output[0].type.tensor_type.shape.dim[0].dim_value == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dynamic": {"batch": [1, 8], "time": [1, 8]}}, "no input of the source has the free dimension `time`"),
        ({"inputs": {"image": {**IMAGE, "dtype": "float64"}}}, "input `image` is float32 in the program, got float64"),
        ({"inputs": {"image": {**IMAGE, "shape": ["batch", 3, 8, 8]}}}, "axis 1 of `input` is fixed at 1"),
        ({"inputs": {"image": {**IMAGE, "shape": ["batch", 8, 8]}}}, "has 4 axes in the program, got 3"),
        ({"inputs": {"a": IMAGE, "b": IMAGE}}, "expected the inputs `input`, got `a`, `b`"),
        ({"outputs": ["a", "b"]}, "expected 1 output names, got 2"),
    ],
)
def test_a_recipe_that_does_not_fit(source: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message) as caught:
        opened(source, **params).to_onnx(18)
    assert caught.value.hint or "recipe" in caught.value.message


def test_one_row_becomes_many_where_the_recipe_asks(pt2: Write) -> None:
    source = pt2(rows=1)
    assert opened(source).interface.inputs[0].shape == (1, 1, 8, 8)
    model = opened(source, dynamic={"batch": [1, 8]})
    assert model.interface.inputs[0].shape == ("batch", 1, 8, 8)
    session = onnxruntime.InferenceSession(model.to_onnx(18).SerializeToString())
    for rows in (1, 2, 8):
        image = np.random.default_rng(rows).random((rows, 1, 8, 8), dtype="float32")
        (expected,), (got,) = model.run({"input": image}), session.run(None, {"input": image})
        np.testing.assert_allclose(got, expected, atol=1e-6)
        with torch.no_grad():
            np.testing.assert_allclose(expected, cnn()(torch.from_numpy(image)).numpy(), atol=1e-6)


class Mixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2 * x.shape[0], -1).sum(0, keepdim=True)


def test_one_row_that_cannot_become_many_says_how(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Mixed(), (torch.randn(1, 8),)), tmp_path / "m.pt2")
    assert opened(tmp_path).interface.inputs[0].shape == (1, 8)
    with pytest.raises(StepError, match="captured with one row and cannot be freed of that") as caught:
        opened(tmp_path, dynamic={"batch": [1, 8]})
    assert "at least two rows" in (caught.value.hint or "") and "torch.export.Dim" in (caught.value.hint or "")


def test_the_programs_own_range_is_respected(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim("batch", min=2, max=8)},)
    torch.export.save(torch.export.export(cnn(), (torch.randn(3, 1, 8, 8),), dynamic_shapes=dims), tmp_path / "m.pt2")
    assert opened(tmp_path).interface.dimensions == {"batch": (1, 8)}
    with pytest.raises(StepError, match="the source accepts `batch` from 1 to 8, got 1 to 64"):
        opened(tmp_path, dynamic={"batch": [1, 64]})


class Nested(torch.nn.Module):
    def forward(self, pair: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
        return {"sum": pair["a"] + pair["b"] * scale, "mean": pair["b"].mean(1)}


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    given = ({"a": torch.randn(4, 3), "b": torch.randn(4, 3)}, 2.0)
    dims = ({"a": {0: torch.export.Dim.AUTO}, "b": {0: torch.export.Dim.AUTO}}, None)
    torch.export.save(torch.export.export(Nested(), given, dynamic_shapes=dims), tmp_path / "m.pt2")
    return tmp_path


def test_nested_inputs_and_constants(nested: Path) -> None:
    names = ["pair_b", "pair_a"]
    model = opened(nested, inputs={name: {"dtype": "float32", "shape": ["rows", 3]} for name in names})
    assert [port.name for port in model.interface.inputs] == ["pair_a", "pair_b"]
    session = onnxruntime.InferenceSession(model.to_onnx(18).SerializeToString())
    feeds = {name: np.random.default_rng(1).random((5, 3), dtype="float32") for name in names}
    for expected, got in zip(model.run(feeds), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_inputs_are_not_matched_by_recipe_order(nested: Path) -> None:
    port = {"dtype": "float32", "shape": ["rows", 3]}
    with pytest.raises(StepError, match="expected the inputs `pair_a`, `pair_b`, got `left`, `right`"):
        opened(nested, inputs={"left": port, "right": port})


def test_a_signature_is_ordered(nested: Path) -> None:
    ports = [tensor("float32", [-1, 3], name) for name in ("left", "right")]
    mlmodel(nested, {"pytorch": {"model_data": "data"}}, ports, [])
    (nested / "data").mkdir()
    (nested / "m.pt2").rename(nested / "data" / "model.pt2")
    assert [port.name for port in opened(nested).interface.inputs] == ["left", "right"]


# -- archives that run code


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], extra: str | None = None) -> Path:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target / "m.pt2", "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
        if extra:
            after.writestr(extra, b"x")
    return target


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


def pickled_bomb(name: str, data: bytes) -> bytes:
    return pickle.dumps(Bomb()) if "sample_inputs" in name else data


def marked_as_pickle(name: str, data: bytes) -> bytes:
    return data.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("config.json") else data


def evaluated(name: str, data: bytes) -> bytes:
    return data.replace(b"Symbol('s", b"__import__('os').system('true') or Symbol('s") if "models/" in name else data


@pytest.mark.parametrize("change", [pickled_bomb, marked_as_pickle, evaluated])
def test_an_archive_that_runs_code_is_refused(source: Path, tmp_path: Path, change: Any) -> None:
    folder = rewritten(source / "data" / "model.pt2", tmp_path, change)
    with pytest.raises(StepError, match="can only be opened by running code of its author"):
        opened(folder)
    assert not Path("pwned").exists()


def test_custom_objects_are_refused(source: Path, tmp_path: Path) -> None:
    extra = "model/data/constants/custom_obj_0"
    folder = rewritten(source / "data" / "model.pt2", tmp_path, lambda name, data: data, extra)
    with pytest.raises(StepError, match="custom_obj_0"):
        opened(folder)


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(StepError, match=r"`m\.pt2` is not a `torch\.export` archive"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True, integer=True)",
        "Add(Mul(Integer(2), Symbol('s1')), Integer(-1))",
        "s0 + 1",
        "int_oo",
    ],
)
def test_lengths_are_recognised(text: str) -> None:
    assert archive._is_length(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "exec('x')",
        "Symbol('__import__(\"os\")')",
        "Integer('9**9')",
        "(lambda: 0)()",
        "S('x')",
        "Symbol.mro()",
        "[x for x in y]",
        "'text'",
        "f'{s0}'",
        "s0.free_symbols",
        "open('f')",
        "(",
    ],
)
def test_anything_else_is_not_a_length(text: str) -> None:
    assert not archive._is_length(text)
