# SPDX-License-Identifier: Apache-2.0
"""int4: blocks lose little, answers are those of the blocks, what stays in float32 is said, and faults are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer
from packager.policies import evaluation as rule
from packager.runtimes.onnxruntime import _blocks, compile  # noqa: A004

from packager.errors import StepError
from packager.graph import canonicalise, nbits
from packager.recipe.int4 import Int4
from packager.steps import _evaluate
from tests.unit.steps.test_evaluate import INTERFACE, X, Y, rows, runner, write_lines

WIDTH = 64
HIDDEN = 96


def network(hidden: Any = None, head: Any = None) -> Any:
    """Two layers behind a table of 40 rows, a Gemm with a bias between them, and a head of ten scores."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.normal(0, 1, (40, WIDTH)),
        "first": random.normal(0, 0.1, (WIDTH, HIDDEN)) if hidden is None else hidden,
        "second": random.normal(0, 0.1, (HIDDEN, HIDDEN)),
        "bias": random.normal(0, 1, HIDDEN),
        "head": random.normal(0, 0.1, (HIDDEN, 12)) if head is None else head,
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "second", "bias"], ["c"], transB=1),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "head"], ["scores"]),
    ]
    ports = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 12]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compiled(model: Any, folder: Path, device: str = "cpu", **options: Any) -> tuple[Any, Any]:
    """Compile a model to int4; return the facts and the written model."""
    source, out = folder / "graph", folder / "out"
    source.mkdir(parents=True)
    out.mkdir()
    canonicalise.write(canonicalise.canonicalise(model, opset=17, ir=8), source)
    params = {"precision": "int4", "device": device, "path": "model.onnx", "opset": 17, "ir": 8}
    params["int4"] = {**Int4().to_json(), **options}
    facts = compile.compile_graph({"graph": source}, out, params, list)
    return facts, onnx.load(out / "model.onnx")


def answers(model: Any, **feeds: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def exactly(model: Any, ids: Any) -> Any:
    """Evaluate the compiled network in float64, with weights taken out of their blocks."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = {name: array.astype(np.float64) for name, array in tensors.items() if array.dtype == np.float32}
    values["ids"] = ids
    for node in model.graph.node:
        given_ = [values.get(name, tensors.get(name)) for name in node.input]
        values[node.output[0]] = {
            "Gather": lambda table, rows_: table[rows_],
            "MatMul": lambda left, right: left @ right,
            "MatMulNBits": lambda left, codes, scales, zeros=None: (
                left @ nbits.dequantise(codes, scales.astype(np.float32), zeros)
            ),
            "Relu": lambda value: np.maximum(value, 0),
            "Add": lambda left, right: left + right,
            "Tanh": np.tanh,
        }[node.op_type](*given_)
    return values["scores"]


IDS = np.arange(40, dtype=np.int64)


@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_lose_less_than_the_library_s_own(symmetric: bool) -> None:
    """ONNX Runtime's quantizer takes the range of a block as it is; the sum of squared errors here is smaller."""
    weights = np.random.default_rng(0).normal(0, 1, (256, 48)).astype(np.float32)
    config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric)
    packed, scales, zeros = matmul_nbits_quantizer.DefaultWeightOnlyQuantizer(config).qbits_block_quant(weights)
    theirs = nbits.dequantise(packed, scales, None if symmetric else zeros)
    found = _blocks.quantise(weights, 32, symmetric=symmetric)
    ours = nbits.dequantise(nbits.pack_codes(found.codes, 32), found.scales, nbits.pack_zeros(found.zeros))
    loss, other = (float(np.sqrt(((w - weights) ** 2).sum() / (weights**2).sum())) for w in (ours, theirs))
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert loss < 0.97 * other


@settings(max_examples=40)
@given(st.integers(0, 999), st.sampled_from([0.0, 1e-15, 1.0, 1e14]), st.booleans())
def test_no_weight_is_farther_than_the_range_of_its_block(seed: int, size: float, symmetric: bool) -> None:
    """Zeros, blocks of one sign and blocks of one value too: finite, and off by less than half of the largest."""
    random = np.random.default_rng(seed)
    weights = (random.normal(0, 1, (32, 6)) * size).astype(np.float32)
    weights[:16, 0], weights[16:, 1], weights[:, 2] = 0, np.abs(weights[16:, 1]), weights[0, 2]
    found = _blocks.quantise(weights, 16, symmetric=symmetric)
    got = nbits.dequantise(nbits.pack_codes(found.codes, 16), found.scales, nbits.pack_zeros(found.zeros))
    assert np.isfinite(got).all() and np.isfinite(found.loss)
    reach = np.maximum(np.abs(weights.reshape(2, 16, 6)).max(1), 0)
    assert (np.abs(got - weights).reshape(2, 16, 6).max(1) <= 0.5 * reach + 1e-37).all()


