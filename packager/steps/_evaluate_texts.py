# SPDX-License-Identifier: Apache-2.0
"""Errors in the words or characters of texts that a model writes, overall and on slices, as jiwer counts them.

    wer    words that were left out, added or exchanged, per word of what is right
    cer    the same of characters

Case, punctuation and the number of blanks do not count, letters are composed (NFC). Sums over rows are divided, not
averaged, so that a long row weighs more; a rate can be above 1.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.server.errors import RequestError
from packager.server.pipeline.row_files import read_file
from packager.steps._evaluate_files import HINT, read_rows

AUDIO, TEXT = "audio", "text"
ANSWERS = "answers.json"  # what `answer_rows` leaves, and `evaluate_rows` reads


@dataclass(frozen=True, slots=True)
class Texts:
    """What is right and what was written of every row, in the form that is compared."""

    metric: str
    right: Sequence[str]
    written: Sequence[str]

    def value(self, places: Sequence[int]) -> float:
        """Return the rate of errors over the chosen rows."""
        jiwer = import_jiwer()
        rate = jiwer.wer if self.metric == "wer" else jiwer.cer
        return float(rate([self.right[place] for place in places], [self.written[place] for place in places]))


def compare_texts(metric: str, right: Sequence[str], written: Sequence[str]) -> Texts:
    """Return texts in the form that is compared. Raises StepError for a row where nothing of what is right is left."""
    simple = [simplify(text) for text in right]
    if "" in simple:
        raise StepError(f"evaluation: row {simple.index('')}: the label has no words", hint="remove the row")
    return Texts(metric, simple, [simplify(text) for text in written])


def simplify(text: str) -> str:
    """Return a text in small letters, without punctuation, with single blanks."""
    jiwer = import_jiwer()
    steps = (jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip())
    found = " ".join(unicodedata.normalize("NFC", text).split())
    return str(jiwer.Compose(list(steps))(found))


def read_sources(folder: Path, *, speech: bool) -> Sequence[Mapping[str, JSON]]:
    """Return the rows of the one file in `folder`, which hold what the model reads. Raises StepError."""
    rows, name = read_rows(folder), AUDIO if speech else TEXT
    for number, row in enumerate(rows):
        if row.get(name) in (None, ""):
            raise StepError(f"evaluation: row {number} has no `{name}`, which the model reads", hint=HINT)
    return rows


def read_source(row: Mapping[str, JSON], number: int, *, speech: bool) -> bytes | str:
    """Return the text of a row, or the bytes of its WAV file. Raises StepError for what is no base64."""
    if not speech:
        return str(row[TEXT])
    try:
        return read_file({AUDIO: row[AUDIO]}, number, AUDIO, "a WAV file")
    except RequestError as error:
        raise StepError(f"evaluation: {error.message}", hint=HINT) from None


def import_jiwer() -> Any:
    """Return the library. Raises MissingToolError."""
    try:
        return importlib.import_module("jiwer")
    except ImportError:
        raise MissingToolError("jiwer", "words") from None
