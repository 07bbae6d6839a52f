# SPDX-License-Identifier: Apache-2.0
"""Built-ins of OPA over texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from fractions import Fraction

from packager.policy.language import operands
from packager.policy.language.evaluate import BuiltinError
from packager.policy.language.values import Obj, Set, Value, type_name

_MOST_LETTERS = 1 << 24
# The characters for which Go's `unicode.IsSpace` holds.
_SPACE = (
    " \t\n\v\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029"
    "\u202f\u205f\u3000"
)


@operands.build_value("concat")
def concat(between: Value, parts: Value) -> Value:
    return operands.check_bounds(operands.read_text(between).join(operands.read_texts(parts)))


@operands.build_value("contains")
def contains(a: Value, b: Value) -> Value:
    return operands.read_text(b) in operands.read_text(a)


@operands.build_value("startswith")
def startswith(a: Value, b: Value) -> Value:
    return operands.read_text(a).startswith(operands.read_text(b))


@operands.build_value("endswith")
def endswith(a: Value, b: Value) -> Value:
    return operands.read_text(a).endswith(operands.read_text(b))


def _any(a: Value, ends: Value, how: Callable[[str, str], bool]) -> bool:
    texts = [a] if isinstance(a, str) else operands.read_texts(a)
    found = [ends] if isinstance(ends, str) else operands.read_texts(ends)
    return any(how(text, end) for text in texts for end in found)


@operands.build_value("strings.any_prefix_match")
def any_prefix_match(a: Value, b: Value) -> Value:
    return _any(a, b, str.startswith)


@operands.build_value("strings.any_suffix_match")
def any_suffix_match(a: Value, b: Value) -> Value:
    return _any(a, b, str.endswith)


@operands.build_value("indexof")
def indexof(a: Value, b: Value) -> Value:
    if not operands.read_text(b):
        raise BuiltinError("empty search character")
    return operands.read_text(a).find(b)


@operands.build_value("indexof_n")
def indexof_n(a: Value, b: Value) -> Value:
    text, part = operands.read_text(a), operands.read_text(b)
    if not part:
        raise BuiltinError("empty search character")
    return tuple(position for position in range(len(text)) if text.startswith(part, position))


@operands.build_value("lower")
def lower(a: Value) -> Value:
    return "".join(_letter(letter, letter.lower()) for letter in operands.read_text(a))


@operands.build_value("upper")
def upper(a: Value) -> Value:
    return "".join(_letter(letter, letter.upper()) for letter in operands.read_text(a))


def _letter(letter: str, other: str) -> str:
    """Return a letter in another case; Go has no case that is two letters, and another version of Unicode."""
    if ord(letter) >= 0x180:
        raise BuiltinError("letters beyond Latin-1 and Latin Extended-A are not evaluated here")
    return other if len(other) == 1 else letter


@operands.build_value("replace")
def replace(a: Value, old: Value, new: Value) -> Value:
    text, part, other = operands.read_text(a), operands.read_text(old), operands.read_text(new)
    if len(text) + text.count(part) * max(0, len(other) - len(part)) > _MOST_LETTERS:
        raise BuiltinError("the text is too long")
    return text.replace(part, other)


@operands.build_value("strings.reverse")
def strings_reverse(a: Value) -> Value:
    return operands.read_text(a)[::-1]


@operands.build_value("strings.count")
def strings_count(a: Value, b: Value) -> Value:
    return operands.read_text(a).count(operands.read_text(b))


@operands.build_value("split")
def split(a: Value, by: Value) -> Value:
    text = operands.read_text(a)
    return tuple(text.split(by) if operands.read_text(by) else text)


@operands.build_value("substring")
def substring(a: Value, start: Value, length: Value) -> Value:
    text, first, size = operands.read_text(a), operands.read_integer(start), operands.read_integer(length)
    if first < 0:
        raise BuiltinError("negative offset")
    return text[first:] if size < 0 else text[first : first + size]


@operands.build_value("trim")
def trim(a: Value, letters: Value) -> Value:
    text, unwanted = operands.read_text(a), operands.read_text(letters)
    return text.strip(unwanted) if unwanted else text


@operands.build_value("trim_left")
def trim_left(a: Value, letters: Value) -> Value:
    text, unwanted = operands.read_text(a), operands.read_text(letters)
    return text.lstrip(unwanted) if unwanted else text


@operands.build_value("trim_right")
def trim_right(a: Value, letters: Value) -> Value:
    text, unwanted = operands.read_text(a), operands.read_text(letters)
    return text.rstrip(unwanted) if unwanted else text


@operands.build_value("trim_prefix")
def trim_prefix(a: Value, start: Value) -> Value:
    return operands.read_text(a).removeprefix(operands.read_text(start))


@operands.build_value("trim_suffix")
def trim_suffix(a: Value, end: Value) -> Value:
    return operands.read_text(a).removesuffix(operands.read_text(end))


@operands.build_value("trim_space")
def trim_space(a: Value) -> Value:
    return operands.read_text(a).strip(_SPACE)


@operands.build_value("format_int")
def format_int(a: Value, base: Value) -> Value:
    forms = {2: "b", 8: "o", 10: "d", 16: "x"}
    if base not in forms or isinstance(base, bool):
        raise BuiltinError("operand 2 must be one of {2, 8, 10, 16}")
    return format(math.trunc(operands.read_number(a)), forms[base])


@operands.build_value("sprintf")
def sprintf(form: Value, given: Value) -> Value:
    """`%s`, `%d`, `%v`, `%q`, `%x` and `%%` without widths, each for the types that Go has no warning for."""
    left, found, at = list(operands.of_type("array", given)), [], 0
    text = operands.read_text(form)
    for match in re.finditer(r"%(.)?", text, re.DOTALL):
        found.append(text[at : match.start()])
        at = match.end()
        if match[1] == "%":
            found.append("%")
        elif not left:
            raise BuiltinError("there are fewer operands than the text has places")
        else:
            found.append(_formatted(match[1], left.pop(0)))
    if left:
        raise BuiltinError("there are more operands than the text has places")
    return operands.check_bounds("".join([*found, text[at:]]))


def _formatted(letter: str | None, value: Value) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and not operands.EARLIEST <= value <= operands.LATEST:
        raise BuiltinError("integers beyond 64 bits are not printed here")
    if letter == "d" and number:
        return str(value)
    if letter == "x" and number and value >= 0:
        return format(value, "x")
    if letter == "q" and isinstance(value, str) and value.isascii() and value.isprintable():
        return json.dumps(value)
    if letter in ("s", "v") and isinstance(value, str):
        return value
    if letter in ("s", "v") and not (letter == "s" and (number or isinstance(value, bool))):
        return _written(value, top=True)
    raise BuiltinError(
        f"`%{letter or ''}` of a {type_name(value)} is not evaluated here: use `%s` for texts, `%d` for integers"
    )


def _written(value: Value, *, top: bool = False) -> str:
    """Write a value as OPA prints a term."""
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            raise BuiltinError("letters beyond ASCII inside a collection are not printed here")
        return json.dumps(value)
    if isinstance(value, Fraction):
        raise BuiltinError("fractions are not printed here: print `round(x * 100)` as an integer")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, Obj):
        return "{" + ", ".join(f"{_written(name)}: {_written(item)}" for name, item in value) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(map(_written, value)) + "}" if len(value) else "set()"
    return json.dumps(value)
