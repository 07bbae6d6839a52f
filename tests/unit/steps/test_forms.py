# SPDX-License-Identifier: Apache-2.0
"""The forms of a graph that ONNX Runtime runs: each keeps the interface, the standard operators, and its promise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packager.runtimes import _precision
from packager.runtimes.onnxruntime import _rewrite

from packager.errors import StepError
from tests.unit.steps.conftest import Exported

LOSS = {"fp32_optimised": 1e-6, "fp16": 2e-3, "mixed": 2e-3, "int8": 0.08, "int8_dynamic": 0.03}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration data: 64 images in the range that the recipe promises, with a black and a white one."""
    folder = tmp_path_factory.mktemp("calibration")
    rows = np.random.default_rng(0).random((64, 1, 8, 8), dtype="float32")
    rows[0], rows[1] = 0, 1
    np.savez(folder / "images.npz", image=rows)
    return folder


def worst(facts: Any) -> float:
    return max(record["max_abs"] for case in facts["cases"] for record in case["outputs"].values())


@pytest.mark.parametrize("form", LOSS)
def test_a_form_is_as_exact_as_it_says(form: str, exported: Exported, images: Path, tmp_path: Path) -> None:
    """Twice the same bytes, standard operators only, the same interface, and parity within what it may lose."""
    calibration = images if form == "int8" else None
    facts = exported.compiled(tmp_path / "a", calibration, precision=form)
    assert facts == exported.compiled(tmp_path / "b", calibration, precision=form)
    data = (tmp_path / "a" / "model.onnx").read_bytes()
    assert data == (tmp_path / "b" / "model.onnx").read_bytes() and str(tmp_path).encode() not in data
    assert set(facts["graph"]["operators"]) == {"ai.onnx"}
    assert facts["artefact"] == {
        "reproducibility": "recorded" if form == "int8" else "bitwise",
        "header": {"opset": {"ai.onnx": 18}, "ir": 8},
        "needs": {},
    }
    error = worst(exported.measured(tmp_path / "a", "model.onnx"))
    assert error < LOSS[form] and (form == "fp32_optimised" or error > 1e-7)


def test_calibration_data_that_is_not_like_the_promise_shows(exported: Exported, tmp_path: Path) -> None:
    """Ranges seen on dark images alone cut off bright ones: the measurement tells, so a build would end there."""
    (tmp_path / "dark").mkdir()
    np.savez(tmp_path / "dark" / "images.npz", image=np.full((8, 1, 8, 8), 0.01, "float32"))
    exported.compiled(tmp_path / "out", tmp_path / "dark", precision="int8")
    assert worst(exported.measured(tmp_path / "out", "model.onnx")) > 2 * LOSS["int8"]


def test_eight_bits_are_a_quarter_of_the_weights(exported: Exported, images: Path, tmp_path: Path) -> None:
    facts = exported.compiled(tmp_path, images, precision="int8")
    assert facts["graph"]["bytes"] < 0.35 * exported.facts["graph"]["bytes"]
    weights = {
        tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer if len(tensor.dims) > 1
    }
    assert weights == {onnx.TensorProto.INT8}


def test_mixed_leaves_what_is_delicate_in_fp32(exported: Exported, tmp_path: Path) -> None:
    """The normalisation and the softmax compute in fp32, between casts; the products in fp16."""
    exported.compiled(tmp_path, precision="mixed")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    found = {node.op_type: types[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}
    assert found["Softmax"] == found["LayerNormalization"] == onnx.TensorProto.FLOAT
    assert found["Conv"] == found["Gemm"] == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("mixed", [False, True])
def test_what_has_no_fp16_stays_fp32_between_casts(mixed: bool) -> None:
    """Trees answer in fp32 whatever they are asked, and shape inference does not say so; a vectoriser likewise."""
    node, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT
    tree = {
        "nodes_treeids": [0],
        "nodes_nodeids": [0],
        "nodes_featureids": [0],
        "nodes_modes": ["LEAF"],
        "nodes_values": [0.0],
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [0],
        "target_treeids": [0],
        "target_nodeids": [0],
        "target_ids": [0],
        "target_weights": [0.375],
        "n_targets": 1,
    }
    words = {
        "mode": "TF",
        "min_gram_length": 1,
        "max_gram_length": 1,
        "max_skip_count": 0,
        "ngram_counts": [0],
        "ngram_indexes": [0, 1],
        "pool_int64s": [5, 7],
    }
    nodes = [
        node("TreeEnsembleRegressor", ["x"], ["leaf"], domain="ai.onnx.ml", **tree),
        node("TfIdfVectorizer", ["ids"], ["counts"], **words),
        node("Sum", ["leaf", "counts", "x"], ["sum"]),
        node("Sigmoid", ["sum"], ["y"]),
    ]
    given_ = [
        onnx.helper.make_tensor_value_info("x", float32, ["n", 2]),
        onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", 3]),
    ]
    answered = [onnx.helper.make_tensor_value_info("y", float32, ["n", 2])]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", given_, answered), opset_imports=opsets, ir_version=8
    )
    feeds = {"x": np.array([[0.5, -1.0]], np.float32), "ids": np.array([[5, 5, 7]], np.int64)}

    def answer(form: onnx.ModelProto) -> np.ndarray:
        data = form.SerializeToString()
        return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)[0]

    half = _precision.convert_to_half(onnx.ModelProto.FromString(model.SerializeToString()), mixed=mixed)
    casts = {node.output[0]: node.attribute[0].i for node in half.graph.node if node.op_type == "Cast"}
    (sigmoid,) = (node for node in half.graph.node if node.op_type == "Sigmoid")
    (trees,) = (node for node in half.graph.node if node.op_type == "TreeEnsembleRegressor")
    assert casts[trees.input[0]] == float32 and onnx.TensorProto.FLOAT16 in casts.values()
    assert sigmoid.output[0] != "y"  # computed in fp16, cast to what the interface says
    np.testing.assert_allclose(answer(half), answer(model), atol=LOSS["fp16"])


