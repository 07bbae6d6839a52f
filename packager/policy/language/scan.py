# SPDX-License-Identifier: Apache-2.0
"""Split a program in Rego into tokens with their lines."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from packager.policy.language.values import RegoError

KEYWORDS = frozenset(
    (
        "package",
        "import",
        "default",
        "some",
        "every",
        "not",
        "with",
        "as",
        "if",
        "contains",
        "else",
        "in",
        "true",
        "false",
        "null",
    )
)
_WORD = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)|(?P<line>\n)
      | (?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z_.])
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<text>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*")
      | (?P<raw>`[^`]*`)
      | (?P<sign>:=|==|!=|<=|>=|[][{}()<>=.,;:|&+\-*/%])""",
    re.VERBOSE,
)


class Word(NamedTuple):
    """One token: its kind (`number`, `name`, `text`, `sign`, `end`), its text, its line, and what it follows."""

    kind: str
    text: str
    line: int
    starts_line: bool
    follows_space: bool


def split_words(text: str) -> list[Word]:
    """Split a program. Raises RegoError."""
    found, at, line, fresh, spaced = [], 0, 1, True, True
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            what = "a template string" if text.startswith("$", at) else f"`{text[at : at + 10]!s}`"
            raise RegoError(f"line {line}: {what} is not evaluated here")
        kind, said = str(match.lastgroup), match.group()
        at = match.end()
        if kind == "line":
            line, fresh, spaced = line + 1, True, True
        elif kind == "space":
            spaced = True
        else:
            found.append(_word(kind, said, line, fresh, spaced))
            line, fresh, spaced = line + said.count("\n"), False, False
    found.append(Word("end", "the end of the file", line, True, True))
    return found


def _word(kind: str, said: str, line: int, fresh: bool, spaced: bool) -> Word:
    if kind == "raw":
        return Word("text", said[1:-1].replace("\r", ""), line, fresh, spaced)
    if kind == "text":
        value = json.loads(said)
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            raise RegoError(f"line {line}: half of a surrogate pair is no letter")
        return Word("text", value, line, fresh, spaced)
    return Word(kind, said, line, fresh, spaced)
