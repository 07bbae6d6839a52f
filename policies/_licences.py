# SPDX-License-Identifier: Apache-2.0
"""Evaluate an SPDX licence expression against lists: `AND` needs both sides, `OR` either one."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence

_TOKENS = re.compile(r"[()]|[^\s()]+")


def accepts(expression: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """Return whether `expression` can be met. Patterns have `*` and `?`; an empty `allow` allows what is not denied.

    An expression that cannot be parsed is not acceptable. `WITH` adds a permission, so its licence decides.
    """

    def single(name: str) -> bool:
        def matches(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)

        return not matches(deny) and (not allow or matches(allow))

    words = _Words(expression)
    try:
        answer = _either(words, single)
    except (IndexError, RecursionError):
        return False
    return answer and words.done


class _Words:
    """The words of an expression, read one by one."""

    def __init__(self, text: str) -> None:
        self._left: Iterator[str] = iter(_TOKENS.findall(text))
        self.now = next(self._left, "")

    @property
    def done(self) -> bool:
        return self.now == ""

    def take(self) -> str:
        if self.done:
            raise IndexError
        word, self.now = self.now, next(self._left, "")
        return word


def _either(words: _Words, single: Callable[[str], bool]) -> bool:
    answer = _both(words, single)
    while words.now.upper() == "OR":
        words.take()
        answer = _both(words, single) or answer
    return answer


def _both(words: _Words, single: Callable[[str], bool]) -> bool:
    answer = _one(words, single)
    while words.now.upper() == "AND":
        words.take()
        answer = _one(words, single) and answer
    return answer


def _one(words: _Words, single: Callable[[str], bool]) -> bool:
    word = words.take()
    if word == "(":
        answer = _either(words, single)
        if words.take() != ")":
            raise IndexError
        return answer
    if word == ")" or word.upper() in ("AND", "OR", "WITH"):
        raise IndexError
    if words.now.upper() == "WITH":
        words.take()
        words.take()
    return single(word)
