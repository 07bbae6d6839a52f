# SPDX-License-Identifier: Apache-2.0
"""Pickled modules: inputs must be known, code must be at hand, and what cannot be a graph is one clear sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from packager.errors import StepError
from packager.graph import canonicalise, needs
from tests.unit.exporters.conftest import mlmodel, opened, tensor

Write = Callable[[str], Path]
X = {"x": {"dtype": "float32", "shape": ["batch", 8]}}


def agreeing(model: Any, *cases: dict[str, Any]) -> Any:
    """Return the graph of a model, which answers as it does."""
    graph = model.to_onnx(18)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    pairs = [pair for feeds in cases for pair in zip(model.run(feeds), session.run(None, feeds), strict=True)]
    assert all(np.allclose(expected, got, atol=1e-6) for expected, got in pairs)
    return graph


def test_a_branch_on_values_names_the_line_and_the_remedy(pickled: Write) -> None:
    with pytest.raises(StepError) as caught:
        opened(pickled("Branch"), inputs=X).to_onnx(18)
    assert caught.value.message == (
        "the model branches on the value of a tensor at `networks_of_tests.py:8`, which a graph cannot record"
    )
    assert "torch.cond" in (caught.value.hint or "")


def test_an_operator_without_onnx_form_is_named(pickled: Write) -> None:
    with pytest.raises(StepError) as caught:
        opened(pickled("Eigen"), inputs={"x": {"dtype": "float32", "shape": ["batch", 6, 6]}}).to_onnx(18)
    assert re.fullmatch(
        r"operator `aten\._linalg_eigh` has no ONNX form at `networks_of_tests.py:\d+`", caught.value.message
    )


def test_cond_becomes_if(pickled: Write) -> None:
    model = opened(pickled("Cond"), inputs=X)
    graph = agreeing(model, *({"x": sign * np.ones((3, 8), "float32")} for sign in (1, -1)))
    assert "If" in needs.list_needs(graph)["operators"]["ai.onnx"]


def test_noise_is_reported(pickled: Write) -> None:
    assert canonicalise.find_nondeterministic(opened(pickled("Noise"), inputs=X).to_onnx(18)) == ["RandomNormalLike"]


def test_a_recurrent_layer_keeps_its_length_free(pickled: Write) -> None:
    inputs = {"x": {"dtype": "float32", "shape": ["batch", "time", 8]}}
    model = opened(pickled("Recurrent"), inputs=inputs, dynamic={"time": [1, 20]})
    random = np.random.default_rng(0)
    agreeing(model, *({"x": random.random(shape, dtype="float32")} for shape in ((1, 1, 8), (2, 20, 8))))


@pytest.mark.parametrize("names", [("left", "right"), ("right", "left")])
def test_the_order_in_the_recipe_does_not_matter_and_outputs_have_stable_names(
    pickled: Write, names: tuple[str, str]
) -> None:
    model = opened(pickled("Two"), inputs={name: {"dtype": "float32", "shape": ["batch", 3]} for name in names})
    assert [port.name for port in model.interface.inputs] == ["left", "right"]
    feeds = {"left": np.ones((2, 3), "float32"), "right": np.full((2, 3), 5, "float32")}
    assert [float(array[0, 0]) for array in model.run(feeds)] == [6, -4]
    assert [value.name for value in agreeing(model, feeds).graph.output] == ["output_0", "output_1"]


def test_several_inputs_need_the_names_of_forward(pickled: Write) -> None:
    port = {"dtype": "float32", "shape": ["batch", 3]}
    with pytest.raises(StepError, match="`forward` has no argument `a`, expected some of `left`, `right`"):
        opened(pickled("Two"), inputs={"a": port, "b": port})


def test_no_argument_of_forward_may_be_left_out(pickled: Write) -> None:
    with pytest.raises(StepError, match="`forward` needs `right`, which is not among the inputs"):
        opened(pickled("Two"), inputs={"left": {"dtype": "float32", "shape": ["batch", 3]}})


def test_only_tensors_can_be_returned(pickled: Write) -> None:
    with pytest.raises(StepError, match="the model returns something that is not a tensor"):
        opened(pickled("Count"), inputs=X).to_onnx(18)


def test_a_sole_input_may_have_any_name(pickled: Write) -> None:
    model = opened(pickled("Cond"), inputs={"row": X["x"]})
    graph = agreeing(model, {"row": np.ones((3, 8), "float32")})
    assert [value.name for value in graph.graph.input] == ["row"]


def test_the_signature_is_enough(pickled: Write) -> None:
    source = pickled("Cond")
    (source / "data").mkdir()
    (source / "model.pth").rename(source / "data" / "model.pth")
    mlmodel(source, {"pytorch": {"model_data": "data"}}, [tensor("float32", [-1, 8])], [tensor("float32", [-1, 8])])
    (port,) = opened(source).interface.inputs
    assert (port.name, port.dtype, port.shape) == ("x", "float32", ("batch", 8))


def test_unknown_inputs(pickled: Write) -> None:
    with pytest.raises(StepError, match="the inputs of a pickled module are unknown") as caught:
        opened(pickled("Cond"))
    assert "inputs:" in (caught.value.hint or "")


def test_missing_code(pickled: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pickled("Cond")
    (source / "code" / "networks_of_tests.py").unlink()
    monkeypatch.delitem(sys.modules, "networks_of_tests")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "networks_of_tests.py").exists()])
    with pytest.raises(StepError, match="needs the module `networks_of_tests`, which the source does not hold"):
        opened(source, inputs=X)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"weight": torch.zeros(3)}, "holds weights without their module"), (torch.zeros(3), "holds a Tensor")],
)
def test_not_a_module(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(StepError, match=message):
        opened(tmp_path, inputs=X)


def test_garbage(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"no pickle at all")
    with pytest.raises(StepError, match=r"format from before 1\.6, which scanners do not see through, or is damaged"):
        opened(tmp_path, inputs=X)
