# SPDX-License-Identifier: Apache-2.0
"""Keep an answer inside a grammar: of every step, the tokens that may follow, by the library `llguidance`.

A grammar is written of JSON schemas (and of calls of tools, see `tools`). Keywords of a schema that the library does
not do are refused by it with their names, never ignored; references to other documents are not followed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packager.server.errors import RequestError
from packager.server.generation.sampling import Logits
from packager.server.generation.tokenizer import MAX_FILE

MAX_SCHEMA = 64 << 10  # bytes of JSON
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python and chat templates write it. With free white space, small models write nothing else."""
_LIMITS = {  # a tenth to a half of the library's own: what one request may cost
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 10_000,  # of 2 kB
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}


class GuidanceError(RequestError):
    """A grammar that cannot be had, with the reason."""


class Guides:
    """The vocabulary of one model, against which grammars are compiled. Several threads may use it."""

    def __init__(self, tokenizer: Path, vocabulary: int, eos: Sequence[int]) -> None:
        """Take the file of a tokenizer, which is read at the first use."""
        self._file, self._vocabulary, self._eos = tokenizer, vocabulary, list(eos)
        self._lock = threading.Lock()
        self._opened: Any = None

    def check(self, grammar: str) -> None:
        """Compile a grammar once. Raises GuidanceError for one that is not valid, or cannot be had here."""
        self.begin(grammar)

    def begin(self, grammar: str) -> Guide:
        """Return the guide of one answer. Raises GuidanceError."""
        library = _library()
        limits = library.LLParserLimits(**_LIMITS)
        made = library.LLMatcher(self._vocabulary_of(library), grammar, log_level=0, limits=limits)
        if made.is_error():
            raise GuidanceError(f"this schema is not supported: {_reason(made.get_error())}")
        return Guide(made, self._vocabulary, self._eos)

    def _vocabulary_of(self, library: Any) -> Any:
        with self._lock:
            if self._opened is None:
                if self._file.stat().st_size > MAX_FILE:
                    raise GuidanceError(f"`{self._file.name}` is larger than {MAX_FILE} bytes")
                text = self._file.read_text("utf-8")
                try:
                    end = next(iter(self._eos), None)  # older versions know one; `Guide` adds the others
                    self._opened = library.LLTokenizer(text, n_vocab=self._vocabulary, eos_token=end)
                except Exception as error:  # the library has no class of its own
                    raise GuidanceError(
                        f"this model's tokenizer cannot be guided by a grammar: {_reason(str(error))}"
                    ) from None
            return self._opened


class Guide:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int, eos: Sequence[int]) -> None:
        self._matcher, self._vocabulary, self._eos = matcher, vocabulary, list(eos)
        self._bits = np.zeros((vocabulary + 31) // 32, np.int32)

    @property
    def over(self) -> bool:
        """Return whether nothing can follow but the end."""
        return bool(self._matcher.is_stopped())

    def allowed(self, logits: Logits) -> Logits:
        """Return the logits with those of tokens that cannot follow at minus infinity. Raises GuidanceError."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        flags = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._vocabulary].view(bool)
        if self._eos:
            flags[self._eos] = flags[self._eos[0]]
        if not flags.any():
            raise GuidanceError("no token of this model goes on with this schema")
        return np.where(flags, logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """Go on by one token that was allowed. Raises GuidanceError."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GuidanceError(f"this schema is too complex: {_reason(self._matcher.get_error())}")


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of documents of a JSON schema. Raises GuidanceError for a schema that is too long."""
    return f"%llguidance {{}}\nstart: {schema_rule(schema)}\n"


def schema_rule(schema: Mapping[str, Any]) -> str:
    """Return a schema as a part of a rule. Raises GuidanceError for a schema that is too long."""
    try:
        text = json.dumps({**schema, "x-guidance": _SPACING}, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise GuidanceError("the schema is nested too deep, or has numbers that JSON has not") from None
    if len(text.encode("utf-8", "replace")) > MAX_SCHEMA:
        raise GuidanceError(f"the schema is longer than {MAX_SCHEMA} bytes")
    return f"%json {text}"


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise GuidanceError(
            "JSON schemas and tools need `llguidance`, which this installation lacks: build the bundle again"
        ) from None
    return llguidance


def _reason(text: str) -> str:
    """Return the first line of a message of the library, without its place in our grammar."""
    line = next(iter(text.strip().splitlines()), "")
    return line.partition("failed to compile JSON schema: ")[2][:300] or line[:300]
