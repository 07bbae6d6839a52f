# SPDX-License-Identifier: Apache-2.0
"""Texts to token ids, by the `tokenizers` library from a file that is data.

Rows are cut and padded as transformers' fast tokenizers do it. Texts are tokenised in groups outside the interpreter's
lock; what a row needs later (where its tokens lie in the text) is kept, the rest is dropped at once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from packager.server.errors import RequestError, quote
from packager.server.pipeline import tokenizer_file
from packager.server.pipeline.document import read_file
from packager.server.pipeline.parts import Text
from packager.server.protocol.interface import Interface
from packager.server.protocol.tensors import Array

MAX_CHARACTERS = 1 << 18  # of one text: about a second of tokenising
_GROUP = 1 << 16  # characters that are tokenised in one call
_TOKEN = 24  # bytes of a token in three inputs


class Tokens(NamedTuple):
    """The tokens of one row, or of one window of it: ids, type ids, and for spans where they lie in the text.

    `special` are tokens that are no part of the text; of windows those that are no part of the second text, whose
    `offsets` are those of the whole words.
    """

    ids: Array
    types: Array
    offsets: Sequence[tuple[int, int]]
    special: Sequence[int]


class Tokenizer:
    """The opened tokenizer of a pipeline; several threads may use it."""

    def __init__(self, about: Text, data: bytes, interface: Interface, *, spans: bool = False) -> None:
        """Open a tokenizer from the bytes of its file; `spans`: keep where tokens lie. Raises ValueError."""
        windows = about.overlap is not None
        tokenizer_file.check(data)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # noqa: TID251 - requests run at once, not their texts
        library = importlib.import_module("tokenizers")
        try:
            self._tokenizer = library.Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"the tokenizer cannot be opened: {str(error)[:200]}") from None
        self._about, self._spans = about, spans or windows
        self._tokenizer.no_padding()
        self._whole = library.Tokenizer.from_str(data.decode()) if windows else None
        if self._whole is not None:
            self._whole.no_padding()
            self._whole.no_truncation()
        try:
            self._tokenizer.enable_truncation(
                about.longest,
                stride=about.overlap or 0,
                strategy="only_second" if windows else "longest_first",
                direction=about.cut,
            )
        except Exception as error:  # as above
            raise ValueError(f"the tokenizer does not cut to {about.longest} tokens: {str(error)[:200]}") from None
        first = interface.inputs[[port.name for port in interface.inputs].index(_ids_input(about))]
        self._length = first.shape[1]
        self._interface = interface
        self._dtypes = {port.name: port.dtype for port in interface.inputs}

    def tokenize(self, rows: Sequence[tuple[str, str | None]], hold: Callable[[int], None]) -> list[Tokens]:
        """Return the tokens of every row; `hold` gets the bytes they take. Raises RequestError for a text too long."""
        found: list[Tokens] = []
        for group in _groups(rows):
            encoded = self._encode([first if second is None else (first, second) for first, second in group])
            for item in encoded:
                ids = np.array(item.ids, np.int64)
                hold(_TOKEN * len(ids))
                spans = (item.offsets, item.special_tokens_mask) if self._spans else ((), ())
                found.append(Tokens(ids, np.array(item.type_ids, np.int64), *spans))
        return found

    def windows(self, rows: Sequence[tuple[str, str | None]], hold: Callable[[int], None]) -> list[list[Tokens]]:
        """Return the windows of every pair of texts, in the order of the text. Raises RequestError."""
        found: list[list[Tokens]] = []
        first = 0
        for group in _groups(rows):
            self._check_questions([question for question, _ in group], first)
            first += len(group)
            for item in self._encode(list(group)):
                own = [_window(part) for part in (item, *item.overflowing)]
                hold(_TOKEN * sum(len(part.ids) for part in own))
                found.append(own)
        return found

    def _check_questions(self, questions: Sequence[str], first: int) -> None:
        """Raise RequestError for a question beside which a window has no room: the library would panic."""
        if self._whole is None:
            raise RequestError("this model divides no texts")
        special = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        most = self._about.longest - special - (self._about.overlap or 0) - 1
        encoded = _tried(self._whole.encode_batch_fast, list(questions), add_special_tokens=False)
        for index, item in enumerate(encoded, first):
            if len(item.ids) > most:
                raise RequestError(f"row {index}: expected a question of at most {most} tokens, got {len(item.ids)}")

    def _encode(self, batch: list[Any]) -> Sequence[Any]:
        return _tried(self._tokenizer.encode_batch if self._spans else self._tokenizer.encode_batch_fast, batch)

    def feeds(self, rows: Sequence[Tokens]) -> dict[str, Array]:
        """Return the inputs of the graph: the rows padded to the shortest length that all fit and the graph takes."""
        length = self._padded(max((len(row.ids) for row in rows), default=0))
        padding = self._about.padding
        fill = {"ids": padding.id, "types": padding.type, "mask": 0}
        feeds: dict[str, Array] = {}
        for name, feature in self._about.inputs.items():
            array = np.full((len(rows), length), fill[feature], self._dtypes[name])
            for index, row in enumerate(rows):
                values: Any = 1 if feature == "mask" else row.ids if feature == "ids" else row.types
                used = slice(length - len(row.ids), None) if padding.side == "left" else slice(0, len(row.ids))
                array[index, used] = values
            feeds[name] = array
        return feeds

    def first_column(self, row: Tokens, length: int) -> int:
        """Return the column in which the tokens of a row begin, of `length` columns."""
        return length - len(row.ids) if self._about.padding.side == "left" else 0

    def _padded(self, longest: int) -> int:
        if isinstance(self._length, int):
            return self._length
        allowed = self._interface.allowed_range(self._length)
        length = max(longest, allowed.smallest)
        while length not in allowed and length <= self._about.longest:
            length += 1
        return length


def _tried(encode: Callable[..., Any], batch: list[Any], **settings: Any) -> Sequence[Any]:
    """Return what the library makes of texts. Raises RequestError."""
    try:
        return list(encode(batch, **settings))
    except BaseException as error:  # plain Exception, TypeError for what is no text, PyO3's panic, which is neither
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise RequestError(f"a text cannot be tokenised: {str(error)[:200]}") from None
        raise


def _window(item: Any) -> Tokens:
    """Return the tokens of one window, those of a word with the place of the whole word in it."""
    sides, words, offsets = item.sequence_ids, item.word_ids, item.offsets
    places: dict[int, tuple[int, int]] = {}
    for side, word, (start, end) in zip(sides, words, offsets, strict=True):
        if side == 1 and word is not None:
            places[word] = (places.get(word, (start, end))[0], end)
    whole = [
        places[word] if side == 1 and word is not None else own
        for side, word, own in zip(sides, words, offsets, strict=True)
    ]
    outside = [int(side != 1) for side in sides]
    return Tokens(np.array(item.ids, np.int64), np.array(item.type_ids, np.int64), whole, outside)


def _ids_input(about: Text) -> str:
    return next(name for name, feature in about.inputs.items() if feature == "ids")


def _groups(rows: Sequence[tuple[str, str | None]]) -> list[list[tuple[str, str | None]]]:
    """Return the rows in groups of bounded length, in order. Raises RequestError."""
    groups: list[list[tuple[str, str | None]]] = []
    left = 0
    for index, (first, second) in enumerate(rows):
        size = len(first) + len(second or "")
        if size > MAX_CHARACTERS:
            raise RequestError(
                f"row {index}: expected a text of at most {MAX_CHARACTERS} characters, got {size}", status=413
            )
        if not groups or size > left:
            groups.append([])
            left = _GROUP
        groups[-1].append((first, second))
        left -= size
    return groups


def open_tokenizer(folder: Path, about: Text, interface: Interface, *, spans: bool) -> Tokenizer:
    """Open the tokenizer beside a document. Raises ValueError, OSError."""
    data = read_file(folder, about.file, about.digest, tokenizer_file.MAX_FILE)
    return Tokenizer(about, data, interface, spans=spans)


def read_question(row: Any, index: int) -> tuple[str, str | None]:
    """Return the question and the text of a row. Raises RequestError."""
    known = ("question", "context")
    if not isinstance(row, Mapping) or set(row) != set(known):
        raise RequestError(f"row {index}: expected an object with `question` and `context`")
    question, context = (row[name] for name in known)
    if not isinstance(question, str) or not isinstance(context, str):
        raise RequestError(f"row {index}: expected `question` and `context`, two strings")
    if not question or not context:
        raise RequestError(f"row {index}: `{'context' if question else 'question'}` is empty")
    return question, context


def read_row(row: Mapping[str, Any], index: int, *, pairs: bool) -> tuple[str, str | None]:
    """Return the text of a row, and the second one of a pair. Raises RequestError."""
    known = ("text", "text_pair") if pairs else ("text",)
    if unknown := sorted(set(row) - set(known)):
        raise RequestError(
            f"row {index}: unknown member {quote(unknown[0])}, expected {' and '.join(map(quote, known))}"
        )
    first, second = row.get("text"), row.get("text_pair")
    if not isinstance(first, str) or not (second is None or isinstance(second, str)):
        raise RequestError(f"row {index}: expected a `text`, a string")
    return first, second
