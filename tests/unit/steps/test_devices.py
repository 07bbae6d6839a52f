# SPDX-License-Identifier: Apache-2.0
"""Which nodes may be on the CPU in a session of a GPU, by ONNX Runtime's own record of graphs on the CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnx.parser
import onnxruntime
import pytest
from packager.runtimes.onnxruntime import session

ROOT = Path(__file__).resolve().parents[3]
# The rows doubled: a shape that is computed, as exporters write it for free axes.
DOUBLED = """<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
g (float[N, 4] x, bool c) => (float[M, K] y) {
  s = Shape(x)
  i = Constant<value = int64[1] {0}>()
  n = Gather(s, i)
  two = Constant<value = int64[1] {2}>()
  k = Mul(n, two)
  rest = Constant<value = int64[1] {-1}>()
  sizes = Concat<axis = 0>(k, rest)
  %s
}"""


def recorded(text: str) -> Any:
    model = onnx.parser.parse_model(text)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened.get_provider_graph_assignment_info()


@pytest.fixture(scope="module")
def adapter() -> Any:
    """The adapter as the suite starts it: `suite` is beside it, not in the package."""
    sys.path.insert(0, str(ROOT / "conformance"))
    try:
        place = ROOT / "runtimes" / "onnxruntime" / "adapter.py"
        spec = importlib.util.spec_from_file_location("adapter_under_test", place)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "conformance"))


def test_shapes_may_stay_on_the_cpu(adapter: Any) -> None:
    assigned = recorded(DOUBLED % "y = Reshape(x, sizes)")
    assert "Gather" in {node.op_type for part in assigned for node in part.get_nodes()}
    session.require_device(assigned)
    assert adapter.left_to_cpu(assigned) == []


# Only in a branch: the switch of ONNX Runtime goes over the main graph.
BRANCH = """r = Reshape(x, sizes)
  y = If(c)<then_branch = t () => (float[A, B] a) { a = Selu(r) },
            else_branch = e () => (float[A2, B2] b) { b = Identity(r) }>"""


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("r = Reshape(x, sizes) y = Softmax(r)", "Softmax"),
        ("r = Reshape(x, sizes) y = com.microsoft.QuickGelu(r)", "com.microsoft.QuickGelu"),
        (BRANCH, "If"),
    ],
)
def test_data_may_not(adapter: Any, nodes: str, left: str) -> None:
    assigned = recorded(DOUBLED % nodes)
    with pytest.raises(RuntimeError, match=f"leaves nodes that compute on data to the CPU: .*{left} \\(1\\)"):
        session.require_device(assigned)
    assert left in adapter.left_to_cpu(assigned)
    assert ("Selu" in adapter.left_to_cpu(assigned)) == ("Selu" in nodes)


def test_server_and_suite_allow_the_same(adapter: Any) -> None:
    assert adapter.SHAPES == session.SHAPES


def test_a_fall_back_of_every_node_is_refused(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    place = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(DOUBLED % "y = Reshape(x, sizes)"), place)
    with pytest.raises(RuntimeError, match="expected provider CUDAExecutionProvider"):
        session.open_session(place, threads=1, device="cuda")
