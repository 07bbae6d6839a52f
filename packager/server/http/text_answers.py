# SPDX-License-Identifier: Apache-2.0
"""Write answers of a model that generates text: as OpenAI's API has them, and as the `generate` extension.

A writer takes the steps of one answer, all at once (`whole`) or as they come (`begin`, `add`, `end`: events of a
stream). Sources: the OpenAI API reference, July 2026; the Open Inference Protocol's and Triton's extension `generate`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import orjson

from packager.server.config import Config
from packager.server.generation.loop import Step
from packager.server.generation.tools import Call, Reader
from packager.server.http.text_requests import TextRequest

Json: TypeAlias = dict[str, Any]
NameOf: TypeAlias = Callable[[int], str]
DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """Writes one answer."""

    def whole(self, steps: Sequence[Step]) -> Json:
        """Return a whole answer."""

    def begin(self) -> list[bytes]:
        """Return the events before the first step."""

    def add(self, step: Step) -> list[bytes]:
        """Return the events of one step."""

    def end(self) -> list[bytes]:
        """Return the events behind the last step."""

    def failed(self, error: Json) -> bytes:
        """Return the event of an answer that failed on its way."""


def write_event(value: Json) -> bytes:
    """Return one event of a stream."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class OpenAIWriter:
    """Answers of `/v1/completions` and `/v1/chat/completions`."""

    def __init__(self, wanted: TextRequest, name_of: NameOf) -> None:
        self._asked, self._name_of = wanted, name_of
        self._reader = Reader(wanted.form) if wanted.form else None
        self._count = self._offset = self._calls = 0
        kind = "chatcmpl" if wanted.chat else "cmpl"
        self._head = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "object": ("chat.completion" if wanted.chat else "text_completion"),
            "created": int(time.time()),  # noqa: TID251 - a member of the answer
            "model": wanted.model,
        }

    def whole(self, steps: Sequence[Step]) -> Json:
        """Return a whole answer."""
        parts = [part for step in steps for part in self._read(step)]
        text = "".join(part for part in parts if isinstance(part, str))
        calls = [_call(part) for part in parts if isinstance(part, Call)]
        body: Json = {"text": text}
        if self._asked.chat:
            message = {"role": "assistant", "content": text, "refusal": None}
            body = {"message": message | ({"content": text or None, "tool_calls": calls} if calls else {})}
        finish = self._finish(steps[-1], bool(calls))
        choice = {"index": 0, **body, "logprobs": self._reported(steps), "finish_reason": finish}
        return {**self._head, "choices": [choice], "usage": self._usage(len(steps))}

    def begin(self) -> list[bytes]:
        """Return the event that says who speaks, in a chat."""
        return [self._event({"delta": {"role": "assistant", "content": ""}})] if self._asked.chat else []

    def add(self, step: Step) -> list[bytes]:
        """Return the events of one step."""
        self._count += 1
        chat, report, found = self._asked.chat, self._reported([step], self._offset), []
        self._offset += len(step.text)
        for part in self._read(step) or ([""] if report else []):
            if isinstance(part, Call):
                delta = {"tool_calls": [{"index": self._calls, **_call(part)}]}
                self._calls += 1
                found.append(self._event({"delta": delta, "logprobs": report}))
            else:
                body: Json = {"delta": {"content": part}} if chat else {"text": part}
                found.append(self._event({**body, "logprobs": report}))
            report = None
        if step.finish:
            finish = self._finish(step, self._calls > 0)
            found.append(self._event({"delta": {}} if chat else {"text": ""}, finish))
        return found

    def end(self) -> list[bytes]:
        """Return the usage, where it is wanted, and the end of the stream."""
        usage = (
            [write_event({**self._chunk(), "choices": [], "usage": self._usage(self._count)})]
            if self._asked.usage
            else []
        )
        return [*usage, DONE]

    def failed(self, error: Json) -> bytes:
        """Return the event of an answer that failed on its way."""
        return write_event({"error": error})

    def _read(self, step: Step) -> list[str | Call]:
        """Return what a step adds: text, and whole calls of tools."""
        if self._reader is None:
            return [step.text] if step.text else []
        found = self._reader.add(step.text)
        rest = self._reader.end() if step.finish else ""
        return [*found, rest] if rest else found

    def _finish(self, step: Step, called: bool) -> str | None:
        return "tool_calls" if called and step.finish == "stop" else step.finish

    def _chunk(self) -> Json:
        return {**self._head, "object": "chat.completion.chunk" if self._asked.chat else "text_completion"}

    def _event(self, body: Json, finish: str | None = None) -> bytes:
        return write_event({**self._chunk(), "choices": [{"index": 0, **body, "finish_reason": finish}]})

    def _usage(self, count: int) -> Json:
        prompt = len(self._asked.job.ids)
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}

    def _reported(self, steps: Sequence[Step], offset: int = 0) -> Json | None:
        """Return the log-probabilities in the form of the route, None where they are not wanted."""
        if self._asked.listed is None:
            return None
        name = self._name_of
        if self._asked.chat:
            rows = [
                {**_odds(name(step.token), step.logprob), "top_logprobs": [_odds(name(t), p) for t, p in step.top]}
                for step in steps
            ]
            return {"content": rows, "refusal": None}
        places = []
        for step in steps:
            places.append(offset)
            offset += len(step.text)
        return {
            "tokens": [name(step.token) for step in steps],
            "token_logprobs": [step.logprob for step in steps],
            "top_logprobs": [{name(token): odds for token, odds in step.top} for step in steps],
            "text_offset": places,
        }


class GenerateWriter:
    """Answers of `…/generate` and `…/generate_stream`; `details`: with the reason of the end, and the tokens."""

    def __init__(self, config: Config, details: bool) -> None:
        self._head = {"model_name": config.name, "model_version": config.version}
        self._details = details

    def whole(self, steps: Sequence[Step]) -> Json:
        """Return a whole answer."""
        return {**self._head, "text_output": "".join(step.text for step in steps), **self._about(steps)}

    def begin(self) -> list[bytes]:
        """Return nothing: a stream begins with its first text."""
        return []

    def add(self, step: Step) -> list[bytes]:
        """Return the event of one step, if it adds text, ends the answer, or is wanted for itself."""
        if not (step.text or step.finish or self._details):
            return []
        return [write_event({**self._head, "text_output": step.text, **self._about([step])})]

    def end(self) -> list[bytes]:
        """Return nothing: the stream ends."""
        return []

    def failed(self, error: Json) -> bytes:
        """Return the event of an answer that failed on its way."""
        return write_event({"error": error["message"]})

    def _about(self, steps: Sequence[Step]) -> Json:
        if not self._details:
            return {}
        tokens = [{"id": step.token, "logprob": step.logprob} for step in steps]
        return {"details": {"finish_reason": steps[-1].finish, "tokens": tokens}}


def _odds(text: str, logprob: float) -> Json:
    """Return one entry of a report; the bytes of a token that is a part of a character are not known here."""
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _call(call: Call) -> Json:
    about = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": about}
