# SPDX-License-Identifier: Apache-2.0
"""8-bit weights whose sums depend on the processor are found, in every form that ONNX Runtime computes in integers."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.contract import contract
from packager.contract.fleet import Site
from packager.contract.preflight import doubts_of, judge_site
from packager.contract.runtime_support import Judgement
from packager.graph import saturation
from tests.support import contracts

SEVEN, EIGHT = 64, 127  # the largest weights of seven bits, and of all eight


def weights(largest: int, shape: tuple[int, ...] = (16, 4), dtype: str = "int8") -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(largest - 3, largest + 1, shape).astype(dtype)


def model(
    nodes: list[Any],
    tensors: dict[str, Any],
    x: int = TensorProto.FLOAT,
    y: int = TensorProto.FLOAT,
    axes: Any = ("n", 16),
) -> Any:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    ends = [helper.make_tensor_value_info("x", x, axes)], [helper.make_tensor_value_info("y", y, None)]
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, held), opset_imports=sets, ir_version=8)


def pairs(operator: str, largest: int, unsigned: bool, axes: Any = ("n", 16), shape: tuple[int, ...] = (16, 4)) -> Any:
    """An operator between QuantizeLinear and DequantizeLinear."""
    zero = np.array(0, "uint8" if unsigned else "int8")
    tensors = {"w": weights(largest, shape), "s": np.float32(0.01), "zw": np.array(0, "int8"), "z": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["v"]),
        helper.make_node(operator, ["d", "v"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    return model(nodes, tensors, axes=axes)


def integers(largest: int, x: int = TensorProto.UINT8) -> Any:
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return model(nodes, {"w": weights(largest)}, x, TensorProto.INT32)


def linear(largest: int, dtype: str = "int8") -> Any:
    u8 = np.array(0, "uint8")
    tensors = {"w": weights(largest, dtype=dtype), "s": np.float32(0.1), "z": u8, "zw": np.array(0, dtype)}
    nodes = [helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"])]
    return model(nodes, tensors, TensorProto.UINT8, TensorProto.UINT8)


def dynamic(largest: int) -> Any:
    tensors = {"w": weights(largest), "s": np.float32(0.01), "z": np.array(0, "int8")}
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")
    return model([node], tensors)


CONV: Any = ("n", 8, 6, 6)
KERNELS = (4, 8, 3, 3)


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (integers(EIGHT), {"MatMulInteger": 1}),
        (integers(SEVEN), {}),
        (integers(EIGHT, TensorProto.INT8), {}),  # signed by signed is computed exactly
        (linear(EIGHT), {"QLinearMatMul": 1}),
        (linear(SEVEN), {}),
        (linear(EIGHT, "uint8"), {}),
        (dynamic(EIGHT), {"DynamicQuantizeMatMul": 1}),
        (dynamic(SEVEN), {}),
        (pairs("MatMul", EIGHT, unsigned=True), {"MatMul": 1}),
        (pairs("MatMul", EIGHT, unsigned=False), {"MatMul": 1}),  # the runtime makes it unsigned
        (pairs("MatMul", SEVEN, unsigned=True), {}),
        (pairs("Conv", EIGHT, True, CONV, KERNELS), {"Conv": 1}),
        (pairs("Conv", SEVEN, True, CONV, KERNELS), {}),
        (model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((16, 4), "float32")}), {}),
    ],
    ids=lambda value: None if isinstance(value, onnx.ModelProto) else str(value),
)
def test_what_depends_on_the_processor(made: Any, found: dict[str, int]) -> None:
    assert saturation.count_saturating(made) == found


def test_what_is_found_is_what_this_processor_gets_wrong(tmp_path: Path) -> None:
    """Exact arithmetic against ONNX Runtime: they differ here only where it was found, and where VNNI is missing."""
    flags = Path("/proc/cpuinfo").read_text()
    x = np.full((2, 16), 255, "uint8")
    for largest in (SEVEN, EIGHT):
        made = integers(largest)
        got = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
        exact = x.astype("int32") @ weights(largest).astype("int32")
        may_differ = bool(saturation.count_saturating(made)) and platform.machine() == "x86_64"
        assert (got == exact).all() or (may_differ and not any(f" {flag}" in flags for flag in saturation.EXACT))


def promised(*exact: str) -> contract.Contract:
    value = contracts.derived()
    for target in value["targets"].values():
        target["needs"] |= {"exact": list(exact)} if exact else {}
    return contracts.read(value)


@pytest.mark.parametrize(
    ("exact", "machine", "cpu", "doubted"),
    [
        (saturation.EXACT, "x86_64", ("avx2",), True),
        (saturation.EXACT, "x86_64", ("avx2", "avx_vnni"), False),
        (saturation.EXACT, "x86_64", (), False),  # nothing is known of it
        (saturation.EXACT, "aarch64", ("asimd",), False),
        ((), "x86_64", ("avx2",), False),
    ],
)
def test_a_processor_is_judged(exact: tuple[str, ...], machine: str, cpu: tuple[str, ...], doubted: bool) -> None:
    told = promised(*exact)
    terms = next(iter(told.targets.values()))
    assert bool(list(doubts_of(terms, machine, cpu))) == doubted
    site = Site("s", {terms.target.runtime: "1.20.0"}, machine=machine, cpu=cpu)
    answers: list[Judgement] = [cell.answer for cell in judge_site(told, site).cells]
    assert [any(r.limit == "processor" for r in answer.reasons) for answer in answers] == [doubted]
    assert [answer.outcome for answer in answers] == ["unknown" if doubted else "ok"]
