# SPDX-License-Identifier: Apache-2.0
"""Run policies in Rego: a file beside the profile, run like any rule; Conftest runs the same file.

The contract: package `main`; `allow` must be exactly true *and* `deny` (and Conftest's `violation`) empty; `warn`
warns. A document that is undefined never allows. In Rego a comparison with an absent member passes silently, so a file
may name the facts it reads only as `input.SECTION`: then it is known which they are, and without one of them the file
is not run; what is absent within them is an error in a rule that decides (`language.evaluate`).

The subset of Rego in `language` is evaluated as Open Policy Agent evaluates it; all else is refused by name when a
profile is read. Where a profile says `opa: true`, `opa` itself judges, and where both can evaluate, they must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.policy import schema
from packager.types import Finding

if TYPE_CHECKING:  # most profiles hold no Rego: the evaluator is imported for those that do
    from packager.policy.language.values import RegoError

SUFFIX = ".rego"
_QUIET = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*')
_INPUT = re.compile(r"(?<![\w.])input\b(?:\.(\w+))?")


def is_rego(rule: str) -> bool:
    """Return whether the name of a rule is that of a Rego file."""
    return rule.endswith(SUFFIX)


def list_sections(text: str, name: str) -> tuple[str, ...]:
    """Return the sections of facts that a policy reads. Raises UsageError where that is unknown, or one is no fact."""
    found = {match[1] for match in _INPUT.finditer(_QUIET.sub('""', text))}
    if None in found:
        raise UsageError(
            f"`{name}` uses `input` as a whole, so the facts it needs are unknown",
            hint="write `input.SECTION`, for example `some c in input.components`",
        )
    known = schema.list_sections()
    for section in sorted(found):
        if section not in known:
            raise UsageError(f"`{name}` reads `input.{section}`, which is no fact", hint=did_you_mean(section, known))
    return tuple(sorted(found))


def check_program(text: str, name: str, *, by_opa: bool = False, clock: bool = False) -> None:
    """Check that a policy can be run; one that `opa` judges may use more than is evaluated here.

    Raises UsageError.
    """
    list_sections(text, name)
    if by_opa:
        return
    from packager.policy.language import program
    from packager.policy.language.values import RegoError

    try:
        program.load(text, clock=clock)
    except RegoError as refused:
        raise _refusal(name, refused) from None


def check(
    text: str, name: str, facts: Mapping[str, JSON], *, by_opa: bool = False, now: int | None = None
) -> Iterator[Finding]:
    """Yield the findings of a policy on facts, by our evaluator and, with `by_opa`, by `opa`.

    `now`: the time in nanoseconds, for a policy that may read it. Raises UsageError for a file that cannot be
    evaluated, in which a deciding rule meets an absent member, or on which the two disagree; StepError without `opa`.
    """
    answer = _evaluated(text, name, facts, by_opa, now)
    rule = PurePosixPath(name).name
    for key in ("deny", "violation"):
        yield from _findings(rule, "error", answer.get(key, [] if key == "violation" else None))
    yield from _findings(rule, "warning", answer.get("warn", []))
    if answer.get("allow") is not True:
        message = f"`{name}` does not allow it: `allow` is {answer.get('allow', 'undefined')!s}".lower()
        yield Finding(rule, "error", "allow", message, "`allow` must be true; usually `allow if count(deny) == 0`")


def _findings(rule: str, level: Any, messages: JSON) -> Iterator[Finding]:
    """Yield one finding per message: a text, or an object with `msg` and perhaps `subject`, as Conftest reads them."""
    from packager.policy.language.program import PACKAGE

    if not isinstance(messages, list):
        yield Finding(
            rule, "error", "deny", f"`deny` is no set of messages, got {messages!s:.60}", "`deny contains msg if …`"
        )
        return
    for item in sorted(messages, key=str):
        parts = item if isinstance(item, dict) else {"msg": item}
        hint = parts.get("hint")
        yield Finding(
            rule,
            level,
            str(parts.get("subject", PACKAGE)),
            str(parts.get("msg", item)),
            hint if isinstance(hint, str) else None,
            evidence=parts.get("evidence"),
        )


def _evaluated(text: str, name: str, facts: Mapping[str, JSON], by_opa: bool, now: int | None) -> Mapping[str, Any]:
    from packager.policy import opa
    from packager.policy.language import child
    from packager.policy.language.values import RegoError, UndefinedError

    theirs = opa.evaluate(text, name, facts, now) if by_opa else None
    try:
        ours: Mapping[str, Any] | None = child.evaluate(text, facts, now)
    except UndefinedError as silence:
        raise _refusal(name, silence) from None
    except RegoError as refused:
        if theirs is None:
            raise _refusal(name, refused) from None
        ours = None
    if theirs is not None and ours is not None and theirs != ours:
        differing = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
        raise UsageError(
            f"`{name}`: `opa` and the evaluator of this program disagree about {', '.join(map(repr, differing))[:200]}",
            hint="please report it with the file; nothing is decided meanwhile",
        )
    return theirs or ours or {}


def _refusal(name: str, refused: RegoError) -> UsageError:
    hint = "`opa` may evaluate what this program does not: install it and write `opa: true` beside the rule"
    return UsageError(f"`{name}` is refused: {refused}", hint=hint)
