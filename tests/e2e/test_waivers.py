# SPDX-License-Identifier: Apache-2.0
"""A model whose export drifts fails the build; a waiver with owner and expiry lets it pass and stays on record."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import HERE, Project, tool

RECIPE = """
name: drifting
version: 1.0.0
source: ./model
allow-pickle: true
inputs: {x: {dtype: float32, shape: [batch, 8]}}
policy: site.yaml
"""
PROFILE = """
rules: [parity, deterministic, coverage]
waivers:
  - rule: parity
    subject: "onnxruntime-cpu-fp32/output"
    owner: ada@example.org
    reason: the operator is replaced in the next release
    expires: DAY
"""


@pytest.mark.slow
def test_a_custom_operator_that_drifts(project: Callable[..., Project], tmp_path: Path) -> None:
    tool("bwrap")
    model = tmp_path / "model"
    subprocess.run([sys.executable, HERE / "drifting_model.py", model], check=True)
    made = project(RECIPE.replace("policy: site.yaml\n", ""), model=model)
    consent = re.search(r'allow-code: "sha256:[0-9a-f]{64}"\n', made.run("build", code=1).stderr)
    assert consent, "the operator is code of the source"
    made.write(RECIPE.replace("policy: site.yaml\n", consent[0]))
    refused = made.run("build", "--json", code=1)
    assert {finding["rule"] for finding in refused["findings"] if finding["level"] == "error"} == {"parity"}
    assert any("off by 0.001" in finding["message"] for finding in refused["findings"])
    made.write(RECIPE + consent[0])
    (made.folder / "site.yaml").write_text(PROFILE.replace("DAY", "2026-01-01"))
    refused = made.run("build", "--json", code=1)
    assert all("the waiver of ada@example.org ended on 2026-01-01" in f["message"] for f in refused["findings"])
    (made.folder / "site.yaml").write_text(PROFILE.replace("DAY", "2999-12-31"))
    verdict = made.run("build", "--json")["verdict"]
    assert verdict["ok"]
    for finding in verdict["findings"]:
        assert finding["level"] == "note"
        assert finding["waiver"]["owner"] == "ada@example.org"
        assert finding["waiver"]["expires"] == "2999-12-31"
    assert "note: " in made.run("build").stderr
