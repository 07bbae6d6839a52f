# SPDX-License-Identifier: Apache-2.0
"""Built-ins of OPA that compare and compute, and those over arrays, sets and objects."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from packager.policy.language import operands, values
from packager.policy.language.evaluate import Builtin, BuiltinError, lookup
from packager.policy.language.values import (
    UNDEFINED,
    Key,
    Obj,
    Set,
    Undefined,
    Value,
    make_key,
    round_number,
    type_name,
)

_MOST_ITEMS = 3_000_000


def _compares(name: str, holds: Callable[[Key, Key], bool]) -> None:
    @operands.build_value(name)
    def compared(a: Value, b: Value) -> Value:
        return holds(make_key(a), make_key(b))


_compares("equal", operator.eq)
_compares("neq", operator.ne)
_compares("lt", operator.lt)
_compares("lte", operator.le)
_compares("gt", operator.gt)
_compares("gte", operator.ge)


def _computed(a: Value, b: Value, how: Callable[[Any, Any], Any]) -> int | Fraction:
    left, right = operands.read_number(a), operands.read_number(b)
    if isinstance(left, int) and isinstance(right, int):
        return values.read_plain(how(left, right))
    return round_number(how(values.read_operand(left), values.read_operand(right)))


@operands.build_value("plus")
def plus(a: Value, b: Value) -> Value:
    return _computed(a, b, lambda x, y: x + y)


@operands.build_value("minus")
def minus(a: Value, b: Value) -> Value:
    if isinstance(a, Set) and isinstance(b, Set):
        return Set(item for position, item in a.entries.items() if position not in b.entries)
    return _computed(a, b, lambda x, y: x - y)


@operands.build_value("mul")
def mul(a: Value, b: Value) -> Value:
    return _computed(a, b, lambda x, y: x * y)


@operands.build_value("div")
def div(a: Value, b: Value) -> Value:
    left, right = operands.read_number(a), operands.read_number(b)
    if right == 0:
        raise BuiltinError("divide by zero")
    exact = Fraction(left) / Fraction(right)
    if isinstance(left, int) and isinstance(right, int) and exact.denominator == 1:
        return values.read_plain(exact)
    return round_number(values.read_operand(left) / values.read_operand(right))


@operands.build_value("rem")
def rem(a: Value, b: Value) -> Value:
    left, right = operands.read_number(a), operands.read_number(b)
    if not isinstance(left, int) or not isinstance(right, int):
        raise BuiltinError("modulo on floating-point number")
    if right == 0:
        raise BuiltinError("modulo by zero")
    return int(math.copysign(1, left)) * (abs(left) % abs(right))


@operands.build_value("or")
def union_of_two(a: Value, b: Value) -> Value:
    return Set([*operands.of_type("set", a), *operands.of_type("set", b)])


@operands.build_value("and")
def intersection_of_two(a: Value, b: Value) -> Value:
    return Set(
        item
        for position, item in operands.of_type("set", a).entries.items()
        if position in operands.of_type("set", b).entries
    )


@operands.build_value("internal.member_2")
def member(a: Value, b: Value) -> Value:
    if isinstance(b, Set):
        return make_key(a) in b.entries
    found = [item for _, item in b] if isinstance(b, Obj) else list(b) if isinstance(b, tuple) else []
    return any(make_key(a) == make_key(item) for item in found)


@operands.build_value("internal.member_3")
def member_at(name: Value, a: Value, b: Value) -> Value:
    found = UNDEFINED if isinstance(b, str) else lookup(b, name)
    return not isinstance(found, Undefined) and make_key(found) == make_key(a)


@operands.build_value("abs")
def absolute(a: Value) -> Value:
    return abs(operands.read_unrounded(a))


@operands.build_value("ceil")
def ceil(a: Value) -> Value:
    return math.ceil(operands.read_unrounded(a))


@operands.build_value("floor")
def floor(a: Value) -> Value:
    return math.floor(operands.read_unrounded(a))


@operands.build_value("round")
def round_(a: Value) -> Value:
    number = Fraction(operands.read_unrounded(a))
    return int(math.copysign(1, number)) * math.floor(abs(number) + Fraction(1, 2))


def _folded(a: Value, how: Builtin, start: int) -> Value:
    found: Value = start
    for item in operands.list_elements(a):
        found = how(found, item)
    return found


@operands.build_value("sum")
def sum_(a: Value) -> Value:
    return _folded(a, plus, 0)


@operands.build_value("product")
def product(a: Value) -> Value:
    return _folded(a, mul, 1)


@operands.build_value("max")
def max_(a: Value) -> Value:
    return max(operands.list_elements(a), key=make_key, default=UNDEFINED)


@operands.build_value("min")
def min_(a: Value) -> Value:
    return min(operands.list_elements(a), key=make_key, default=UNDEFINED)


@operands.build_value("count")
def count(a: Value) -> Value:
    if not isinstance(a, str | tuple | Obj | Set):
        raise BuiltinError(f"expected a collection or a text, got a {type_name(a)}")
    return len(a)


@operands.build_value("sort")
def sort(a: Value) -> Value:
    return tuple(sorted(operands.list_elements(a), key=make_key))


@operands.build_value("union")
def union(a: Value) -> Value:
    return Set(item for inner in operands.of_type("set", a) for item in operands.of_type("set", inner))


@operands.build_value("intersection")
def intersection(a: Value) -> Value:
    sets = [operands.of_type("set", inner) for inner in operands.of_type("set", a)]
    return Set(item for item in (sets[0] if sets else ()) if all(make_key(item) in other.entries for other in sets))


@operands.build_value("numbers.range")
def numbers_range(a: Value, b: Value) -> Value:
    return numbers_range_step(a, b, 1)


@operands.build_value("numbers.range_step")
def numbers_range_step(a: Value, b: Value, step: Value) -> Value:
    first, last, by = operands.read_integer(a), operands.read_integer(b), operands.read_integer(step)
    if by <= 0:
        raise BuiltinError("step must be a positive integer")
    if abs(last - first) // by > _MOST_ITEMS:
        raise BuiltinError("the range is too long")
    return tuple(range(first, last + 1, by) if first <= last else range(first, last - 1, -by))


@operands.build_value("bits.and")
def bits_and(a: Value, b: Value) -> Value:
    return operands.read_integer(a) & operands.read_integer(b)


@operands.build_value("bits.or")
def bits_or(a: Value, b: Value) -> Value:
    return operands.read_integer(a) | operands.read_integer(b)


@operands.build_value("bits.xor")
def bits_xor(a: Value, b: Value) -> Value:
    return operands.read_integer(a) ^ operands.read_integer(b)


@operands.build_value("bits.negate")
def bits_negate(a: Value) -> Value:
    return ~operands.read_integer(a)


@operands.build_value("bits.lsh")
def bits_lsh(a: Value, b: Value) -> Value:
    if not 0 <= operands.read_integer(b) <= 4096:
        raise BuiltinError("expected a shift of 0 to 4096")
    return values.read_plain(operands.read_integer(a) << operands.read_integer(b))


@operands.build_value("bits.rsh")
def bits_rsh(a: Value, b: Value) -> Value:
    if operands.read_integer(b) < 0:
        raise BuiltinError("expected a shift of at least 0")
    return operands.read_integer(a) >> min(operands.read_integer(b), 10_000)


def _is(kind: str) -> None:
    @operands.build_value(f"is_{kind}")
    def predicate(a: Value) -> Value:
        return type_name(a) == kind


for _kind in ("array", "boolean", "null", "number", "object", "set", "string"):
    _is(_kind)
operands.BUILTINS["type_name"] = type_name


@operands.build_value("to_number")
def to_number(a: Value) -> Value:
    if a is None or isinstance(a, bool):
        return int(bool(a))
    if isinstance(a, str):
        try:
            return values.parse_number(a)
        except ValueError as error:
            raise BuiltinError(str(error)) from None
    return operands.read_number(a)
