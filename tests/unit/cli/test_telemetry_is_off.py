# SPDX-License-Identifier: Apache-2.0
"""What opens a runtime for us leaves nothing in the home directory: no identifier, no queue of reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OPENERS = {
    "onnxruntime: an installation": ("runtimes/onnxruntime", "import session"),
    "openvino: an installation": ("runtimes/openvino", "import session"),
    "openvino: a trial": ("runtimes/openvino", "import trial"),
    "openvino: a build": (".", "from packager.runtimes.openvino import compile; compile.tool()"),
    "openvino: the suite": ("conformance", "from packager.runtimes.openvino import adapter; adapter.Adapter()"),
    "the tests": (".", "import tests.conftest, onnxruntime, openvino"),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_nothing_is_left_in_the_home_directory(opener: str, tmp_path: Path) -> None:
    folder, code = OPENERS[opener]
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT / folder)}
    done = subprocess.run([sys.executable, "-c", code], env=kept, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == []
