# SPDX-License-Identifier: Apache-2.0
"""What sources that generate have in common: the tokenizer of transformers, which gives the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packager.errors import StepError


class Tokenized:
    """A source with a tokenizer."""

    __slots__ = ()
    tokenizer: Any

    def special_tokens(self) -> Sequence[str]:
        return [str(token) for token in self.tokenizer.all_special_tokens]

    def encode(self, text: str) -> Sequence[int]:
        found: Sequence[int] = self.tokenizer(text, add_special_tokens=True).input_ids
        return found

    def answer_row(self, read: str | bytes) -> str:
        """Refuse: what a decoder writes is no answer that could be right or wrong. Raises StepError."""
        raise StepError(f"{len(read)} characters were to be answered by a source that is no encoder-decoder")

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
