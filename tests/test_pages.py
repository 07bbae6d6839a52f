# SPDX-License-Identifier: Apache-2.0
"""What a page says is tested, is: every test and file that it names exists, each test where the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/explanation/security.md", "docs/measurements/operating.md")
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = set(re.findall(r"\b(test_\w+)\b(?!\.py|\[)", text)) - {"test_attack"}
    defined = {name for source in SOURCES.values() for name in re.findall(r"def (test_\w+)\(", source)}
    assert len(named) > 20 and named - defined - {Path(path).stem for path in SOURCES} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    text, folder = (ROOT / page).read_text("utf-8"), (ROOT / page).parent
    named = set(re.findall(r"`((?:tests|packager|docs)/[\w/]+(?:\.\w+)?)[`:]", text))
    assert named and not [path for path in named if not (ROOT / path).exists()]
    assert not [path for path in re.findall(r"\]\(([\w./-]+)\)", text) if not (folder / path).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_a_test_stands_in_the_file_that_is_named_before_it(page: str) -> None:
    rows = re.findall(r"`([\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", (ROOT / page).read_text("utf-8"))
    assert len(rows) >= 5
    for file, tests in rows:
        texts = [text for path, text in SOURCES.items() if f"/{path}".endswith(f"/{file}")]
        for name in re.findall(r"`(test_\w+)`", tests):
            assert any(f"def {name}(" in text for text in texts), (file, name)
