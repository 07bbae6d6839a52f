# SPDX-License-Identifier: Apache-2.0
r"""Calls of tools: how a model writes them follows from its chat template, and a grammar keeps the model to it.

`find_form` renders a conversation with a call and reads what the template made of it, for instance

    <tool_call>\n{"name": "probe", "arguments": {"x": 1}}\n</tool_call>

Templates that do not show tools, or write calls in another form than one JSON object of a name and arguments, have no
form: requests with tools are refused there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from packager.server.generation.guidance import schema_rule
from packager.server.generation.templates import Template, TemplateError
from packager.server.generation.tokenizer import Tokenizer

_PROBE = "probe_of_calls"
_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}
_CALL = {"id": "call000000", "type": "function", "function": {"name": _PROBE, "arguments": {"x": 1}}}
_ASKED = [{"role": "user", "content": "Probe."}]
_KEYS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class Form:
    """What stands around a call's JSON object, and the name of its member with the arguments.

    Without a `begin` a call looks like text, so that a model can be made to call, but not left to choose.
    """

    begin: str
    end: str
    key: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `arguments` is a JSON object as text."""

    name: str
    arguments: str


def find_form(template: Template, tokenizer: Tokenizer, end_text: str) -> Form | None:
    """Return the form in which a template writes calls, None where it has none that is supported.

    `end_text` is the text of the token that ends an answer.
    """
    said = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    try:
        plain = template.render(_ASKED)
        before = template.render(_ASKED, tools=[_TOOL])
        whole = template.render([*_ASKED, said], tools=[_TOOL], prompt=False)
    except TemplateError:
        return None
    if _PROBE in plain or _PROBE not in before or not whole.startswith(before):
        return None
    written = whole[len(before) :]
    if end_text and end_text in written:
        written = written[: written.index(end_text)]
    form = _parsed(written.rstrip())
    if form is None or any(_lost(tokenizer, text) for text in (form.begin, form.end)):
        return None
    return form


def _parsed(written: str) -> Form | None:
    start = written.find("{")
    try:
        found, length = json.JSONDecoder().raw_decode(written[max(start, 0) :])
    except ValueError:
        return None
    keys = [key for key in _KEYS if found == {"name": _PROBE, key: {"x": 1}}]
    begin = written[:start]
    begin = begin[begin.rstrip().rfind("\n") + 1 :]  # above the mark are thoughts, which a model leaves out or fills
    return Form(begin, written[start + length :], keys[0]) if keys else None


def _lost(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether a text holds special tokens, which answers do not show."""
    return tokenizer.decode(tokenizer.encode(text, special=False)) != text


def grammar(form: Form, tools: Sequence[Tool], *, free: bool, several: bool) -> str:
    """Return the grammar of answers with calls; `free`: text without calls as well; `several`: more than one call."""
    lines = ["%llguidance {}"]
    if free:
        trigger = form.begin.rstrip()
        lines += [
            "start: (call)* tail" if several else "start: call | tail",
            f"call: head {_quoted(form.begin[len(trigger) :])} body {_quoted(form.end)}",
            f"head[lazy]: TEXT {json.dumps(trigger)}",
            "tail: TEXT",
            r"TEXT: /(.|\n)*/",
        ]
    else:
        lines.append(f"start: {_quoted(form.begin)} body {_quoted(form.end)}")
    lines.append("body: " + " | ".join(f"tool_{number}" for number in range(len(tools))))
    for number, tool in enumerate(tools):
        opening = f'{{"name": {json.dumps(tool.name)}, "{form.key}": '
        lines.append(f'tool_{number}: {json.dumps(opening)} {schema_rule(tool.parameters)} "}}"')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


@dataclass(slots=True)
class Reader:
    """Tells calls from text while an answer arrives; text that may be the beginning of a call is held back."""

    form: Form
    _held: str = ""
    _inside: bool = field(default=False)

    def __post_init__(self) -> None:
        self._inside = not self.form.begin

    def add(self, text: str) -> list[str | Call]:
        """Return what is certain after more text: texts, and whole calls."""
        self._held += text
        found: list[str | Call] = []
        trigger = self.form.begin.rstrip()
        while self._held:
            if self._inside:
                call = self._call()
                if call is None:
                    break
                found.append(call)
                continue
            place = self._held.find(trigger)
            if place >= 0:
                before, self._held, self._inside = self._held[:place], self._held[place + len(trigger) :], True
            else:
                kept = next((n for n in range(len(trigger) - 1, 0, -1) if self._held.endswith(trigger[:n])), 0)
                cut = len(self._held) - kept
                before, self._held = self._held[:cut], self._held[cut:]
            if before:
                found.append(before)
            if place < 0:
                break
        return found

    def end(self) -> str:
        """Return the text that is left; a call that was cut off is no text, and is lost."""
        text, self._held = ("" if self._inside else self._held), ""
        return text

    def _call(self) -> Call | None:
        """Take a whole call from the held text."""
        text = self._held.lstrip()
        try:
            found, length = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return None
        end = self.form.end
        rest = text[length:]
        if len(rest) < len(end):
            return None
        self._held, self._inside = rest[len(end) :], False
        return Call(found["name"], json.dumps(found[self.form.key], ensure_ascii=False))
