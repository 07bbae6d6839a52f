# SPDX-License-Identifier: Apache-2.0
"""The cells of `docs/how-to/use-from-python.md`, run as they stand: build, sign, verify, install and ask a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-from-python.md"
CELL = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow  # test_api.py builds and verifies through the API by default
def test_the_cells_build_sign_verify_install_and_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells, names = CELL.findall(PAGE.read_text("utf-8")), dict[str, Any](__name__="notebook")
    said = []
    for number, cell in enumerate(cells):
        exec(compile(cell, f"{PAGE.name} cell {number}", "exec", dont_inherit=True), names)
        said.append(capsys.readouterr().out)
    assert names["answer"] == [-4.0, 6.0]
    _show, _model, draft, build, sign, verify, _install, _ask, error = said
    assert "input   x: float32" in draft and "export" in build and "linear" in build
    assert re.search(r"writing linear 0\.1\.0: 100 %\n$", sign)
    assert re.search(r"checking linear 0\.1\.0: 100 %\n", verify) and "FAIL" not in verify and "True ok" in verify
    assert error.startswith("2 ")
    assert names["result"].verdict.ok and names["installed"].digest == names["bundle"].digest
