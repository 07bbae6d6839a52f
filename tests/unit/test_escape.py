# SPDX-License-Identifier: Apache-2.0
"""Laws of showing others' text."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from packager import escape

TEXT = st.text(st.characters(codec=None, categories=None), max_size=40)
JSON: st.SearchStrategy[Any] = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
UNFIT = re.compile(f"[{escape.UNFIT}]")


def test_control_characters_are_unfit() -> None:
    """All control characters, ends of lines, halves of characters, and every character with a direction of its own."""
    for code in range(0x110000):
        char = chr(code)
        acts = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        turns = unicodedata.bidirectional(char) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        if acts or turns or char in "\u200e\u200f\u061c":
            assert UNFIT.fullmatch(char), hex(code)


@given(TEXT)
def test_a_line_is_one_visible_line(text: str) -> None:
    found = escape.line(text)
    assert not UNFIT.search(found)
    assert len(found.splitlines()) <= 1
    found.encode()
    assert escape.line(found) == found


@given(TEXT)
def test_visible_text_stays_as_it_is(text: str) -> None:
    visible = UNFIT.sub("", text)
    assert escape.line(visible) == escape.block(visible) == visible


@given(TEXT)
def test_a_block_keeps_its_lines(text: str) -> None:
    assert not UNFIT.search(escape.block(text).replace("\n", "").replace("\t", ""))


@given(TEXT)
def test_html_has_no_markup(text: str) -> None:
    assert not re.search("[<>\"']", escape.html(text))
    assert not UNFIT.search(escape.html(text))


@given(JSON)
def test_json_reads_as_it_was(value: Any) -> None:
    text = escape.json_text(value, indent=1)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert not UNFIT.search(text.replace("\n", ""))


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_json_text_is_a_scalar_of_yaml(text: str) -> None:
    if all(ord(char) < 0x10000 for char in UNFIT.findall(text)):  # YAML knows no pairs of halves
        assert yaml.safe_load(escape.json_text(text)) == text


def test_known_forms() -> None:
    assert escape.line("a\x1b[31m\nb\t\x9b\u202e\U000e0041é🙂") == "a\\x1b[31m\\nb\\t\\x9b\\u202e\\U000e0041é🙂"
    assert escape.json_text("\U000e0041\u202e") == '"\\udb40\\udc41\\u202e"'
