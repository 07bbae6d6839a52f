# SPDX-License-Identifier: Apache-2.0
"""Answer requests of one parent over a pipe: one JSON document a line in, and out.

    python -m packager.server.generation.worker CONFIG.json [THREADS]

    {"do": "answer", "messages": […] | "text": … | "ids": […], "options": {…}}
        options of `Engine.job`, and a JSON `schema` that the answer keeps to;
        a line {"text": …} for every piece, then {"finish", "prompt_tokens", "tokens", "logprobs"}
    {"do": "force", "ids": […], "tokens": […]}
        {"best": […], "logprobs": […], "of_best": […]}: of each step the most likely token and log-probabilities
    {"do": "grammars"}
        {"grammars": true}: whether answers of this model can keep to one, which is the option `grammar`
    {"do": "own", "prompts": [{"ids": […], "count": …, "text": …, "special": true}]}
        {"own": [{"tokens": […], "ids": […]}]} of the runtime's own loop and tokenizer; null where it has none
    {"do": "encode", "text": …, "special": true} | {"do": "encode_chat", "messages": […]} | {"do": "decode", "ids": […]}

An encoder-decoder takes `text`, `ids`, or `audio`, the bytes of a WAV file in base64.

The first line out says what was opened, or why not. A request that is refused is answered with {"error": …}.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from packager.server import config
from packager.server.errors import RequestError, StartError
from packager.server.generation import seq2seq
from packager.server.generation.decoder import open_own_loop
from packager.server.generation.engine import Engine
from packager.server.generation.guidance import GuidanceError, schema_grammar
from packager.server.generation.loop import Step, prefill
from packager.server.generation.rules import allowed
from packager.server.generation.sampling import log_probabilities
from packager.server.generation.seq2seq import Seq2Seq, open_engine


def main(argv: list[str]) -> int:
    """Serve stdin until it ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        engine = open_engine(config.read(Path(argv[0])), int(argv[1]) if len(argv) > 1 else 0)
    except StartError as error:
        _say(out, {"error": error.message, "hint": error.hint})
        return error.code
    chat = isinstance(engine, Engine) and engine.template is not None
    about = {"runtime": engine.runtime, "chat": chat, "context": engine.about.context, "task": engine.about.task}
    _say(out, about)
    for line in sys.stdin:
        try:
            for answer in _answers(engine, json.loads(line)):
                _say(out, answer)
        except RequestError as error:
            _say(out, {"error": error.message})
    return 0


def _say(out: TextIO, value: Mapping[str, Any]) -> None:
    out.write(f"{json.dumps(value)}\n")
    out.flush()


def _answers(engine: Engine | Seq2Seq, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if isinstance(engine, Seq2Seq) and request["do"] in ("answer", "force"):
        job = _job(engine, request)
        yield from (
            _steps(engine.answer(job), job.length) if request["do"] == "answer" else _forced_pair(engine, job, request)
        )
        return
    match request["do"]:
        case "answer":
            yield from _generated(_causal(engine), request)
        case "force":
            yield _forced(_causal(engine), request["ids"], request["tokens"])
        case "own":
            yield {"own": _own(_causal(engine), request["prompts"])}
        case "grammars":
            yield {"grammars": not isinstance(engine, Seq2Seq) and _guided(engine)}
        case "encode":
            yield {"ids": engine.tokenizer.encode(request["text"], special=request["special"])}
        case "encode_chat":
            yield {"ids": _causal(engine).ids_of_chat(request["messages"])}
        case "decode":
            yield {"text": engine.tokenizer.decode(request["ids"])}
        case _:
            raise RequestError("the request is unknown")


def _generated(engine: Engine, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "messages" in request:
        ids = engine.ids_of_chat(request["messages"])
    else:
        ids = request["ids"] if "ids" in request else engine.ids_of(request["text"])
    options = dict(request["options"])
    if (schema := options.pop("schema", None)) is not None:
        options["grammar"] = schema_grammar(schema)
    yield from _steps(engine.answer(engine.job(ids, options)), len(ids))


def _steps(steps: Iterator[Step], length: int) -> Iterator[Mapping[str, Any]]:
    tokens, odds = [], []
    for step in steps:
        tokens.append(step.token)
        odds.append(step.logprob)
        if step.text:
            yield {"text": step.text}
        if step.finish:
            yield {"finish": step.finish, "prompt_tokens": length, "tokens": tokens, "logprobs": odds}


def _causal(engine: Engine | Seq2Seq) -> Engine:
    if isinstance(engine, Seq2Seq):
        raise RequestError("the model holds no conversation")
    return engine


def _job(engine: Seq2Seq, request: Mapping[str, Any]) -> seq2seq.Job:
    options = request.get("options", {})
    if "audio" in request:
        return engine.job_of_audio(base64.b64decode(request["audio"]), options)
    if "ids" in request:
        return engine.job_of_ids(request["ids"], options)
    if "text" in request:
        return engine.job_of_text(request["text"], options)
    raise RequestError("the model holds no conversation")


def _forced_pair(engine: Seq2Seq, job: seq2seq.Job, request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Feed an answer token by token; the best of a step is the best of those that the rules allow."""
    cache, start = engine.read(job)
    tokens, sequence, ids = request["tokens"], list(start), list(start)
    best, odds, of_best = [], [], []
    for token in tokens:
        logits = engine.model.step(np.array([ids], np.int64), cache)[0, -1]
        found, most = log_probabilities(logits), len(start) + request["steps"]
        penalty = engine.about.sampling.get("repetition_penalty", 1.0)
        scores = allowed(logits, engine.decoding.rules, engine.about.eos, sequence, len(start), most, penalty)
        best.append(int(scores.argmax()))
        odds.append(float(found[token]))
        of_best.append(float(found[best[-1]]))
        sequence.append(token)
        ids = [token]
    yield {"best": best, "logprobs": odds, "of_best": of_best, "start": list(start)}


def _guided(engine: Engine) -> bool:
    try:
        engine.guides.check(schema_grammar({"type": "integer"}))
    except GuidanceError:
        return False
    return True


def _own(engine: Engine, prompts: list[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Let the runtime's own loop and tokenizer answer prompts, as programs of others do."""
    loop = open_own_loop(engine.session)
    if loop is None:
        return None
    return [
        {
            "tokens": loop.generate(prompt["ids"], prompt["count"]),
            "ids": loop.encode(prompt["text"], special=prompt["special"]),
        }
        for prompt in prompts
    ]


def _forced(engine: Engine, ids: list[int], tokens: list[int]) -> Mapping[str, Any]:
    """Feed an answer token by token, and say what the model finds of each."""
    cache = engine.decoder.empty()
    logits = prefill(engine.decoder, ids, cache)
    best, odds, of_best = [], [], []
    for token in tokens:
        if logits is None:
            break
        found = log_probabilities(logits)
        place = int(found.argmax())
        best.append(place)
        odds.append(float(found[token]))
        of_best.append(float(found[place]))
        logits = engine.decoder.step(np.array([[token]], np.int64), cache)[0, -1]
    return {"best": best, "logprobs": odds, "of_best": of_best}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
