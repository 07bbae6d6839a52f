# SPDX-License-Identifier: Apache-2.0
"""Evaluate rows: what an artefact that writes texts reaches on rows with labels, beside what its source wrote.

The artefact answers as at a site: the server's loop, rules, beams, tokenizer and features. The source is not opened
here: its answers are a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager import canonical, error_causes
from packager.canonical import JSON
from packager.errors import StepError
from packager.server.errors import RequestError
from packager.server.generation.settings import SPEECH
from packager.steps import _answers, _evaluate_texts
from packager.steps._evaluate_files import HINT
from packager.steps._seq2seq import open_site

if TYPE_CHECKING:
    from packager.server.generation.seq2seq import Seq2Seq

VERSION = 1  # 1: first form
ANSWER = _answers.EVALUATE_ROWS
_LIMIT = 256 << 20


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return what the artefact `path` of the tree `artefact` and the texts of the tree `answers` reach.

    Both are on the rows of the tree `evaluation`. Raises StepError for rows that the model does not take.
    """
    from packager.server.generation.seq2seq import Seq2Seq  # it and the next import numpy
    from packager.steps._evaluate import check_columns, judge_sides

    model, tokenizer, about = open_site(inputs, params)
    ours = Seq2Seq(about, about.decoding, model, tokenizer, model.decoder, params["runtime"])
    spec, speech = params["evaluation"], about.task == SPEECH
    rows = _evaluate_texts.read_sources(inputs["evaluation"], speech=speech)
    check_columns(rows, spec)
    right = [str(row[spec["label"]]) for row in rows]
    theirs = canonical.load((inputs["answers"] / _evaluate_texts.ANSWERS).read_bytes(), limit=_LIMIT)["answers"]
    written = [_answer(ours, row, number, speech=speech) for number, row in enumerate(rows)]
    sides = [_evaluate_texts.compare_texts(spec["metric"], right, _checked(side, right)) for side in (theirs, written)]
    return {"evaluation": judge_sides(spec, inputs["evaluation"], rows, sides)}


def _checked(texts: Any, right: Sequence[str]) -> Sequence[str]:
    """Return the answers of a side; those of the source come from a worker that opened it."""
    if not isinstance(texts, list) or len(texts) != len(right) or not all(isinstance(text, str) for text in texts):
        raise StepError("the source's answers to the rows of `evaluation` are not one text per row", hint="build again")
    return texts


def _answer(ours: Seq2Seq, row: Mapping[str, JSON], number: int, *, speech: bool) -> str:
    read = _evaluate_texts.read_source(row, number, speech=speech)
    try:
        job = ours.job_of_text(read, {}) if isinstance(read, str) else ours.job_of_audio(read, {})
        found = ours.whole(job)
    except RequestError as error:
        raise StepError(f"evaluation: row {number}: {error.message}", hint=HINT) from None
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(f"evaluation: the artefact fails on row {number}: {error_causes.find_cause(error)}") from error
    if found is None:
        raise StepError(f"evaluation: the artefact says nothing of row {number}")
    return found.text
