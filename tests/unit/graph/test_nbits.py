# SPDX-License-Identifier: Apache-2.0
"""Weights in blocks of four bits: what is packed comes out again, and is what ONNX Runtime multiplies with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from packager.errors import StepError
from packager.graph import canonicalise, nbits, needs


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([16, 32]), st.integers(0, 99))
def test_what_is_packed_comes_out_again(columns: int, blocks: int, block: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (columns, blocks * block), dtype=np.uint8)
    zeros = random.integers(0, 16, (columns, blocks), dtype=np.uint8)
    packed = nbits.pack_codes(codes, block)
    assert packed.shape == (columns, blocks, block // 2) and (nbits.unpack_codes(packed) == codes).all()
    assert (nbits.unpack_zeros(nbits.pack_zeros(zeros), blocks) == zeros).all()


def test_blocks_divide_a_column() -> None:
    with pytest.raises(StepError, match="blocks of 32 do not divide a column of 40 weights"):
        nbits.pack_codes(np.zeros((2, 40), np.uint8), 32)


def product(zeros: Any, **attributes: int) -> tuple[Any, dict[str, Any]]:
    """A graph of one product of 96 rows and 5 columns, and its weights' tensors."""
    random = np.random.default_rng(1)
    codes = random.integers(0, 16, (5, 96), dtype=np.uint8)
    tensors = {"w": nbits.pack_codes(codes, 32), "s": random.uniform(0.01, 1, (5, 3)).astype(np.float32)}
    tensors |= {} if zeros is None else {"z": zeros}
    sizes = {"K": 96, "N": 5, "bits": 4, "block_size": 32, **attributes}
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["p"], domain="com.microsoft", **sizes)
    ports = [helper.make_tensor_value_info(name, 1, ["rows", size]) for name, size in (("x", 96), ("y", 5))]
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["p"], ["y"])],
        "g",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8), tensors


ZEROS = {
    "none": None,
    "packed": nbits.pack_zeros(np.arange(15, dtype=np.uint8).reshape(5, 3)),
    "float": np.linspace(0, 15, 15, dtype=np.float32).reshape(5, 3),
}


@pytest.mark.parametrize("name", ZEROS)
def test_the_weights_are_those_that_the_runtime_multiplies_with(name: str) -> None:
    """Rows of the identity show every weight; each is one product of a scale, exact but for its last bits."""
    model, tensors = product(ZEROS[name])
    model.graph.node[1].op_type = "Identity"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.eye(96, dtype=np.float32)})
    expected = nbits.dequantise(tensors["w"], tensors["s"], tensors.get("z"))
    assert expected.dtype == np.float64 and expected.shape == (96, 5)
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=2e-6)


def test_a_contract_says_which_form_is_used() -> None:
    """Element types, sizes and what a kernel may round to; types behind the product are known again."""
    model, _ = product(ZEROS["packed"], accuracy_level=4)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    found = needs.list_needs(canonicalise.canonicalise(model, opset=17, ir=8))["operators"]
    assert found == {
        "ai.onnx": {"Relu": {"14": ["T=float32"]}},
        "com.microsoft": {"MatMulNBits": {"1": ["T1=float32;bits=4;block=32;zeros=uint8;accuracy=4"]}},
    }
    model, _ = product(None)
    found = needs.list_needs(canonicalise.canonicalise(model, opset=17, ir=8))["operators"]
    assert found["com.microsoft"]["MatMulNBits"]["1"] == ["T1=float32;bits=4;block=32;zeros=none;accuracy=0"]
