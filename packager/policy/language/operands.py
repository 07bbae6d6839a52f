# SPDX-License-Identifier: Apache-2.0
"""Check operands of built-ins, and keep the table into which the other modules register them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from packager.policy.language.evaluate import Builtin, BuiltinError
from packager.policy.language.values import Set, Value, type_name

BUILTINS: dict[str, Builtin] = {}
EARLIEST, LATEST = -(2**63), 2**63 - 1
_MOST_LETTERS = 1 << 24


def build_value(name: str) -> Callable[[Builtin], Builtin]:
    def note(function: Builtin) -> Builtin:
        BUILTINS[name] = function
        return function

    return note


def of_type(kind: str, value: Value) -> Any:
    if type_name(value) != kind:
        raise BuiltinError(f"expected a {kind}, got a {type_name(value)}")
    return value


def read_number(value: Value) -> int | Fraction:
    found: int | Fraction = of_type("number", value)
    return found


def read_integer(value: Value) -> int:
    found = read_number(value)
    if not isinstance(found, int) or not EARLIEST <= found <= LATEST:
        raise BuiltinError("expected an integer of 64 bits")
    return found


def read_unrounded(value: Value) -> int | Fraction:
    """Return a number that OPA does not round first."""
    found = read_number(value)
    if not -LATEST <= found <= LATEST:
        raise BuiltinError("numbers beyond 64 bits are not evaluated here")
    return found


def read_text(value: Value) -> str:
    return str(of_type("string", value))


def list_elements(value: Value) -> list[Value]:
    """Return the elements of an array or a set."""
    if not isinstance(value, tuple | Set):
        raise BuiltinError(f"expected an array or a set, got a {type_name(value)}")
    return list(value)


def read_texts(value: Value) -> list[str]:
    return [read_text(item) for item in list_elements(value)]


def check_bounds(text: str) -> str:
    if len(text) > _MOST_LETTERS:
        raise BuiltinError("the text is too long")
    return text


def ascii_text(text: str) -> str:
    if not text.isascii():
        raise BuiltinError("letters beyond ASCII are not evaluated here")
    return text
