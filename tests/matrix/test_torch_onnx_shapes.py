# SPDX-License-Identifier: Apache-2.0
"""Torch modules and ONNX files of every common shape: right, or refused in one clear sentence.

The rows are kept in `results/torch_onnx.jsonl`; those that were run replace their own lines. A few random modules of
`fuzz_torch` run as well; many at once with `python -m tests.matrix.fuzz_torch FIRST COUNT FILE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import fuzz_torch, onnx_shapes, shape_verdicts, torch_shapes
from tests.matrix.verdicts import Row

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parent / "results" / "torch_onnx.jsonl"
REFUSED = {  # what no graph can express, or no runtime of the promised ones reads
    "torch": {"complex", "cumulative product", "distances", "eigenvalues", "inverse"},
    "onnx": {
        "another vendor's operator",
        "imported twice, unlike",
        "never runs",
        "optional output",
        "preview operators",
        "random",
        "sequence output",
        "torch 2.13, linear",
    },
}


def kept(row: Row) -> None:
    """Write one row into the table, in the place of its last one."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = {(found["family"], found["model"]): line for line in lines if (found := json.loads(line))}
    rows[row.family, row.model] = row.line()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(f"{rows[key]}\n" for key in sorted(rows)))


def expected(family: str, name: str) -> str:
    return "refused-clear" if name in REFUSED[family] else "right"


@pytest.mark.parametrize("name", torch_shapes.SHAPES)
def test_torch(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    torch_shapes.SHAPES[name].save(tmp_path / "source")
    verdict = shape_verdicts.judged("torch", name, tmp_path / "source", tmp_path / "out")
    kept(verdict)
    assert verdict.verdict == expected("torch", name), verdict.reason


@pytest.mark.parametrize("name", onnx_shapes.SHAPES)
def test_onnx(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    onnx_shapes.SHAPES[name](tmp_path / "source")
    verdict = shape_verdicts.judged("onnx", name, tmp_path / "source", tmp_path / "out")
    kept(verdict)
    assert verdict.verdict == expected("onnx", name), verdict.reason


@pytest.mark.parametrize("seed", range(5))
def test_random_modules(seed: int, tmp_path: Path) -> None:
    verdict = fuzz_torch.judged(seed, tmp_path)
    assert verdict.verdict == "right", verdict.reason


def test_a_fault_of_the_conversion_is_no_right_verdict(tmp_path: Path, monkeypatch: Any) -> None:
    """The table can fail: with division through float32, as torch converts it, the calendar is off."""
    from packager.exporters._torch import divide

    monkeypatch.setattr(divide, "translations", lambda lib: {})
    (tmp_path / "source").mkdir()
    torch_shapes.SHAPES["calendar of milliseconds"].save(tmp_path / "source")
    verdict = shape_verdicts.judged("torch", "calendar", tmp_path / "source", tmp_path / "out")
    assert verdict.verdict == "refused-poor" and "differ" in verdict.reason
