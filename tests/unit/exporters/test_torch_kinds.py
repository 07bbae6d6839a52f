# SPDX-License-Identifier: Apache-2.0
"""Kinds of torch models: integers beyond 32 bits, half precision, training mode, and names that occur inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from packager.errors import StepError
from tests.support.breadth import some_of
from tests.unit.exporters.conftest import opened

AUTO = torch.export.Dim.AUTO


def saved(folder: Path, module: nn.Module, *given: torch.Tensor, training: bool = False) -> Path:
    module.train(training)
    program = torch.export.export(module, given, dynamic_shapes=tuple({0: AUTO} for _ in given))
    torch.export.save(program, folder / "model.pt2")
    return folder


def answers(source: Any, feeds: dict[str, Any]) -> list[tuple[Any, Any]]:
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    return list(zip(source.run(feeds), session.run(None, feeds), strict=True))


class Whole(nn.Module):
    """Several computations in one program, because an export takes a second."""

    def __init__(self, *computed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.computed = computed

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(compute(x) for compute in self.computed)


WIDE = np.array(
    [
        [0, 1, -1, 7, 1000],
        [1732000657160, -1732000657160, 999, -999, 86400000],
        [(1 << 53) + 1, -(1 << 53) - 1, (1 << 31) + 5, -(1 << 31) - 5, (1 << 31) - 1],
        [123456789012345678, -123456789012345678, 242857657160, 3, 5],
    ],
    dtype="int64",
)
EXACT = {
    "seconds of milliseconds": lambda x: torch.div(x, 1000, rounding_mode="trunc"),
    "floor by a negative": lambda x: torch.div(x, torch.full_like(x, -7), rounding_mode="floor"),
    "weekday": lambda x: (x // 86400000 + 4) % 7,
    "remainder with the dividend's sign": lambda x: torch.fmod(x, 7),
    "sign": lambda x: x.sign(),
    "clamp": lambda x: x.clamp(-5, 1 << 40),
    "relu": torch.relu,
    "larger": lambda x: torch.maximum(x, x.flip(1)),
    "smaller": lambda x: torch.minimum(x, x.flip(1)),
    "sum": lambda x: x.sum(1),
}


def test_integers_are_exact_whatever_their_size(tmp_path: Path) -> None:
    source = opened(saved(tmp_path, Whole(*EXACT.values()), torch.ones(4, 5, dtype=torch.int64)))
    found = answers(source, {source.interface.inputs[0].name: WIDE})
    for name, compute, (expected, got) in zip(EXACT, EXACT.values(), found, strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=name)
        np.testing.assert_array_equal(got, compute(torch.from_numpy(WIDE)).numpy(), err_msg=name)


def divided_by(mode: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.div(x, 0.7, rounding_mode=mode)


def test_division_of_floats_stays_what_it_was(tmp_path: Path) -> None:
    modes = ("trunc", "floor", None)
    source = opened(saved(tmp_path, Whole(*map(divided_by, modes)), torch.randn(4, 5)))
    x = np.random.default_rng(0).normal(0, 50, (6, 5)).astype("float32")
    for mode, (expected, got) in zip(modes, answers(source, {source.interface.inputs[0].name: x}), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=str(mode))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 4), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.layer(x)).softmax(-1, dtype=torch.float32).to(x.dtype)
        return y + torch.zeros(4, dtype=x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_weights_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Half().to(dtype)
    source = opened(saved(tmp_path, module, torch.randn(3, 8, dtype=dtype)))
    (port,) = source.interface.inputs
    assert port.dtype == "float32"
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    ((expected, got),) = answers(source, {port.name: x})
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(got, module.float()(torch.from_numpy(x)).numpy(), atol=1e-6)


def test_half_inputs_may_be_stated_as_they_were(tmp_path: Path) -> None:
    saved(tmp_path, Half().to(torch.bfloat16), torch.randn(3, 8, dtype=torch.bfloat16))
    source = opened(tmp_path, inputs={"x": {"dtype": "bfloat16", "shape": ["rows", 8]}})
    assert source.interface.inputs[0].dtype == "float32"


def test_a_pickled_module_in_half_precision(pickled: Callable[[str], Path]) -> None:
    folder = pickled("Cond")
    module = torch.load(folder / "model.pth", weights_only=False).to(torch.bfloat16)
    torch.save(module, folder / "model.pth")
    source = opened(folder, inputs={"x": {"dtype": "bfloat16", "shape": ["batch", 8]}})
    ((expected, got),) = answers(source, {"x": np.ones((3, 8), "float32")})
    np.testing.assert_allclose(got, expected, atol=1e-6)


class Dropped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(8, 8), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(self.first(x))
        return y[0] if isinstance(y, tuple) else y


TRAINED = {
    "dropout": nn.Dropout(0.5),
    "batch normalisation": nn.BatchNorm1d(8),
    "dropout between recurrent layers": nn.LSTM(8, 8, num_layers=2, dropout=0.5),
}


@pytest.mark.parametrize("what", TRAINED)
def test_a_program_in_training_mode_is_named(tmp_path: Path, what: str) -> None:
    module = Dropped(TRAINED[what]).train()
    with pytest.raises(StepError, match=f"captured in training mode: its {what}") as caught:
        opened(saved(tmp_path, module, torch.randn(4, 8), training=True))
    assert "model.eval()" in (caught.value.hint or "")


@pytest.mark.parametrize("what", TRAINED)
def test_the_same_layers_in_eval_mode_are_fine(tmp_path: Path, what: str) -> None:
    source = opened(saved(tmp_path, Dropped(TRAINED[what]), torch.randn(4, 8)))
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    for expected, got in answers(source, {source.interface.inputs[0].name: x}):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_dropout_that_ignores_eval_mode_is_named(pickled: Callable[[str], Path]) -> None:
    with pytest.raises(StepError, match="`forward` keeps dropout in training mode") as caught:
        opened(pickled("Forgetful"), inputs={"x": {"dtype": "float32", "shape": ["batch", 8]}}).to_onnx(18)
    assert "training=self.training" in (caught.value.hint or "")


def test_a_trace_in_training_mode_is_named(tmp_path: Path) -> None:
    module = torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), torch.randn(2, 8), check_trace=False)
    torch.jit.save(module, tmp_path / "model.ts")
    with pytest.raises(StepError, match="traced in training mode: its dropout is still on"):
        opened(tmp_path, inputs={"x": {"dtype": "float32", "shape": ["batch", 8]}})


NAMES = ["linear", "val_0", "layer.weight", "output", "x", "größe 你好", "a/b:0", "add"]


@pytest.mark.parametrize("name", some_of(NAMES, "val_0", "größe 你好"))
def test_no_name_of_an_input_breaks_the_graph(tmp_path: Path, name: str) -> None:
    saved(tmp_path, Half(), torch.randn(3, 8))
    source = opened(tmp_path, inputs={name: {"dtype": "float32", "shape": ["batch", 8]}})
    ((expected, got),) = answers(source, {name: np.ones((2, 8), "float32")})
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.slow  # the order of names is held in test_torch_pickle.py by default
def test_inputs_and_outputs_may_swap_names(tmp_path: Path) -> None:
    saved(tmp_path, Swap(), torch.randn(3, 8), torch.randn(3, 8))
    inputs = {name: {"dtype": "float32", "shape": ["batch", 8]} for name in ("x", "y")}
    source = opened(tmp_path, inputs=inputs, outputs=["left", "right"])
    feeds = {"x": np.ones((2, 8), "float32"), "y": np.zeros((2, 8), "float32")}
    assert [float(got[0, 0]) for _, got in answers(source, feeds)] == [0, 1]
    with pytest.raises(StepError, match="`x` would be the name of two inputs or outputs"):
        opened(tmp_path, inputs=inputs, outputs=["x", "right"]).to_onnx(18)


class Swap(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return y, x
