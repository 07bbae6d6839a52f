# SPDX-License-Identifier: Apache-2.0
"""Answer rows: what a source that writes texts says of the rows of `evaluation`, by its publisher's settings.

answers.json    texts in the order of the rows; for the measurement alone, no part of a bundle
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import canonical, exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.server.errors import RequestError
from packager.server.generation.settings import SPEECH
from packager.steps import _answers, _evaluate_texts
from packager.steps._evaluate_files import HINT

VERSION = 1  # 1: first form
ANSWER = _answers.ANSWER_ROWS


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write what the tree `source` says of the file in the tree `evaluation`; return how many rows it has."""
    speech = params["task"] == SPEECH
    rows = _evaluate_texts.read_sources(inputs["evaluation"], speech=speech)
    source = exporters.generative(params["kind"], inputs["source"], params["payload"], params["task"])
    answers = []
    for number, row in enumerate(rows):
        try:
            answers.append(source.answer_row(_evaluate_texts.read_source(row, number, speech=speech)))
        except RequestError as error:
            raise StepError(f"evaluation: row {number}: {error.message}", hint=HINT) from None
    (out / _evaluate_texts.ANSWERS).write_bytes(canonical.dump({"format": 1, "answers": answers}))
    return {"rows": len(answers)}
