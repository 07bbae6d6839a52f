# SPDX-License-Identifier: Apache-2.0
"""`packager chat` with what is no model of texts, and with a standard input that is no text."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from packager.cli import chat
from packager.errors import UsageError
from tests.conftest import Run


def test_an_installation_that_generates_no_text_says_so(packager: Run, tmp_path: Path) -> None:
    """As a bundle does: before its process is started, which would end with a trace of Python."""
    release = tmp_path / "site" / "releases" / "1"
    (release / "app" / "packager" / "server" / "generation").mkdir(parents=True)
    (release / "serve.json").write_text(json.dumps({"name": "tiny", "version": "1.0.0", "interface": {}}))
    (tmp_path / "site" / "current").symlink_to("releases/1")
    said = packager("chat", "site", "--prompt", "hello", code=2).stderr
    assert said.startswith("error: `tiny:1.0.0` generates no text") and "packager serve" in said


def test_bytes_that_are_no_text_are_an_error_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of packager, whose exit code would be 70."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\ncaf\xe9\n"), encoding="utf-8"))
    with pytest.raises(UsageError, match="no utf-8 text"):
        list(chat._lines())
