# SPDX-License-Identifier: Apache-2.0
"""ONNX sources: kept when old enough, converted down when not, renamed without changing what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from packager.errors import StepError, TooNewError
from tests.unit.exporters.conftest import opened

TEXT = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[N, 4] x, float[4, 2] w) => (float[N, 2] y)
<float[4, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}>
{{
    positive = Constant <value = bool {{1}}> ()
    inner = If (positive) <
        then_branch = yes () => (float[N, 4] a) {{ a = Relu(x) }},
        else_branch = no () => (float[N, 4] b) {{ b = Neg(x) }}
    >
    y = MatMul(inner, w)
}}
"""


def written(folder: Path, opset: int = 18, *, external: bool = False) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(opset=opset))
    weights = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(model.graph.initializer[0]), "w")
    model.graph.initializer[0].CopyFrom(weights)
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0} if external else {}
    onnx.save(model, folder / "model.onnx", **options)
    return model


def test_weights_are_not_inputs(tmp_path: Path) -> None:
    written(tmp_path)
    model = opened(tmp_path)
    assert [(port.name, port.shape) for port in model.interface.inputs] == [("x", ("N", 4))]


@pytest.mark.parametrize(("opset", "asked", "got"), [(17, 18, 17), (18, 18, 18), (21, 18, 18)])
def test_only_newer_graphs_are_converted(tmp_path: Path, opset: int, asked: int, got: int) -> None:
    written(tmp_path, opset)
    model = opened(tmp_path).to_onnx(asked)
    assert model.opset_import[0].version == got
    onnx.checker.check_model(model)


def test_renaming_reaches_subgraphs(tmp_path: Path) -> None:
    written(tmp_path)
    wishes: dict[str, Any] = {"inputs": {"rows": {"dtype": "float32", "shape": ["batch", 4]}}, "outputs": ["scores"]}
    source = opened(tmp_path, **wishes, dynamic={"batch": [1, 4]})
    feeds = {"rows": np.array([[1, -1, 2, -2]], "float32")}
    before = source.run(feeds)
    model = source.to_onnx(18)
    assert [axis.dim_param for axis in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", ""]
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(["scores"], feeds)
    np.testing.assert_array_equal(got[0], before[0])
    np.testing.assert_array_equal(source.run(feeds)[0], before[0])


def test_a_fixed_axis_stays_fixed(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(StepError, match="axis 1 of `x` is fixed at 4 in the graph, got `wide` from the recipe"):
        opened(tmp_path, inputs={"x": {"dtype": "float32", "shape": ["N", "wide"]}})


def test_an_unnamed_first_axis_is_the_batch(tmp_path: Path) -> None:
    model = written(tmp_path)
    model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    onnx.save(model, tmp_path / "model.onnx")
    assert opened(tmp_path).interface.inputs[0].shape == ("batch", 4)


def test_external_data_is_read(tmp_path: Path) -> None:
    written(tmp_path, external=True)
    assert (tmp_path / "weights").stat().st_size == 32
    assert len(opened(tmp_path).to_onnx(18).graph.initializer[0].raw_data) == 32


@pytest.mark.parametrize("data", [b"", b"\x08\x08garbage"])
def test_garbage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(StepError):
        opened(tmp_path).to_onnx(18)


def test_the_tokenizer_beside_a_graph_travels(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("a")
    (tmp_path / "tokenizer" / "evil.pkl").write_text("a")
    assert opened(tmp_path).extra_files() == {"tokenizer/vocab.txt": tmp_path / "tokenizer" / "vocab.txt"}


def test_missing_external_data(tmp_path: Path) -> None:
    written(tmp_path, external=True)
    (tmp_path / "weights").unlink()
    with pytest.raises(StepError, match="external data `weights` is not a regular file"):
        opened(tmp_path)


GELU = '<ir_version: 9, opset_import: ["" : 20]> net (float[N, 4] x) => (float[N, 4] y) {{ y = {node} }}'
INSIDE = """<ir_version: 9, opset_import: ["" : 20]>
net (bool c, float[N, 4] x) => (float[N, 4] y) {
    y = If (c) <then_branch = yes () => (float[N, 4] a) { a = Gelu(x) }, else_branch = no () => (float[N, 4] b) { b = Neg(x) }>
}"""


@pytest.mark.parametrize("text", [GELU.format(node="Gelu(x)"), INSIDE])
def test_an_operator_that_did_not_exist_is_named(tmp_path: Path, text: str) -> None:
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(TooNewError) as caught:
        opened(tmp_path).to_onnx(18)
    assert (caught.value.operator, caught.value.opset) == ("Gelu", 20)
    assert opened(tmp_path).to_onnx(20).opset_import[0].version == 20


def test_what_the_converter_would_drop_is_refused(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(GELU.format(node="local.Double(x)").replace("]> net", ', "local": 1]> net'))
    add = onnx.helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(onnx.helper.make_function("local", "Double", ["a"], ["b"], [add], model.opset_import[:1]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(StepError, match="has functions, which no converter keeps"):
        opened(tmp_path).to_onnx(18)
