# SPDX-License-Identifier: Apache-2.0
"""Load a program in Rego, and evaluate it on an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from packager.policy.language import builtins, names, parse, safety, values
from packager.policy.language.evaluate import Evaluator
from packager.policy.language.syntax import Rule
from packager.policy.language.values import RegoError

PACKAGE = "main"


@dataclass(frozen=True, slots=True)
class Program:
    """The rules of one file, their statements in the order in which they can be evaluated."""

    rules: tuple[Rule, ...]


def load(text: str, *, clock: bool = False) -> Program:
    """Read a program; `clock`: it may read the time.

    Raises RegoError for what OPA refuses, for what is not evaluated here, and for a package other than `main`.
    """
    try:
        module = parse.parse(text)
        if module.package != (PACKAGE,):
            raise RegoError(f"expected `package {PACKAGE}`, got `package {'.'.join(module.package)}`")
        known = builtins.count_operands() | ({"time.now_ns": 0} if clock else {})
        named = names.Names(module, known, builtins.refuse_call)
        return Program(tuple(safety.order_bodies(named.resolve(rule)) for rule in module.rules))
    except RecursionError:
        raise RegoError("the program is nested too deeply") from None


def evaluate(program: Program, document: Any, *, now: int | None = None) -> dict[str, Any]:
    """Return the JSON document of the package for an input; `now`: the time in nanoseconds. Raises RegoError."""
    functions = builtins.list_builtins() | ({} if now is None else {"time.now_ns": lambda: now})
    try:
        evaluator = Evaluator(program.rules, 1, values.of_json(document), functions)
        found: dict[str, Any] = values.to_json(evaluator.document())
    except RecursionError:
        raise RegoError("the evaluation is nested too deeply") from None
    except ValueError as error:
        raise RegoError(f"the input is not evaluated here: {error}") from None
    return found
