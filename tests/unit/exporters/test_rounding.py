# SPDX-License-Identifier: Apache-2.0
"""How far float32 rounding alone moves what a torch module answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from packager import exporters
from tests.matrix import shape_verdicts
from tests.matrix.fuzz_torch import chain
from tests.unit.exporters.conftest import opened

EPSILON = 2.0**-24


class Flat(nn.Module):
    """Normalise rows that are all but constant, which leaves their rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x + 100, x.shape[1:], eps=1e-5)


def moved(module: nn.Module, folder: Path, value: Any) -> float | None:
    program = torch.export.export(module.eval(), (torch.zeros(1, 4),))
    torch.export.save(program, folder / "model.pt2")
    source = opened(folder)
    (port,) = source.interface.inputs
    return exporters.rounding_of(source, {port.name: np.asarray(value, dtype="float32").reshape(1, 4)}, 0)


def test_a_well_posed_module_is_moved_by_a_few_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = moved(nn.Linear(4, 3), tmp_path, [1, 2, 3, 4])
    assert found and 0.1 * EPSILON < found < 50 * EPSILON


def test_a_norm_of_nearly_equal_numbers_amplifies_rounding(tmp_path: Path) -> None:
    found = moved(Flat(), tmp_path, [1e-3, 2e-3, 3e-3, 4e-3])
    assert found and found > 1000 * EPSILON


@pytest.mark.parametrize("seed", [20, 156])
def test_module_that_amplifies_rounding_gets_a_tolerance_hint(seed: int, tmp_path: Path) -> None:
    """Two modules of the random ones whose norms see almost equal numbers: refused with what to paste, or right."""
    shape, _ = chain(seed)
    (tmp_path / "source").mkdir()
    shape.save(tmp_path / "source", seed)
    row = shape_verdicts.judged("fuzz", "m", tmp_path / "source", tmp_path / "out", dynamic={"batch": [1, 7]})
    assert row.verdict == "refused-clear" and "state `tolerance: {output_1: {atol:" in row.reason
