# SPDX-License-Identifier: Apache-2.0
"""The wheel, alone in a fresh environment, verifies, inspects and unpacks."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_the_base_install_does_the_customers_job(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Path(__file__).parents[1] / "benchmarks" / "bench_base_install.py"
    runpy.run_path(str(bench))["main"]()
    said = capsys.readouterr().out
    assert said.count(": ok") == 3
