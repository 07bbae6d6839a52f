# SPDX-License-Identifier: Apache-2.0
"""ONNX sources: kept when old enough, converted down when not, renamed without changing what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from packager import canonical, json_schema
from packager.contract import contract, derivation
from packager.errors import StepError, TooNewError
from packager.graph import canonicalise
from packager.recipe.recipe import parse as read_recipe
from packager.steps import export, measure
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
    options: dict[str, Any] = {"inputs": {"rows": {"dtype": "float32", "shape": ["batch", 4]}}, "outputs": ["scores"]}
    source = opened(tmp_path, **options, dynamic={"batch": [1, 4]})
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


# -- graphs of other tools

FOREST = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
net (float[N, 2] x) => (int64[N] label, {kind} scores) {{
    label, raw = ai.onnx.ml.LinearClassifier <coefficients = [1.0, 2.0, -1.0, 0.5, 0.1, 0.2],
        intercepts = [0.0, 0.5, 1.0], classlabels_ints = [30, 10, 20], post_transform = "SOFTMAX"> (x)
    scores = {node}
}}
"""
MAP = FOREST.format(kind="seq(map(int64, float))", node="ai.onnx.ml.ZipMap <classlabels_int64s = [30, 10, 20]> (raw)")
SEQUENCE = FOREST.format(kind="seq(float[N, 3])", node="SequenceConstruct(raw, raw)")


def parsed(text: str) -> Any:
    """Parse a graph; the text format has no maps, so their type is written afterwards."""
    is_map = "seq(map" in text
    model = onnx.parser.parse_model(text.replace("seq(map(int64, float))", "float[N, 3]"))
    if is_map:
        kind = model.graph.output[1].type
        kind.Clear()
        kind.sequence_type.elem_type.map_type.key_type = onnx.TensorProto.INT64
        kind.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def test_a_map_per_row_becomes_the_tensor_of_its_scores(tmp_path: Path) -> None:
    onnx.save(parsed(MAP), tmp_path / "model.onnx")
    source = opened(tmp_path)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    own = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})[1]
    proto = canonicalise.canonicalise(source.to_onnx(18), opset=18, ir=8)
    assert [value.name for value in proto.graph.output] == ["label", "scores"]
    label, scores = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    for got, expected in zip((label, scores), source.run({"x": x}), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert [dict(zip((30, 10, 20), row, strict=True)) for row in scores.tolist()] == own


def test_the_classes_of_a_map_stand_in_the_contract(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(parsed(MAP), source / "model.onnx")
    params = {"kind": "onnx", "payload": "model.onnx", "opset": 18, "ir": 8, "dynamic": {"N": [1, 8]}}
    facts = export.run({"source": source}, tmp_path, params)
    assert facts["classes"] == {"scores": [30, 10, 20]}
    assert next(json_schema.check(facts, export.ANSWER, "facts"), None) is None
    recipe = read_recipe("name: m\nversion: 1.0.0\nsource: m.onnx\n", "bundle.yaml")
    promised = derivation.derive(recipe, facts, {"onnxruntime-cpu-fp32": "model/model.onnx"})
    assert contract.parse(canonical.dump(promised)).classes == {"scores": (30, 10, 20)}


def test_other_sequences_are_one_clear_sentence(tmp_path: Path) -> None:
    onnx.save(parsed(SEQUENCE), tmp_path / "model.onnx")
    with pytest.raises(StepError, match=r"^`scores` is a sequence, and only tensors can be served$") as caught:
        opened(tmp_path)
    assert "zipmap" in (caught.value.hint or "")


@pytest.mark.parametrize(("domain", "version", "fine"), [("", 18, True), ("ai.onnx", 18, True), ("", 17, False)])
def test_a_domain_imported_twice(tmp_path: Path, domain: str, version: int, fine: bool) -> None:
    model = written(tmp_path, 18)
    model.opset_import.add(domain=domain, version=version)
    onnx.save(model, tmp_path / "model.onnx")
    if fine:
        made = opened(tmp_path).to_onnx(18)
        assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 18)]
        return
    with pytest.raises(StepError, match=r"the operator domain `ai\.onnx` is imported as version 18 and as 17"):
        opened(tmp_path)


def test_preview_operators_are_refused_for_what_they_are(tmp_path: Path) -> None:
    text = GELU.format(node="ai.onnx.preview.training.Gradient(x)")
    onnx.save(
        onnx.parser.parse_model(text.replace("]> net", ', "ai.onnx.preview.training": 1]> net')), tmp_path / "m.onnx"
    )
    with pytest.raises(StepError, match="which runtimes do not offer") as caught:
        opened(tmp_path)
    assert "custom-domains" not in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["inner", "positive", "a", "y", "w", "größe", "x:0/β"])
def test_an_input_may_be_called_like_what_is_inside(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    source = opened(tmp_path, inputs={name: {"dtype": "float32", "shape": ["N", 4]}})
    feeds = {name: np.array([[1, -1, 2, -2]], "float32")}
    proto = source.to_onnx(18)
    got = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(got[0], source.run(feeds)[0])
    assert proto.graph.output[0].name == ("y_1" if name == "y" else "y")


# -- what ONNX Runtime runs is taken


def built(folder: Path, model: onnx.ModelProto, **more: Any) -> dict[str, Any]:
    """Export and measure a graph as a build does; return the facts of both."""
    source, out = folder / "source", folder / "out"
    source.mkdir()
    (out / "vectors").mkdir(parents=True)
    onnx.save(model, source / "model.onnx")
    params: dict[str, Any] = {"kind": "onnx", "payload": "model.onnx", **more}
    facts = export.run({"source": source}, out, {**params, "opset": 18, "ir": 8})
    compared = {"interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    compared |= {"path": "model/model.onnx", "device": "cpu"}
    return facts | measure.run({"source": source, "artefact": out}, out / "vectors", {**params, **compared})


def test_weights_that_are_listed_as_inputs(tmp_path: Path) -> None:
    """As every exporter before IR 4 wrote them."""
    model = written(tmp_path, 11)
    model.ir_version = 3
    if "w" not in [value.name for value in model.graph.input]:
        model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 2]))
    facts = built(tmp_path, model, dynamic={"N": [1, 4]})
    assert [port["name"] for port in facts["interface"]["inputs"]] == ["x"]
    assert all(case["outputs"]["y"]["frontier"] == [] for case in facts["cases"])


@pytest.mark.parametrize("stated", [[], [1], [1, 1, 1, 1], ["N", 7]])
def test_a_stated_rank_or_length_that_is_wrong_is_corrected(tmp_path: Path, stated: list[Any]) -> None:
    """ONNX Runtime warns of it and goes on."""
    model = onnx.parser.parse_model(GELU.format(node="Relu(x)").replace(" : 20", " : 17"))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, stated))
    facts = built(tmp_path, model, dynamic={"N": [1, 8]})
    assert facts["interface"]["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["N", 4]}]
    assert {tuple(case["outputs"]["y"]["shape"]) for case in facts["cases"]} >= {(1, 4), (8, 4)}


def test_a_range_of_a_single_number_is_drawn_as_an_array(tmp_path: Path) -> None:
    """ONNX Runtime takes no numpy scalars, and its refusal was told as the model's."""
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x, float f) => (float[N, 4] y) { y = Mul(x, f) }'
    described = {
        "x": {"dtype": "float32", "shape": ["N", 4]},
        "f": {"dtype": "float32", "shape": [], "range": [46.875, 100]},
    }
    facts = built(tmp_path, onnx.parser.parse_model(text), inputs=described, dynamic={"N": [1, 4]})
    assert facts["ranges"] == {"f": [46.875, 100]}
    assert len(facts["cases"]) > 3
