# SPDX-License-Identifier: Apache-2.0
"""Answer chunks of rows on standard input: `python APP --batch CONFIG.json THREADS`, what `packager run` starts.

The first line of output says what a row is. Then for every line of input, a JSON list of rows, there is one line of
output: a list with `{"answer": …}` or `{"error": "…"}` for each. Rows run together, as many as the graph takes; where
one of them is refused, each half of them. Bundles without a pipeline also take chunks as columns
(`packager.server.batch_columns`), which are answered by finished lines.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from packager.server import config
from packager.server.batch_columns import ColumnAnswers, UnfitError, row_limit
from packager.server.config import Config
from packager.server.errors import RequestError, StartError
from packager.server.execution import session as model
from packager.server.pipeline import rows as tables
from packager.server.pipeline.parts import Task
from packager.server.protocol.tensors import Array

Run: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Answer: TypeAlias = Callable[[Sequence[Any]], list[Any]]
_MOST_ROWS = 64  # of one run of a pipeline: more is seldom faster, and takes memory
FLAG = "--batch"


@dataclass(frozen=True, slots=True)
class OpenModel:
    """An opened bundle: `run` takes tensors, `answer` rows, at most `most` at once; `task` is that of its pipeline."""

    run: Run
    answer: Answer
    most: int
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    task: Task | None = None
    columns_answers: ColumnAnswers | None = None

    def describe(self) -> dict[str, Any]:
        """Return what a row is, as the first line of output says it."""
        return {
            "columns": list(self.columns),
            "optional": list(self.optional),
            "vectors": self.task == "sentence-embedding",
            "rows": self.most,
            "chunks": int(self.columns_answers is not None),
            "numbers": self.columns_answers.numbers() if self.columns_answers else {},
            "arrays": self.columns_answers.arrays() if self.columns_answers else [],
        }


def main(arguments: Sequence[str]) -> int:
    """Answer until the input ends. Returns the exit code."""
    path, threads = arguments
    try:
        opened = open_model(config.read(Path(path)), int(threads))
    except (StartError, ValueError, OSError, ImportError) as error:
        sys.stdout.buffer.write(orjson.dumps({"error": str(error)}) + b"\n")
        return 4
    _send(opened.describe())
    while line := sys.stdin.buffer.readline():
        asked = orjson.loads(line)
        if isinstance(asked, dict):
            _answer_chunk(opened, asked)
        else:
            _send(answer_rows(opened, asked))
    return 0


def _answer_chunk(opened: OpenModel, header: Mapping[str, Any]) -> None:
    """Answer a chunk of columns by a line with sizes, then the lines of the rows and those of refused rows."""
    payload = sys.stdin.buffer.read(header.get("text", 0) + sum(column["size"] for column in header["columns"]))
    try:
        if opened.columns_answers is None:
            raise UnfitError
        found = opened.columns_answers.answer(header, payload)
    except UnfitError:
        _send({"unfit": True})
        return
    sizes = {"kept": len(found.kept), "refused": len(found.refused), "rows": found.rows, "places": found.places}
    sizes["arrays"] = found.arrays
    sys.stdout.buffer.write(orjson.dumps(sizes) + b"\n" + found.kept + found.refused)
    sys.stdout.buffer.flush()


def _send(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


def open_model(found: Config, threads: int) -> OpenModel:
    """Open the model, and its pipeline if there is one. Raises StartError, ValueError, OSError, ImportError."""
    if found.generation is not None:
        return _open_seq2seq(found, threads)
    session = model.load(found, threads)
    names = [port.name for port in session.outputs]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(names, session.run(dict(feeds)), strict=True))

    if found.pipeline is None:
        interface = found.interface

        def answer(rows: Sequence[Any]) -> list[Any]:
            return tables.answers(run(tables.feeds(interface, rows)), len(rows))

        columns = tuple(port.name for port in interface.inputs)
        chunks = ColumnAnswers(interface, run) if ColumnAnswers.fits(interface) else None
        return OpenModel(run, answer, row_limit(interface), columns, columns_answers=chunks)
    from packager.server.pipeline import pipeline

    opened = pipeline.open_checked(found.pipeline.path, found.pipeline.digest, found.interface)

    def answer_raw(rows: Sequence[Any]) -> list[Any]:
        prepared = opened.prepare(rows)
        return opened.answers(run(prepared.feeds), prepared)

    about = opened.about
    most = 1 if opened.single else min(opened.most_rows or _MOST_ROWS, _MOST_ROWS)
    return OpenModel(run, answer_raw, most, about.columns, about.optional, about.task)


def _open_seq2seq(found: Config, threads: int) -> OpenModel:
    """Open an encoder-decoder, whose rows are texts or audio; each is answered by itself."""
    from packager.server.generation.seq2seq import Seq2Seq

    opened = Seq2Seq.open(found, threads)
    name = "audio" if opened.about.audio else "text"

    def answer(rows: Sequence[Any]) -> list[Any]:
        answers = []
        for row in rows:
            value = row.get(name) if isinstance(row, dict) else row
            if not isinstance(value, str):
                raise RequestError(f"`{name}`: expected a text")
            if name == "text":
                job = opened.job_of_text(value, {})
            else:
                job = opened.job_of_audio(_bytes(value), {})
            made = opened.whole(job)
            answers.append(made.text.strip() if made else "")
        return answers

    return OpenModel(_refuse_tensors, answer, 1, (name,))


def _refuse_tensors(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    raise RequestError("this model takes texts or audio, and no tensors")


def _bytes(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise RequestError("`audio`: expected the bytes of a WAV file in base64") from None


def answer_rows(opened: OpenModel, rows: Sequence[Any]) -> list[Any]:
    """Return `{"answer": …}` or `{"error": …}` for every row."""
    found: list[Any] = []
    for start in range(0, len(rows), opened.most):
        found += _answer_part(opened.answer, rows[start : start + opened.most])
    return found


def _answer_part(answer: Answer, rows: Sequence[Any]) -> list[Any]:
    try:
        return [{"answer": item} for item in answer(rows)]
    except RequestError as error:
        if len(rows) == 1:
            return [{"error": error.message}]
    middle = len(rows) // 2
    return [*_answer_part(answer, rows[:middle]), *_answer_part(answer, rows[middle:])]
