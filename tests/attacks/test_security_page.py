# SPDX-License-Identifier: Apache-2.0
"""What `docs/security.md` says is tested, is: every test and file that it names exists, and every count is right."""

from __future__ import annotations

import re
from pathlib import Path

from tests.hostile import gadgets

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"\b(test_\w+)\b(?!\.py|\[)", PAGE)) - {"test_attack"}
    defined = {name for text in SOURCES.values() for name in re.findall(r"def (test_\w+)\(", text)}
    assert len(named) > 20 and named <= defined | {Path(path).stem for path in SOURCES}


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:tests|packager|docs)/[\w/]+(?:\.\w+)?)[`:]", PAGE))
    assert len(named) > 10 and not [path for path in named if not (ROOT / path).exists()]
    assert not [path for path in re.findall(r"\]\(([\w./-]+)\)", PAGE) if not (ROOT / "docs" / path).exists()]


def test_a_test_stands_in_the_file_that_is_named_before_it() -> None:
    for file, tests in re.findall(r"`([\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", PAGE):
        texts = [text for path, text in SOURCES.items() if f"/{path}".endswith(f"/{file}")]
        for name in re.findall(r"`(test_\w+)`", tests):
            assert any(f"def {name}(" in text for text in texts), (file, name)


def test_the_gadgets_are_counted() -> None:
    (told,) = re.findall(r"(\d+) gadgets in `tests/hostile/gadgets.py`", PAGE)
    assert int(told) == len(gadgets.GADGETS)
