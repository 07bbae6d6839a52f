# SPDX-License-Identifier: Apache-2.0
"""Render chat templates: programs of the model's author, run in Jinja's immutable sandbox with limits.

The environment is that of transformers (blocks trimmed, `raise_exception`, `strftime_now`, `tojson`, `break` and
`continue`, `generation` blocks), so that templates give the same text. Beyond Jinja's own sandbox, the turns of all
loops, the text and what is made of texts are bounded, and there are no methods and filters that pad or format: they
make memory of a number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_TEMPLATE = 1 << 20  # characters; the longest known have 30,000
MAX_TURNS = 1_000_000
MAX_TEXT = 16 << 20  # characters of a rendered conversation
_MAX_PRODUCT = 1 << 20
_DENIED = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})
_FILTERS = frozenset({"center", "format", "indent", "filesizeformat", "random", "urlize", "xmlattr", "wordwrap"})


class TemplateError(ValueError):
    """A template that does not render these messages, with the reason."""


class Template:
    """A compiled chat template. It may be used from several threads."""

    def __init__(self, source: str, bos: str = "", eos: str = "", now: Callable[[str], str] = time.strftime) -> None:
        """Compile. Raises TemplateError for what is no template, ImportError without Jinja."""
        if len(source) > MAX_TEMPLATE:
            raise TemplateError(f"the chat template is longer than {MAX_TEMPLATE} characters")
        self._tokens, self._now = {"bos_token": bos, "eos_token": eos}, now
        self._compiled = _compile(source)

    @staticmethod
    def open(path: Path, bos: str = "", eos: str = "", now: Callable[[str], str] = time.strftime) -> Template:
        """Read a template file. Raises TemplateError, ImportError and OSError."""
        return Template(path.read_text("utf-8"), bos, eos, now)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prompt: bool = True,
    ) -> str:
        """Return the text of a conversation, by default up to where the assistant goes on. Raises TemplateError.

        `tools` are described to the model where the template does that.
        """
        names = {
            **self._tokens,
            "messages": list(messages),
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": prompt,
            "strftime_now": self._now,
            "_budget": _Budget(),
            "_sized": _sized,
        }
        parts, length = [], 0
        try:
            for part in self._compiled.generate(names):
                length += len(part)
                if length > MAX_TEXT:
                    raise TemplateError(f"the chat template writes more than {MAX_TEXT} characters")
                parts.append(part)
        except TemplateError:
            raise
        except Exception as error:  # a template is a program, and fails as one
            raise TemplateError(f"the chat template does not take these messages: {error!s:.300}") from None
        return "".join(parts)


class _Budget:
    """Counts the turns of all loops of one rendering."""

    def __init__(self) -> None:
        self._left = MAX_TURNS

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise TemplateError(f"the chat template takes more than {MAX_TURNS} turns of its loops")
            yield item


def _compile(source: str) -> Any:
    import jinja2
    from jinja2 import nodes, sandbox

    class Environment(sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def call(self, context: Any, function: Any, *args: Any, **options: Any) -> Any:
            made_of = getattr(function, "__self__", None)
            if isinstance(made_of, str) and getattr(function, "__name__", "") in _GROWING:
                _GROWING[function.__name__](made_of, *args)
            return super().call(context, function, *args, **options)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in _DENIED and super().is_safe_attribute(obj, attr, value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_blocks()]
    )
    environment.filters = {name: made for name, made in environment.filters.items() if name not in _FILTERS}
    environment.filters["tojson"] = _to_json
    environment.filters |= {name: _checked(environment.filters[name], _FILTERED[name]) for name in _FILTERED}
    environment.globals = {"range": environment.globals["range"], "namespace": environment.globals["namespace"]}
    environment.globals |= {"dict": dict, "raise_exception": _refuse}
    try:
        tree = environment.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.Name("_budget", "load"), [loop.iter], [], None, None, lineno=loop.lineno)
        for joined in tree.find_all(nodes.Concat):
            joined.nodes = [nodes.Call(nodes.Name("_sized", "load"), [part], [], None, None) for part in joined.nodes]
        code = environment.compile(tree)
    except (jinja2.TemplateSyntaxError, RecursionError, ValueError) as error:
        raise TemplateError(f"the chat template is not valid Jinja: {error!s:.200}") from None
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _generation_blocks() -> Any:
    """Return the extension for `{% generation %}`, by which transformers marks what an assistant said."""
    from jinja2 import ext

    class GenerationBlocks(ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own form

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationBlocks


def _sized(value: Any) -> Any:
    """Refuse a part of a text that is too long by itself."""
    _check_size(len(value) if isinstance(value, str) else 0)
    return value


def _check_size(size: int) -> None:
    if size > MAX_TEXT:
        raise TemplateError(f"the chat template makes a text of more than {MAX_TEXT} characters")


def _check_replaced(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    _check_size((len(str(text)) + 1) // max(len(str(old)), 1) * len(str(new)))


def _check_joined(glue: Any, items: Any = (), *_: Any) -> None:
    if isinstance(items, list | tuple):
        _check_size(sum(len(str(glue)) + len(item) for item in items if isinstance(item, str)))


def _check_joined_items(items: Any, glue: Any = "", *_: Any) -> None:
    _check_joined(glue, items)


_GROWING: Mapping[str, Callable[..., None]] = {"replace": _check_replaced, "join": _check_joined}
_FILTERED: Mapping[str, Callable[..., None]] = {"replace": _check_replaced, "join": _check_joined_items}


def _checked(function: Any, check: Callable[..., None]) -> Any:
    """Return a filter that checks its arguments first; the environment that some filters take goes before them."""
    passed = getattr(function, "jinja_pass_arg", None)

    def run(*args: Any, **options: Any) -> Any:
        check(*args[1 if passed else 0 :])
        return function(*args, **options)

    if passed is not None:
        run.jinja_pass_arg = passed  # type: ignore[attr-defined]
    return run


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse what makes much of little: repeated texts, powers, and texts that are formatted by `%`."""
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if not numbers and operator == "%":
        raise TemplateError("the chat template formats text by `%`, which is not supported")
    if numbers and (operator != "**" or (abs(left) < _MAX_PRODUCT and abs(right) < 64)):
        return
    if operator == "+":
        _check_size(sum(len(side) for side in (left, right) if hasattr(side, "__len__")))
        return
    sizes = [len(side) if hasattr(side, "__len__") else abs(side) for side in (left, right)]
    if operator == "**" or sizes[0] * sizes[1] > _MAX_PRODUCT:
        raise TemplateError("the chat template multiplies beyond what a conversation needs")


def _refuse(message: str) -> None:
    raise TemplateError(f"the chat template refuses: {message!s:.300}")


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
    """Write JSON as transformers does: without the escapes of HTML that Jinja's own filter adds."""
    if indent is not None and not 0 <= int(indent) <= 16:
        raise TemplateError("the chat template indents JSON by more than 16")
    known = {key: options[key] for key in ("separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **known)
