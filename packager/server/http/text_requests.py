# SPDX-License-Identifier: Apache-2.0
"""Read requests for texts as OpenAI's API has them. What is not honoured is refused with the name of its member.

Source: the OpenAI API reference (chat completions, completions), July 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from packager.server.config import Config
from packager.server.errors import RequestError, quote
from packager.server.generation import guidance, tools
from packager.server.generation.adapters import Adapter
from packager.server.generation.engine import Engine as Texts
from packager.server.generation.loop import Job
from packager.server.generation.tools import Tool

Json: TypeAlias = dict[str, Any]
_HONOURED = {
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
} | {
    "seed",
    "stop",
    "logprobs",
    "user",  # says whose request it is, and changes no answer
}
_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
_CHAT = _HONOURED | _TOOLS | {"messages", "max_completion_tokens", "top_logprobs", "response_format"}
_PLAIN = _HONOURED | {"prompt"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "modalities": (["text"],),
}
_USUAL = 16  # tokens of a completion that names no limit: OpenAI's own default
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OF_ROLE: Mapping[str, tuple[str, ...]] = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}
MAX_TOOLS = 128
_NAMED = 8  # adapters in a message


class RefusalError(RequestError):
    """A refused request whose reason is one parameter."""

    def __init__(self, message: str, param: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message, status=status)
        self.param, self.code = param, code


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A checked request: `model` is what answers, by its name, the base or an adapter.

    `listed` is how many alternatives are reported with each token, None without reports. `form` is that of calls of
    tools which the answer may hold, None where there are none.
    """

    model: str
    chat: bool
    job: Job
    stream: bool
    usage: bool
    listed: int | None
    form: tools.Form | None = None


def parse(body: bytes, chat: bool, config: Config, texts: Texts) -> TextRequest:
    """Check a request. Raises RequestError that names the parameter."""
    given = parse_document(body)
    _check_members(given, _CHAT if chat else _PLAIN)
    adapter = _adapter(given["model"], config, texts)
    offered, grammar = (_tools(given, texts), _grammar(given, texts)) if chat else (None, "")
    if offered is not None:
        if grammar:
            raise RefusalError("`response_format` and `tools` together are not supported", "response_format")
        grammar = offered.grammar
    described = None if offered is None else given["tools"]
    ids = texts.ids_of_chat(_messages(given, offered is not None), described) if chat else _prompt(texts, given)
    most = given.get("max_completion_tokens", given.get("max_tokens", None if chat else _USUAL))
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
    listed = _listed(given, chat)
    options = {name: given.get(name) for name in names} | {"max_tokens": most, "top": listed or 0}
    stream, wanted = given.get("stream", False), given.get("stream_options", {})
    if not isinstance(stream, bool):
        raise RefusalError("`stream`: expected true or false", "stream")
    if not isinstance(wanted, dict) or set(wanted) - {"include_usage"}:
        raise RefusalError("`stream_options`: only `include_usage` is supported", "stream_options")
    guided = "response_format" if offered is None else "tools"
    job = _job(texts, ids, {**options, "grammar": grammar or None}, guided, adapter)
    calls = offered.form if offered and offered.grammar else None
    name = config.name if adapter is None else adapter.name
    return TextRequest(name, chat, job, stream, wanted.get("include_usage") is True, listed, calls)


def _adapter(model: Any, config: Config, texts: Texts) -> Adapter | None:
    """Return the adapter that a request names as its model, None where that is the base. Raises RefusalError."""
    if model in (config.name, f"{config.name}:{config.version}"):
        return None
    found = texts.adapters.find(model)
    if found is None:
        message = f"the model {quote(model)} does not exist: this server has {quote(config.name)}"
        if names := [item.name for item in texts.adapters.list()]:
            message += f" and its adapters {', '.join(map(quote, names[:_NAMED]))}{', …' if names[_NAMED:] else ''}"
        raise RefusalError(message, "model", status=404, code="model_not_found")
    return found


