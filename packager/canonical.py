# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON (RFC 8785, JCS) and strict parsing: one value, one byte string, and back.

`dump` is the only writer of signed or digested JSON; `load` the only reader of untrusted JSON. They guarantee
`load(dump(value)) == value` for every value in the I-JSON range, and `dump(load(dump(value))) == dump(value)`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

JSON = Any
MAX_SAFE_INTEGER = 2**53 - 1
MAX_DEPTH = 64


def sha256(data: bytes) -> str:
    """Return the digest of `data` in the one string form used everywhere, `sha256:<64 hex digits>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dump(value: JSON) -> bytes:
    """Serialise `value` as RFC 8785 bytes.

    Raises ValueError for what JCS cannot carry: NaN, infinities, integers beyond 2**53-1, lone surrogates,
    keys that are not strings.
    """
    return _text(value).encode("utf-8")


def _text(value: JSON) -> str:
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise ValueError(f"integer {value} is outside the range that JSON readers agree on")
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys of a JSON object must be strings")
        members = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_text(key)}:{_text(member)}" for key, member in members) + "}"
    raise ValueError(f"{type(value).__name__} has no JSON form")


def _number(value: float) -> str:
    """Format a double as ECMAScript's Number::toString does (RFC 8785 §3.2.2.3).

    Python's `repr` already yields the shortest digits that round-trip; only their layout differs.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0") if fraction.strip("0") else ""
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len((whole + fraction).lstrip("0")))
    digits = digits.rstrip("0") or "0"
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + ("." + digits[1:] if count > 1 else "") + power


def load(data: bytes, *, limit: int) -> JSON:
    """Parse untrusted JSON strictly: UTF-8, no duplicate keys, no NaN, bounded size and depth.

    Raises ValueError with a reason for a message.
    """
    if len(data) > limit:
        raise ValueError(f"expected at most {limit} bytes, got {len(data)}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("nesting is too deep") from None
    _check_depth(value, MAX_DEPTH)
    return value


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int | float:
    """Read an integer literal as every JSON reader would: beyond 2**53-1 it is a double."""
    return int(text) if len(text) < 17 and abs(int(text)) <= MAX_SAFE_INTEGER else _finite(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text} is out of range")
    return value


def _check_depth(value: JSON, budget: int) -> None:
    if budget == 0:
        raise ValueError("nesting is too deep")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _check_depth(child, budget - 1)
