# SPDX-License-Identifier: Apache-2.0
"""Keras and TensorFlow models in every form they are saved in: right, or refused with the reason and the way out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from packager.sandbox.sandbox import environment_interpreter
from tests.matrix import verdicts
from tests.matrix.verdicts import Row
from tests.support.environments import python_with

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TENSORFLOW = (
    "tensorflow==2.21.0",
    "tf-keras==2.21.0",
    "keras==3.15.1",
    "tf2onnx==1.17.0",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "pyyaml",
    "packaging",
)
COMMON = (
    "normalization",
    "conv2d",
    "conv3d",
    "causal",
    "embedding",
    "masked_lstm",
    "masked_gru",
    "masked_rnn",
    "attention",
    "two_in_two_out",
    "by_name",
    "unused",
    "twice",
    "convlstm",
    "operators",
    "bidirectional",
)
RIGHT = (
    *(f"keras:{name}" for name in (*COMMON, "discretization", "resizing", "float64")),
    *(f"h5:{name}" for name in (*COMMON, "time_distributed")),
    *(f"h5_of_3:{name}" for name in ("conv2d", "embedding", "normalization")),
    *(
        f"saved:{name}"
        for name in (
            "constants",
            "loop",
            "gather",
            "second_signature",
            "own_layer",
            "trained",
            "normalization",
            "embedding",
        )
    ),
    *(
        f"lite:{name}"
        for name in ("normalization", "causal", "resizing", "embedding", "attention", "two_in_two_out", "unused")
    ),
)
REFUSED = (
    "keras:text",
    "keras:lookup",
    "keras:lambda",
    "keras:own_layer",
    "keras:time_distributed",
    "h5:lambda",
    "h5:own_layer",
    "h5_of_3:lambda",
    "h5_of_3:masked_lstm",
    "saved:text",
    "saved:signature",
    "lite:conv2d",
)


def judged(titles: tuple[str, ...], code: Path) -> list[Row]:
    program = environment_interpreter(python_with(*TENSORFLOW).parent.parent, code)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables["PYTHONPATH"] = os.pathsep.join((program.code, str(ROOT)))
    done = subprocess.run(
        [program.program, "-P", "-m", "tests.matrix.keras_verdicts", *titles],
        capture_output=True,
        text=True,
        env=variables,
        cwd=ROOT,
        check=False,
    )
    rows = [
        Row(**json.loads(line.removeprefix("ROW "))) for line in done.stdout.splitlines() if line.startswith("ROW ")
    ]
    assert len(rows) == len(titles), done.stderr[-3000:]
    return rows


def test_every_form_is_right_or_refused_with_the_reason(tmp_path: Path) -> None:
    rows = judged((*RIGHT, *REFUSED), tmp_path)
    verdicts.write("keras", rows)
    other = [row for row in rows if row.verdict != ("right" if row.model in RIGHT else "refused-clear")]
    assert not other, "\n".join(row.line() for row in other)