def test_graph_without_products_needs_no_calibration(tmp_path: Path) -> None:
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([relu], "g", ports[:1], ports[1:]))

    def batches() -> list[dict[str, Any]]:
        raise AssertionError("asked for data")

    with pytest.raises(StepError, match="nothing that could be quantised"):
        _rewrite.static(model, tmp_path / "model.onnx", batches)


@pytest.mark.parametrize("name", ["images.npy", "images.jsonl"])
def test_calibration_data_of_every_format_says_the_same(
    name: str, exported: Exported, images: Path, tmp_path: Path
) -> None:
    rows = np.load(images / "images.npz")["image"]
    (tmp_path / "data").mkdir()
    if name.endswith(".npy"):
        np.save(tmp_path / "data" / name, rows)
    else:
        text = "".join(json.dumps({"image": row.tolist()}) + "\n" for row in rows)
        (tmp_path / "data" / name).write_text(text)
    exported.compiled(tmp_path / "a", images, precision="int8")
    exported.compiled(tmp_path / "b", tmp_path / "data", precision="int8")
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", {"x": np.zeros((4, 1, 8, 8))}, "expected the inputs `image`, got `x`"),
        (
            "a.npz",
            {"image": np.zeros((4, 3, 8, 8))},
            r"expected float32\['batch', 1, 8, 8\] .* got float64\[4, 3, 8, 8\]",
        ),
        ("a.npz", {"image": np.zeros((0, 1, 8, 8))}, "at least one"),
        ("a.npy", np.array([{"a": 1}], dtype=object), "`a.npy` cannot be read: Object arrays cannot be loaded"),
        ("a.jsonl", "{]", "`a.jsonl` cannot be read: Expecting property name"),
        ("a.npz", "text", "`a.npz` cannot be read"),
    ],
)
def test_calibration_data_that_does_not_fit(
    name: str, content: Any, message: str, exported: Exported, tmp_path: Path
) -> None:
    """Nothing is ever unpickled, and the message names the file, the input and what was expected."""
    (tmp_path / "data").mkdir()
    if isinstance(content, str):
        (tmp_path / "data" / name).write_text(content)
    elif isinstance(content, dict):
        np.savez(tmp_path / "data" / name, **content)
    else:
        np.save(tmp_path / "data" / name, content, allow_pickle=True)
    with pytest.raises(StepError, match=message):
        exported.compiled(tmp_path / "out", tmp_path / "data", precision="int8")


@given(st.floats(-1e30, 1e30), st.booleans())
def test_a_range_is_rounded_outwards_and_hardly(bound: float, up: bool) -> None:
    got = _rewrite.rounded(bound, up=up)
    assert got >= bound if up else got <= bound
    assert abs(got - bound) <= abs(bound) / 128
    assert _rewrite.rounded(got, up=up) == got


@given(st.floats(1e-3, 1e3), st.integers(-4, 4))
def test_the_last_bits_of_a_range_rarely_matter(bound: float, steps: int) -> None:
    """What another CPU's sums differ by gives the same range, unless it lies across one of 2^8 steps."""
    near = bound * (1 + steps * 2.0**-22)
    low, high = sorted((_rewrite.rounded(bound, up=True), _rewrite.rounded(near, up=True)))
    assert high - low <= math.ldexp(1, math.frexp(bound)[1] - 7)
