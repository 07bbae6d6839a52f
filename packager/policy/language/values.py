# SPDX-License-Identifier: Apache-2.0
"""Values of Rego: JSON and sets, with OPA's order between them, and its numbers.

A value is None, a bool, an int, a Fraction (a number that is no integer, exactly as its digits say), a str, a tuple (an
array), an `Obj` or a `Set`. Equal values have the same `key`, which sorts as OPA does: null < booleans < numbers <
strings < arrays < objects < sets.

Integers are exact. Other results of arithmetic are rounded to 64 bits of mantissa and then to the fewest digits that
identify them, as Go's `big.Float` does for OPA: 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, TypeAlias

Value: TypeAlias = Any
Key: TypeAlias = tuple[Any, ...]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MANTISSA = 64
_MOST_EXPONENT = 300
_MOST_BITS = 4096


class Undefined:
    """The absence of a value."""


UNDEFINED = Undefined()


class RegoError(Exception):
    """The program is not evaluated here, or its evaluation fails; the message has the reason and the line."""


class UndefinedError(RegoError):
    """Something is absent in a rule that decides, where OPA would continue without a finding."""


class Obj:
    """An object: any value may be a key."""

    __slots__ = ("entries",)

    def __init__(self, pairs: Iterable[tuple[Value, Value]] = ()) -> None:
        self.entries: dict[Key, tuple[Value, Value]] = {make_key(name): (name, value) for name, value in pairs}

    def __iter__(self) -> Iterator[tuple[Value, Value]]:
        """Yield names and values in the order of the names."""
        return iter([self.entries[position] for position in sorted(self.entries)])

    def __len__(self) -> int:
        return len(self.entries)


class Set:
    """A set of values."""

    __slots__ = ("entries",)

    def __init__(self, items: Iterable[Value] = ()) -> None:
        self.entries: dict[Key, Value] = {make_key(item): item for item in items}

    def __iter__(self) -> Iterator[Value]:
        """Yield the elements in order."""
        return iter([self.entries[position] for position in sorted(self.entries)])

    def __len__(self) -> int:
        return len(self.entries)


def make_key(value: Value) -> Key:
    """Return the key that equal values share, and that values are sorted by."""
    match value:
        case None:
            return (0,)
        case bool():
            return (1, value)
        case int() | Fraction():
            return (2, value)
        case str():
            return (3, value)
        case tuple():
            return (4, tuple(map(make_key, value)))
        case Obj():
            return (5, tuple(sorted((name, make_key(item)) for name, (_, item) in value.entries.items())))
        case Set():
            return (6, tuple(sorted(value.entries)))
    raise TypeError(f"{type(value).__name__} is no value")


def type_name(value: Value) -> str:
    """Return OPA's name for the type of a value."""
    return ("null", "boolean", "number", "string", "array", "object", "set")[key_rank(value)]


def key_rank(value: Value) -> int:
    """Return the rank of the type of a value in the order of types."""
    if isinstance(value, bool):
        return 1
    kinds: tuple[Any, ...] = (type(None), bool, (int, Fraction), str, tuple, Obj, Set)
    return next(position for position, kind in enumerate(kinds) if isinstance(value, kind))


def parse_number(text: str) -> int | Fraction:
    """Read a number as JSON writes it. Raises ValueError, also for one beyond 10^300 or of very many digits."""
    if not _NUMBER.fullmatch(text) or len(text) > 1000:
        raise ValueError(f"`{text:.40}` is no number")
    _, _, exponent = text.lower().partition("e")
    if len(exponent) > 5 or abs(int(exponent or 0)) > _MOST_EXPONENT:
        raise ValueError(f"`{text:.40}` is beyond the numbers that are evaluated here")
    return read_plain(Fraction(text))


def read_plain(value: Fraction | int) -> int | Fraction:
    """Return an integer as such. Raises RegoError for one of very many digits."""
    if isinstance(value, int) or value.denominator == 1:
        if int(value).bit_length() > _MOST_BITS:
            raise RegoError("a number has more digits than are evaluated here")
        return int(value)
    return value


def round_number(value: Fraction | int) -> int | Fraction:
    """Return the result of an operation as OPA writes it: 64 bits, and the fewest digits that identify it."""
    near = _to_mantissa(Fraction(value))
    for digits in range(1, 25):
        context = Context(prec=digits, rounding=ROUND_HALF_EVEN, Emin=-9999, Emax=9999)
        written = Fraction(context.divide(Decimal(near.numerator), Decimal(near.denominator)))
        if _to_mantissa(written) == near:
            return read_plain(written)
    return near


def _to_mantissa(value: Fraction) -> Fraction:
    """Round to 64 significant bits, half to even."""
    if not value:
        return value
    shift = _MANTISSA - (abs(value.numerator).bit_length() - value.denominator.bit_length())
    for position in (shift - 1, shift, shift + 1):
        scaled = value * (Fraction(2) ** position)
        if 2 ** (_MANTISSA - 1) <= abs(scaled) < 2**_MANTISSA:
            whole = round(scaled)  # half to even
            return Fraction(whole) / (Fraction(2) ** position)
    raise AssertionError("a number has a mantissa")


def read_operand(value: int | Fraction) -> Fraction:
    """Return a number as OPA's non-integer operations read it."""
    return _to_mantissa(Fraction(value))


def load(text: str) -> Value:
    """Read a JSON document. Raises ValueError."""
    return of_json(json.loads(text, parse_int=parse_number, parse_float=parse_number, parse_constant=_refuse))


def _refuse(word: str) -> Any:
    raise ValueError(f"`{word}` is not JSON")


def of_json(value: Any) -> Value:
    """Return the value of a JSON document; floats are read by their shortest digits. Raises ValueError."""
    if isinstance(value, float):
        return parse_number(repr(value))
    if isinstance(value, list | tuple):
        return tuple(map(of_json, value))
    if isinstance(value, dict):
        return Obj((name, of_json(item)) for name, item in value.items())
    return value


def to_json(value: Value) -> Any:
    """Return the JSON document that OPA prints for a value: sets are sorted lists, names of objects are texts."""
    if isinstance(value, Fraction):
        found = float(value)
        if not math.isfinite(found):
            raise RegoError("a number is beyond what JSON's readers hold")
        return found
    if isinstance(value, tuple | Set):
        return [to_json(item) for item in value]
    if isinstance(value, Obj):
        return {name if isinstance(name, str) else json.dumps(to_json(name)): to_json(item) for name, item in value}
    return value
