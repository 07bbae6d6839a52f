# SPDX-License-Identifier: Apache-2.0
"""The how-to about releasing many models: its commands run as they stand, on a real registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_tutorials import blocks, run
from tests.support import registry_server
from tests.support.tools import tool

PAGE = "docs/how-to/release-many-models.md"


@pytest.mark.slow  # `test_release.py` has the same steps on smaller models
def test_the_worked_example_runs(tmp_path: Path) -> None:
    steps = blocks(PAGE, "An example")
    with registry_server.registry(tool("docker-registry"), tmp_path / "r") as registry:
        changes = {"registry.example.org": registry.host}
        said = [run(step, tmp_path, changes) for step in steps]
    plan, released, again = said[2:]
    assert "2 models: 2 planned" in plan and "there is no lock" in plan
    assert "2 models: 2 done" in released and (tmp_path / "out" / "index.html").is_file()
    assert "2 models: 2 unchanged" in again
