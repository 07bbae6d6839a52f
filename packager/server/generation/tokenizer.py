# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, through the `tokenizers` library and `tokenizer.json` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_FILE = 256 << 20  # bytes; the largest vocabularies take 40 MB
_UNFINISHED = "\ufffd"  # what the bytes of a character decode to that is not complete yet


class Tokenizer:
    """A tokenizer of one file. It may be used from several threads."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        inner.no_truncation()
        inner.no_padding()

    @staticmethod
    def open(path: Path) -> Tokenizer:
        """Read `tokenizer.json`. Raises ValueError for a file that is none, ImportError without the library."""
        from tokenizers import Tokenizer as Library

        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"`{path.name}` is larger than {MAX_FILE} bytes")
        try:
            return Tokenizer(Library.from_file(str(path)))
        except Exception as error:  # the library raises plain Exception for whatever it does not read
            raise ValueError(f"`{path.name}` is not a tokenizer: {error!s:.200}") from None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text, on request with the tokens that the model expects around it."""
        return list(self._inner.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ids, on request with special tokens."""
        return str(self._inner.decode(list(ids), skip_special_tokens=not special))

    def token(self, number: int) -> str:
        """Return the text of one token, special ones included."""
        return self.decode([number], special=True)

    def text_of(self, number: int | None) -> str:
        """Return a token as it stands in the vocabulary; empty for none."""
        return "" if number is None else str(self._inner.id_to_token(number) or "")


class Stream:
    """Decodes ids one by one; what a token adds appears once its characters are complete.

    Only the ids since the last complete text are decoded again, with those before them as their surroundings.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._before = self._done = 0

    def add(self, number: int) -> str:
        """Return the text that one more id completes, which may be empty."""
        self._ids.append(number)
        known, whole = self._decoded()
        if whole.endswith(_UNFINISHED) or len(whole) <= len(known):
            return ""
        self._before, self._done = self._done, len(self._ids)
        return whole[len(known) :]

    def finish(self) -> str:
        """Return what is left, complete or not."""
        known, whole = self._decoded()
        self._before = self._done = len(self._ids)
        return whole[len(known) :]

    def _decoded(self) -> tuple[str, str]:
        known = self._tokenizer.decode(self._ids[self._before : self._done])
        return known, self._tokenizer.decode(self._ids[self._before :])
