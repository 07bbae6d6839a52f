# SPDX-License-Identifier: Apache-2.0
"""Organisations' own policies in Rego: a file beside the profile, asked like any rule, and by Conftest as it is.

The contract: package `main`; `allow` must be exactly true *and* `deny` (and Conftest's `violation`) empty; `warn`
warns. A document that is undefined never allows. Rego lets a comparison with something absent pass in silence, so a
file may name the facts it reads only as `input.SECTION`: then it is known which they are, and without one of them it is
not asked at all.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, UsageError, did_you_mean
from packager.policy import factschema
from packager.types import Finding

SUFFIX = ".rego"
PACKAGE = "main"
_QUIET = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*')
_INPUT = re.compile(r"(?<![\w.])input\b(?:\.(\w+))?")


def is_rego(rule: str) -> bool:
    """Tell whether the name of a rule is that of a Rego file."""
    return rule.endswith(SUFFIX)


def sections(text: str, name: str) -> tuple[str, ...]:
    """Return the sections of facts that a policy reads. Raises UsageError where that cannot be told, or none exists."""
    found = {match[1] for match in _INPUT.finditer(_QUIET.sub('""', text))}
    if None in found:
        raise UsageError(
            f"`{name}` uses `input` as a whole, so nobody can tell which facts it needs",
            hint="write `input.SECTION`, for example `some c in input.components`",
        )
    known = factschema.sections()
    for section in sorted(found):
        if section not in known:
            raise UsageError(f"`{name}` reads `input.{section}`, which is no fact", hint=did_you_mean(section, known))
    return tuple(sorted(found))


def check(text: str, name: str, facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield what a policy has to say about facts. Raises UsageError for a file that is not Rego, MissingToolError."""
    answer = _evaluated(text, name, facts)
    rule = PurePosixPath(name).name
    for key in ("deny", "violation"):
        yield from _findings(rule, "error", answer.get(key, [] if key == "violation" else None))
    yield from _findings(rule, "warning", answer.get("warn", []))
    if answer.get("allow") is not True:
        message = f"`{name}` does not allow it: `allow` is {answer.get('allow', 'undefined')!s}".lower()
        yield Finding(rule, "error", "allow", message, "`allow` must be true; usually `allow if count(deny) == 0`")


def _findings(rule: str, level: Any, said: JSON) -> Iterator[Finding]:
    """Yield one finding per message: a text, or an object with `msg` and perhaps `subject`, as Conftest takes them."""
    if not isinstance(said, list):
        yield Finding(
            rule, "error", "deny", f"`deny` is no set of messages, got {said!s:.60}", "`deny contains msg if …`"
        )
        return
    for item in sorted(said, key=str):
        parts = item if isinstance(item, dict) else {"msg": item}
        hint = parts.get("hint")
        yield Finding(
            rule, level, str(parts.get("subject", PACKAGE)), str(parts.get("msg", item)),
            hint if isinstance(hint, str) else None, evidence=parts.get("evidence"),
        )  # fmt: skip


def _evaluated(text: str, name: str, facts: Mapping[str, JSON]) -> Mapping[str, Any]:
    try:
        tool = importlib.import_module("regopy")
    except ImportError as error:
        raise MissingToolError("regopy", "rego") from error
    interpreter = tool.Interpreter()
    interpreter.log_level = tool.LogLevel.NONE
    try:
        interpreter.add_module(name, text)
        interpreter.set_input(dict(facts))
        results = interpreter.query(f"data.{PACKAGE}").results
    except (tool.RegoError, ValueError) as error:  # its answer about an unknown function is no JSON
        problems = re.findall(r"\(errormsg \d+:([^)]*)\)", str(error)) or [str(error)]
        raise UsageError(f"`{name}` is not valid Rego: {problems[0]:.200}", hint="`opa check` says where") from None
    value = results[0].expressions[0] if results and results[0].expressions else None
    if not isinstance(value, dict):
        raise UsageError(
            f"`{name}` defines nothing in the package `{PACKAGE}`", hint=f"begin it with `package {PACKAGE}`"
        )
    return value