@pytest.mark.parametrize("options", [{}, {"symmetric": True, "block": 16}, {"last": True}], ids=str)
def test_the_artefact_computes_what_its_blocks_say(options: Any, tmp_path: Path) -> None:
    """Twice the same bytes; as near to the blocks in float64 as float32 is; off from the source by what blocks lose."""
    model = network()
    facts, made = compiled(model, tmp_path / "a", **options)
    again, _ = compiled(model, tmp_path / "b" / "elsewhere", **options)
    one, two = ((tmp_path / path / "out" / "model.onnx").read_bytes() for path in ("a", "b/elsewhere"))
    assert one == two and facts == again and facts["artefact"]["reproducibility"] == "bitwise"
    got = answers(made, ids=IDS)
    np.testing.assert_allclose(got, exactly(made, IDS), atol=2e-6)
    off = np.abs(got - answers(model, ids=IDS)).max()
    assert 1e-3 < off < 0.5
    assert facts["graph"]["opset"] == {"ai.onnx": 17, "com.microsoft": 1}


def test_activations_of_eight_bits_are_seen(tmp_path: Path) -> None:
    """Only where the recipe asks for them is a kernel allowed to round what it multiplies: then answers leave the blocks."""
    facts, made = compiled(network(), tmp_path / "a", activations="int8")
    off = np.abs(answers(made, ids=IDS) - exactly(made, IDS)).max()
    assert 1e-4 < off < 0.1
    assert facts["artefact"]["quantised"]["activations"] == "int8"
    (form,) = facts["graph"]["operators"]["com.microsoft"]["MatMulNBits"]["1"]
    assert form == "T1=float32;bits=4;block=32;zeros=uint8;accuracy=4"
    _, plain = compiled(network(), tmp_path / "b")
    assert not any(part.name == "accuracy_level" for node in plain.graph.node for part in node.attribute)


def test_what_stays_in_float32_is_said(tmp_path: Path) -> None:
    facts, made = compiled(network(), tmp_path)
    quantised = facts["artefact"]["quantised"]
    assert 0.05 < quantised.pop("loss") < 0.1
    assert quantised == {
        "bits": 4,
        "block": 32,
        "symmetric": False,
        "activations": "float32",
        "layers": 2,
        "weights": WIDTH * HIDDEN + HIDDEN * HIDDEN,
        "float32": {"last": ["head"], "table": ["table"]},
    }
    left = {tensor.name for tensor in made.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert {"table", "bias", "head"} <= left and not {"first", "second"} & left
    outlier = np.random.default_rng(0).normal(0, 0.1, (WIDTH, HIDDEN))
    outlier[::32] = 50  # one weight of each block is all there is of it
    stays, _ = compiled(network(outlier), tmp_path / "b", loss=0.02)
    assert stays["artefact"]["quantised"]["float32"]["loss"] == ["second"], "an outlier alone is exact"
    narrow, _ = compiled(network(), tmp_path / "c", block=64, last=True)
    assert narrow["artefact"]["quantised"]["float32"] == {"blocks": ["head", "second"], "table": ["table"]}


def test_a_value_that_is_no_number_stays(tmp_path: Path) -> None:
    broken = np.full((WIDTH, HIDDEN), 0.1)
    broken[3, 4] = np.inf
    facts, _ = compiled(network(broken), tmp_path)
    assert facts["artefact"]["quantised"]["float32"]["loss"] == ["first"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"no layer can be put into blocks .* 3 blocks, 1 table") as refused:
        compiled(network(), tmp_path / "a", block=256, last=True)
    assert "smaller `block`" in str(refused.value.hint)
    with pytest.raises(StepError, match="`tensorrt` has no kernel for weights in blocks of four bits"):
        compiled(network(), tmp_path / "b", device="tensorrt")


def digits() -> Any:
    """A trained network of two layers for the pictures of scikit-learn, hidden units first."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((64,), max_iter=60, random_state=0).fit(X[:1000], Y[:1000])
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Add", ["a", "b0"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w1"], ["d"]),
        helper.make_node("Add", ["d", "b1"], ["e"]),
        helper.make_node("Softmax", ["e"], ["scores"], axis=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    fixed = {f"w{i}": w for i, w in enumerate(model.coefs_)} | {f"b{i}": b for i, b in enumerate(model.intercepts_)}
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in fixed.items()]
    graph = helper.make_graph(nodes, "digits", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_wrong_scales_are_named_by_the_metric(tmp_path: Path) -> None:
    """The blocks keep the labels; with the sign of every second scale turned they lose them, and both values are said."""
    model = digits()
    _, made = compiled(model, tmp_path)
    turned = onnx.ModelProto.FromString(made.SerializeToString())
    (planted,) = (tensor for tensor in turned.graph.initializer if tensor.name.endswith("_scales"))
    array = numpy_helper.to_array(planted).copy()
    array[::2] *= -1  # a sign is part of a scale
    planted.CopyFrom(numpy_helper.from_array(array, planted.name))
    data = write_lines(tmp_path / "data", rows())
    spec = {"label": "digit", "metric": "accuracy", "slices": ["ink"]}
    for artefact, right in ((made, True), (turned, False)):
        sides = runner(model.SerializeToString()), runner(artefact.SerializeToString())
        found, _ = _evaluate.evaluate(data, None, spec, {"interface": INTERFACE}, *sides)
        target = {"unmeasured": None, "evaluation": {"metric": "accuracy", "bound": 0.88, "slice-bound": 0.8, **found}}
        findings = list(rule.check({"targets": {"cpu-int4": target}}, False, 30))
        assert found["source"] > 0.9 and (found["target"] > 0.88) is right and bool(findings) is not right
        if findings:
            assert f"accuracy is {found['target']:.4g}" in findings[0].message
            assert f"{found['source']:.4g} in the source" in findings[0].message