def parse_generate(body: bytes, texts: Texts) -> tuple[Job, bool]:
    """Check a request of `generate`; return what to do, and whether details are wanted. Raises RequestError.

    {"text_input": …, "parameters": {"max_tokens": …, "temperature": …, …, "details": false}}
    """
    given = parse_document(body)
    if unknown := sorted({*given} - {"text_input", "parameters", "id"}):
        raise RequestError(f"{quote(unknown[0])} is not supported")
    text, options = given.get("text_input"), given.get("parameters", {})
    if not isinstance(text, str) or not isinstance(options, dict):
        raise RequestError("expected `text_input`, a text, and `parameters`, an object")
    details = options.pop("details", False)
    if not isinstance(details, bool) or {*options} & {"grammar", "top"}:
        raise RequestError("`parameters`: expected those of completions, and `details`, true or false")
    return texts.job(texts.ids_of(text), {"max_tokens": _USUAL, **options}), details


def _job(texts: Texts, ids: list[int], options: Json, guided: str, adapter: Adapter | None) -> Job:
    try:
        return texts.job(ids, options, adapter)
    except guidance.GuidanceError as error:
        raise RefusalError(f"`{guided}`: {error.message}", guided) from None


def parse_document(body: bytes) -> Json:
    """Return the members of a request that are not null. Raises RequestError."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise RequestError("the body is no JSON object")
    return {name: value for name, value in given.items() if value is not None}


def _check_members(given: Json, honoured: set[str]) -> None:
    for name, value in given.items():
        if name not in honoured and not any(value == neutral for neutral in _NEUTRAL.get(name, ())):
            raise RefusalError(f"{quote(name)} is not supported", name)
    for name in ("model",):
        if name not in given:
            raise RefusalError(f"{quote(name)} is missing", name)


def _grammar(given: Json, texts: Texts) -> str:
    """Return the grammar of `response_format`, empty for text."""
    wanted = given.get("response_format", {"type": "text"})
    match wanted:
        case {"type": "text"} if len(wanted) == 1:
            return ""
        case {"type": "json_object"} if len(wanted) == 1:
            schema: Any = {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}} if len(wanted) == 2:
            pass
        case _:
            raise RefusalError(
                "`response_format`: expected the type `text`, `json_object`, or `json_schema` with its schema",
                "response_format",
            )
    try:
        return guidance.schema_grammar(schema)
    except guidance.GuidanceError as error:
        raise RefusalError(f"`response_format`: {error.message}", "response_format") from None


@dataclass(frozen=True, slots=True)
class _Offered:
    """Tools that the prompt describes; without a grammar it is not to call one."""

    form: tools.Form
    grammar: str


def _tools(given: Json, texts: Texts) -> _Offered | None:
    """Return what a request says of tools, None where it names none."""
    listed, choice = given.get("tools", []), given.get("tool_choice", "auto")
    several = given.get("parallel_tool_calls", True)
    if not isinstance(listed, list) or len(listed) > MAX_TOOLS:
        raise RefusalError(f"`tools`: expected a list of at most {MAX_TOOLS} tools", "tools")
    if not isinstance(several, bool):
        raise RefusalError("`parallel_tool_calls`: expected true or false", "parallel_tool_calls")
    if not listed:
        if choice not in ("none", "auto"):
            raise RefusalError("`tool_choice` needs `tools`", "tool_choice")
        return None
    form = texts.form
    if form is None:
        raise RefusalError("the model's chat template knows no `tools`, or none in a form that is supported", "tools")
    found = [_tool(item, number) for number, item in enumerate(listed)]
    if len({tool.name for tool in found}) < len(found):
        raise RefusalError("`tools`: two have the same name", "tools")
    if choice == "none":
        return _Offered(form, "")
    chosen = _chosen(found, choice, form)
    try:
        return _Offered(form, tools.grammar(form, chosen, free=choice == "auto", several=several))
    except guidance.GuidanceError as error:
        raise RefusalError(f"`tools`: {error.message}", "tools") from None


def _chosen(found: list[Tool], choice: Any, form: tools.Form) -> list[Tool]:
    """Return the tools among which a choice leaves the model."""
    match choice:
        case "auto" if not form.begin:
            raise RefusalError(
                "`tool_choice`: this model marks no calls, so that they look like text: `required` "
                "or the name of a function",
                "tool_choice",
            )
        case "auto" | "required":
            return found
        case {"type": "function", "function": {"name": str(name)}} if any(tool.name == name for tool in found):
            return [tool for tool in found if tool.name == name]
    raise RefusalError(
        "`tool_choice`: expected `none`, `auto`, `required` or the name of a function among `tools`", "tool_choice"
    )


def _tool(item: Any, number: int) -> Tool:
    place = f"tools[{number}]"
    about: Any = item.get("function") if isinstance(item, dict) and item.get("type") == "function" else None
    if not isinstance(about, dict):
        raise RefusalError(f"`{place}`: only functions are supported", place)
    if unknown := sorted({*about} - {"name", "description", "parameters", "strict"}):
        raise RefusalError(f"`{place}.function.{unknown[0][:60]}` is not supported", place)
    name, parameters = about.get("name"), about.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RefusalError(f"`{place}.function.name`: expected 1 to 64 letters, digits, `_` and `-`", place)
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise RefusalError(f"`{place}.function.parameters`: expected the JSON schema of an object", place)
    return Tool(name, {"type": "object", **parameters})


def _messages(given: Json, offered: bool) -> list[Json]:
    listed = given.get("messages")
    if not isinstance(listed, list) or not listed:
        raise RefusalError("`messages`: expected a list of messages", "messages")
    found = []
    for number, message in enumerate(listed):
        place = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RefusalError(f"`{place}`: expected `role` and `content`", place)
        # a template that writes calls reads them as well
        honoured = {"role", "content", *(_OF_ROLE.get(message["role"], ()) if offered else ())}
        if unknown := sorted(name for name in message if name not in honoured and message[name]):
            raise RefusalError(f"`{place}.{unknown[0][:60]}` is not supported", f"{place}.{unknown[0][:60]}")
        calls = message.get("tool_calls")
        content = message.get("content")
        text = "" if calls and content is None else _content(content, place)
        made: Json = {"role": message["role"], "content": text}
        if calls:
            made["tool_calls"] = _calls(message, place)
        named: Json = {
            name: message[name] for name in ("tool_call_id", "name") if name in honoured and message.get(name)
        }
        if any(not isinstance(value, str) for value in named.values()):
            raise RefusalError(f"`{place}`: expected texts as `tool_call_id` and `name`", place)
        found.append(made | named)
    return found


def _calls(message: Json, place: str) -> list[Json]:
    """Return the calls of an earlier answer, with arguments as templates take them."""
    found = []
    calls: Any = message["tool_calls"]
    listed: list[Any] = calls if isinstance(calls, list) else [{}]
    for call in listed:
        match call:
            case {"type": "function", "function": {"name": str(name), "arguments": str(text)}}:
                try:
                    arguments = orjson.loads(text)
                except orjson.JSONDecodeError:
                    arguments = None
                if isinstance(arguments, dict):
                    about = {"name": name, "arguments": arguments}
                    found.append({"id": str(call.get("id", "")), "type": "function", "function": about})
                    continue
        place = f"{place}.tool_calls"
        raise RefusalError(f"`{place}`: expected functions with a name and arguments, a JSON object as text", place)
    return found


def _content(content: Any, place: str) -> str:
    """Return the text of a message; of several parts, all of which have to be texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return "".join(part["text"] for part in content)
    raise RefusalError(f"`{place}.content`: only texts are supported", f"{place}.content")


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _prompt(texts: Texts, given: Json) -> list[int]:
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return texts.ids_of(prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise RefusalError("`prompt`: expected one text, or the ids of one", "prompt")


def _listed(given: Json, chat: bool) -> int | None:
    """Return how many alternatives are reported with each token, None without reports."""
    wanted, top = given.get("logprobs"), given.get("top_logprobs")
    if chat:
        if wanted not in (None, True, False):
            raise RefusalError("`logprobs`: expected true or false", "logprobs")
        if top is not None and not wanted:
            raise RefusalError("`top_logprobs` needs `logprobs`", "top_logprobs")
        return (top or 0) if wanted else None
    if wanted is None or wanted is False:
        return None
    return wanted if type(wanted) is int else 0
