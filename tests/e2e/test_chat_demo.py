# SPDX-License-Identifier: Apache-2.0
"""`make demo-chat`: a trained chat model from its package to answers, with every step proven."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forks import variables

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "chat" / "demo.py"


@pytest.mark.slow  # 93 MB from the index, a model of 135 million parameters
def test_the_demo_ends_with_answers_of_a_proven_installation(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, str(DEMO), str(tmp_path / "demo")],
        env=variables(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Paris" in done.stdout
    levels = json.loads(next(line for line in done.stdout.splitlines() if line.strip().startswith('{"L')))
    assert set(levels.values()) == {"pass"}
