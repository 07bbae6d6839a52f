# SPDX-License-Identifier: Apache-2.0
"""Compile: the canonical graph to the artefact of one target. The runtime knows how; this step finds the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.runtime import load_runtime
from packager.steps import _answers, _calibration

VERSION = (
    5  # 5: element types behind operators of tables; 4: sums that depend on the processor; 3: what the artefact is
)
ANSWER = _answers.COMPILE


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write the artefact of the target `params` names (`runtime`, `device`, `precision`); return its facts.

    `path` of the artefact in `out`, and `artefact`: its `reproducibility` (`bitwise`, or `recorded` where another
    host may give other bytes), its `header` as read back from the file, and what it `needs` to run.
    A tree `calibration` or `source` is where data comes from for the targets that are calibrated, and the tree
    `timings` holds the file that a build of kernels is bound to.
    """
    compile_graph = load_runtime(params["runtime"]).compiler()

    def batches() -> Sequence[Mapping[str, Any]]:
        return _calibration.cut_batches(inputs, params)

    return compile_graph(inputs, out, params, batches)
