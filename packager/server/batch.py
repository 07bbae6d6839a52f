# SPDX-License-Identifier: Apache-2.0
"""Answer chunks of rows on standard input: `python APP --batch CONFIG.json THREADS`, what `packager run` starts.

The first line of output says what a row is. Then for every line of input, a JSON list of rows, there is one line of
output: a list with `{"answer": …}` or `{"error": "…"}` for each. Rows run together, as many as the graph takes; only
where one of them is refused are they read one by one.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from packager.server import config
from packager.server.config import Config
from packager.server.errors import RequestError, StartError
from packager.server.execution import session as model
from packager.server.pipeline import rows as tables
from packager.server.protocol.tensors import Array

Run: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Answer: TypeAlias = Callable[[Sequence[Any]], list[Any]]
_MOST_ROWS = 64  # of one run: more is seldom faster, and takes memory
FLAG = "--batch"


def main(arguments: Sequence[str]) -> int:
    """Answer until the input ends. Returns the exit code."""
    path, threads = arguments
    try:
        found = config.read(Path(path))
        answer, about = _opened(found, int(threads))
    except (StartError, ValueError, OSError, ImportError) as error:
        sys.stdout.buffer.write(orjson.dumps({"error": str(error)}) + b"\n")
        return 4
    _send(about)
    for line in sys.stdin.buffer:
        _send(_answered(answer, orjson.loads(line), about["rows"]))
    return 0


def _send(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


def _opened(found: Config, threads: int) -> tuple[Answer, dict[str, Any]]:
    """Open the model, and its pipeline if there is one; return what answers rows, and what a row is."""
    if found.generation is not None:
        return _opened_seq2seq(found, threads)
    session = model.load(found, threads)
    names = [port.name for port in session.outputs]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(names, session.run(dict(feeds)), strict=True))

    if found.pipeline is None:
        interface = found.interface
        first = interface.inputs[0].shape[0] if interface.inputs[0].shape else 1
        most = first if isinstance(first, int) else interface.allowed_range(first).largest
        about = {"columns": [port.name for port in interface.inputs], "optional": [], "vectors": False}

        def answer(rows: Sequence[Any]) -> list[Any]:
            return tables.answers(run(tables.feeds(interface, rows)), len(rows))

        return answer, {**about, "rows": min(most or _MOST_ROWS, _MOST_ROWS)}
    from packager.server.pipeline import pipeline

    opened = pipeline.open_checked(found.pipeline.path, found.pipeline.digest, found.interface)

    def answer_raw(rows: Sequence[Any]) -> list[Any]:
        prepared = opened.prepare(rows)
        return opened.answers(run(prepared.feeds), prepared)

    text = opened.about.text
    about = {
        "columns": ["text" if text else "image"],
        "optional": ["text_pair"] if text and text.pairs else [],
        "vectors": opened.about.task == "sentence-embedding",
    }
    return answer_raw, {**about, "rows": min(opened.most_rows or _MOST_ROWS, _MOST_ROWS)}


def _opened_seq2seq(found: Config, threads: int) -> tuple[Answer, dict[str, Any]]:
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

    return answer, {"columns": [name], "optional": [], "vectors": False, "rows": 1}


def _bytes(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise RequestError("`audio`: expected the bytes of a WAV file in base64") from None


def _answered(answer: Answer, rows: Sequence[Any], most: int) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        try:
            found += [{"answer": item} for item in answer(part)]
        except RequestError:
            found += [_single(answer, row) for row in part]
    return found


def _single(answer: Answer, row: Any) -> Any:
    try:
        return {"answer": answer([row])[0]}
    except RequestError as error:
        return {"error": error.message}
