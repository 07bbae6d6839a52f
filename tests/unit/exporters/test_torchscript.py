# SPDX-License-Identifier: Apache-2.0
"""TorchScript: control flow and free axes survive, the same file gives the same bytes, and it counts as code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from packager import plugins
from packager.errors import StepError
from tests.support import tables
from tests.unit.exporters.conftest import detected, opened

INPUTS = {"x": {"dtype": "float32", "shape": ["batch", 3, 8, 8]}}


class Branching(nn.Module):
    """Takes one branch for zeros and positive means, the other for negative ones; both occur in the cases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x).mean((2, 3))
        if bool(x.sum() > 0):
            h = h * 2
        else:
            h = h - 1
        for i in range(3):
            h = h + i
        return self.last(h)


def net() -> nn.Module:
    torch.manual_seed(0)
    return Branching().eval()


FORMS = {
    "scripted": lambda: torch.jit.script(net()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(net())),
    "traced": lambda: torch.jit.trace(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval(), torch.ones(2, 3, 8, 8)
    ),
}


@pytest.mark.parametrize("ending", ["ts", "pt"])
@pytest.mark.parametrize("form", FORMS)
def test_it_answers_as_the_script_does(form: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    torch.jit.save(FORMS[form](), tmp_path / "source" / f"net.{ending}")
    assert detected(tmp_path / "source")[0] == ("torchscript" if ending == "ts" else "torch-pickle")
    found = tables.measured(tmp_path / "source", tmp_path / "out", inputs=INPUTS, dynamic={"batch": [1, 9]})
    assert max(found.worst.values()) <= 2e-6
    assert found.facts["interface"]["outputs"][0]["shape"][0] == "batch"
    again = tables.measured(tmp_path / "source", tmp_path / "again", inputs=INPUTS, dynamic={"batch": [1, 9]})
    assert (found.tree / "model/model.onnx").read_bytes() == (again.tree / "model/model.onnx").read_bytes()


def test_both_branches_are_in_the_graph(tmp_path: Path) -> None:
    torch.jit.save(FORMS["scripted"](), tmp_path / "net.ts")
    source: Any = opened(tmp_path, inputs=INPUTS)
    assert "If" in {node.op_type for node in source.to_onnx(18).graph.node}
    low, high = np.full((2, 3, 8, 8), -1, "float32"), np.ones((2, 3, 8, 8), "float32")
    assert not np.allclose(source.run({"x": low}), source.run({"x": high}))


def test_it_counts_as_code() -> None:
    assert plugins.load("exporters", "torchscript").EXECUTES


def test_unknown_inputs_and_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.jit.save(FORMS["scripted"](), tmp_path / "net.ts")
    with pytest.raises(StepError, match="the inputs of"):
        opened(tmp_path)
    (tmp_path / "net.ts").write_bytes(b"PK nothing")
    with pytest.raises(StepError, match=r"`net\.ts` is in torch.s format from before 1\.6, .* or is damaged"):
        opened(tmp_path, inputs=INPUTS)


class Calendar(nn.Module):
    def forward(self, ms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.div(ms, 1000, rounding_mode="trunc"), ms.clamp(min=0)


def test_integers_of_a_script_are_exact(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Calendar()), tmp_path / "model.ts")
    source = opened(tmp_path, inputs={"ms": {"dtype": "int64", "shape": ["batch"]}})
    ms = np.array([1732000657160, -1732000657160, (1 << 31) + 5, 242857657160, -(1 << 31) - 5], "int64")
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    for expected, got in zip(source.run({"ms": ms}), session.run(None, {"ms": ms}), strict=True):
        np.testing.assert_array_equal(got, expected)
