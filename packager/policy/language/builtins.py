# SPDX-License-Identifier: Apache-2.0
"""The table of built-ins that are evaluated here, each as OPA does; OPA's other built-ins are refused by name.

None reads a clock, the environment, a file or the network. An operand of another type is a `BuiltinError`, as is a
meaningless one: OPA's strict mode ends there as well. Where Python may differ from Go (letters of other scripts,
printed fractions, time zones), the built-in raises `BuiltinError`.
"""

from __future__ import annotations

import inspect

from packager.policy.language import arithmetic, collecting, encodings, moments, operands, texts
from packager.policy.language.evaluate import Builtin
from packager.policy.language.values import RegoError

_MODULES = (arithmetic, collecting, encodings, moments, texts)  # importing one writes its built-ins into the table


def list_builtins() -> dict[str, Builtin]:
    """Return the built-ins by name."""
    return dict(operands.BUILTINS)


def count_operands() -> dict[str, int]:
    """Return the number of operands of each built-in."""
    return {name: len(inspect.signature(function).parameters) for name, function in operands.BUILTINS.items()}


def refuse_call(name: str, line: int) -> RegoError:
    """Return the error for a function that does not exist here."""
    return RegoError(f"line {line}: `{name}` is no function of this file and no built-in that is evaluated here")
