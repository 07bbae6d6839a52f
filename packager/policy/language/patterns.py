# SPDX-License-Identifier: Apache-2.0
r"""Translate regular expressions of RE2 and globs of OPA for Python's engine: the subset with the same meaning.

Everything with another meaning there, or none, is refused: classes by property, `\C`, flags in the middle, Go's names
of groups. RE2's letters, digits and spaces are those of ASCII. Case is ignored for ASCII texts only, as Python and Go
fold other letters differently. Python backtracks and may take very long where RE2 does not: the time of an evaluation
is bounded.
"""

from __future__ import annotations

import functools
import re

from packager.policy.language.values import RegoError

_ESCAPES = {
    "d": "[0-9]",
    "D": "[^0-9]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
    "s": r"[\t\n\f\r ]",
    "S": r"[^\t\n\f\r ]",
    "b": r"\b",
    "B": r"\B",
    "A": r"\A",
    "z": r"\Z",
    "t": r"\t",
    "n": r"\n",
    "r": r"\r",
    "f": r"\f",
    "v": r"\v",
    "a": r"\x07",
}
_IN_CLASS = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": r"\t\n\f\r ",
    "t": r"\t",
    "n": r"\n",
    "r": r"\r",
    "f": r"\f",
    "v": r"\v",
}
_REPEAT = re.compile(r"[*+?]\??|\{([0-9]{1,4})(?:(,)([0-9]{0,4}))?\}\??")
_GROUP = re.compile(r"\((?:\?(?::|P<[A-Za-z_][A-Za-z0-9_]*>))?")
_FLAGS = re.compile(r"\(\?([is]+)\)")
_MOST_REPEATS = 1000


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a pattern of RE2 for Python's engine. Raises RegoError for one outside the subset."""
    flags = _FLAGS.match(pattern)
    said = flags[1] if flags else ""
    found, at, repeatable = [], flags.end() if flags else 0, False
    while at < len(pattern):
        text, at, repeatable = _piece(pattern, at, repeatable)
        found.append(text)
    try:
        wanted = re.ASCII | (re.IGNORECASE if "i" in said else re.NOFLAG) | (re.DOTALL if "s" in said else re.NOFLAG)
        return re.compile("".join(found), wanted)
    except (re.error, RecursionError, OverflowError):
        raise RegoError(f"`{pattern:.60}` is no regular expression") from None


def check_engines(pattern: re.Pattern[str], text: str) -> None:
    """Raise RegoError where Python's engine and RE2 might differ about a text."""
    if pattern.flags & re.IGNORECASE and not (text.isascii() and pattern.pattern.isascii()):
        raise RegoError("letters beyond ASCII are not compared without their case here")


def _piece(pattern: str, at: int, repeatable: bool) -> tuple[str, int, bool]:
    """Translate the piece at an offset; return it with its end, and whether it may be repeated."""
    letter = pattern[at]
    if letter == "\\":
        return *_escape(pattern, at, _ESCAPES), True
    if letter == "[":
        return *_class(pattern, at), True
    if letter == "(":
        group = _GROUP.match(pattern, at)
        if group is None or (pattern.startswith("(?", at) and group.end() == at + 1):
            raise RegoError(f"`{pattern[at : at + 5]}` in a regular expression is not evaluated here")
        return group.group(), group.end(), False
    repeat = _REPEAT.match(pattern, at)
    if repeat is not None:
        largest = max(int(repeat[1] or 0), int(repeat[3] or 0))
        if not repeatable or largest > _MOST_REPEATS:
            raise RegoError(f"`{repeat.group()}` in a regular expression is not evaluated here")
        return repeat.group(), repeat.end(), False
    return _sign(letter), at + 1, letter not in "$^|"


def _sign(letter: str) -> str:
    if letter in "{}":
        raise RegoError("a brace in a regular expression is not evaluated here: write it as `\\{`")
    if letter == "$":
        return r"\Z"
    return letter if letter in "^|.)" else re.escape(letter)


def _escape(pattern: str, at: int, known: dict[str, str]) -> tuple[str, int]:
    letter = pattern[at + 1 : at + 2]
    if letter in known and letter:
        return known[letter], at + 2
    if letter == "x":
        digits = re.compile(r"[0-9A-Fa-f]{2}").match(pattern, at + 2)
        if digits:
            return f"\\x{digits.group()}", at + 4
    if letter and letter.isascii() and not letter.isalnum() and letter.isprintable():
        return re.escape(letter), at + 2
    raise RegoError(f"`\\{letter}` in a regular expression is not evaluated here")


def _class(pattern: str, at: int) -> tuple[str, int]:
    end, found = at + 1, ["["]
    if pattern.startswith("^", end):
        found.append("^")
        end += 1
    first = True
    while not pattern.startswith("]", end) or first:
        if end >= len(pattern) or pattern.startswith(("[:", "[", "&&", "||", "~~", "--"), end):
            raise RegoError("this class of a regular expression is not evaluated here: write `\\[` for a bracket")
        if pattern[end] == "\\":
            text, end = _escape(pattern, end, _IN_CLASS)
            found.append(text)
        else:
            found.append("\\]" if pattern[end] == "]" else "-" if pattern[end] == "-" else re.escape(pattern[end]))
            end += 1
        first = False
    return "".join([*found, "]"]), end + 1


@functools.lru_cache(maxsize=256)
def match_glob(pattern: str, delimiters: tuple[str, ...]) -> re.Pattern[str]:
    """Return a glob as OPA means it: `*` and `?` stop at delimiters, `**` does not. Raises RegoError."""
    if any(len(item) != 1 for item in delimiters):
        raise RegoError("delimiters of a glob are single letters here")
    other = "[^" + "".join(map(re.escape, delimiters)) + "]" if delimiters else "."
    found, at, braces = [], 0, 0
    while at < len(pattern):
        letter = pattern[at]
        if pattern.startswith("**", at):
            found.append(".*")
            at += 2
            continue
        if letter == "\\" and at + 1 < len(pattern):
            found.append(re.escape(pattern[at + 1]))
            at += 2
            continue
        if letter == "[":
            text, at = _glob_class(pattern, at)
            found.append(text)
            continue
        braces += {"{": 1, "}": -1}.get(letter, 0)
        if letter in "]\\" or braces not in (0, 1):
            raise RegoError(f"the glob `{pattern:.60}` is not evaluated here")
        special = {"*": f"{other}*", "?": other, "{": "(?:", "}": ")"}
        found.append("|" if letter == "," and braces else special.get(letter, re.escape(letter)))
        at += 1
    if braces:
        raise RegoError(f"the glob `{pattern:.60}` is not evaluated here")
    return re.compile("".join(found), re.DOTALL)


def _glob_class(pattern: str, at: int) -> tuple[str, int]:
    match = re.compile(r"\[(!?)([A-Za-z0-9_.](?:-[A-Za-z0-9_.])?|[A-Za-z0-9_.]+)\]").match(pattern, at)
    if match is None:
        raise RegoError(f"the class in the glob `{pattern:.60}` is not evaluated here")
    return f"[{'^' if match[1] else ''}{match[2]}]", match.end()
