# SPDX-License-Identifier: Apache-2.0
"""Built-ins of OPA for versions, times and sizes; none reads the clock."""

from __future__ import annotations

import datetime
import re
from fractions import Fraction

from packager import semver
from packager.policy.language import operands
from packager.policy.language.evaluate import BuiltinError
from packager.policy.language.values import Value

_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SECOND = 10**9


@operands.build_value("semver.is_valid")
def semver_is_valid(a: Value) -> Value:
    return isinstance(a, str) and _is_version(a)


def _is_version(text: str) -> bool:
    if re.search("[0-9]{18}", text):
        raise BuiltinError("numbers of so many digits are not evaluated here")
    return _SEMVER.fullmatch(text) is not None


@operands.build_value("semver.compare")
def semver_compare(a: Value, b: Value) -> Value:
    left, right = _precedence(operands.read_text(a)), _precedence(operands.read_text(b))
    return (left > right) - (left < right)


def _precedence(text: str) -> semver.Precedence:
    """Return the sort key of a version, which OPA also accepts with a leading `v`."""
    if not _is_version(text):
        raise BuiltinError(f"`{text:.40}` is not a semantic version")
    try:
        return semver.precedence_key(text.removeprefix("v"))
    except ValueError:  # longer than versions of bundles may be
        raise BuiltinError(f"`{text:.40}` is too long for a semantic version") from None


@operands.build_value("time.parse_rfc3339_ns")
def time_parse_rfc3339_ns(a: Value) -> Value:
    match = _TIME.fullmatch(operands.read_text(a))
    try:
        if match is None:
            raise ValueError("it is not of that form")
        moment = datetime.datetime(*map(int, match.group(1, 2, 3, 4, 5, 6)), tzinfo=datetime.UTC)  # type: ignore[misc,arg-type]
        shift = 0 if match[8] == "Z" else int(match[8][1:3]) * 3600 + int(match[8][4:]) * 60
        if match[8] != "Z" and (int(match[8][1:3]) > 23 or int(match[8][4:]) > 59):
            raise ValueError("its zone is no zone")
    except ValueError as error:
        raise BuiltinError(f"`{a:.40}` is no time: {error}") from None
    seconds = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(seconds=1)
    seconds -= -shift if match[8][0] == "-" else shift
    return _in_range(seconds * _SECOND + int((match[7] or "0").ljust(9, "0")))


def _in_range(nanoseconds: int) -> int:
    if not operands.EARLIEST <= nanoseconds <= operands.LATEST:
        raise BuiltinError("time outside of valid range")
    return nanoseconds


def _moment(a: Value) -> datetime.datetime:
    if isinstance(a, tuple):
        raise BuiltinError("time zones are not evaluated here, only UTC")
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=_in_range(operands.read_integer(a)) // _SECOND)


@operands.build_value("time.date")
def time_date(a: Value) -> Value:
    found = _moment(a)
    return (found.year, found.month, found.day)


@operands.build_value("time.clock")
def time_clock(a: Value) -> Value:
    found = _moment(a)
    return (found.hour, found.minute, found.second)


@operands.build_value("time.weekday")
def time_weekday(a: Value) -> Value:
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return days[_moment(a).weekday()]


@operands.build_value("time.parse_duration_ns")
def time_parse_duration_ns(a: Value) -> Value:
    units = {
        "h": 3600 * _SECOND,
        "m": 60 * _SECOND,
        "s": _SECOND,
        "ms": 10**6,
        "us": 1000,
        "ns": 1,
    }
    if not re.fullmatch(r"-?(?:[0-9]{1,9}(?:h|ms|m|s|us|ns))+", operands.read_text(a)):
        raise BuiltinError(f"the duration `{a:.40}` is not evaluated here")
    total = sum(int(size) * units[unit] for size, unit in re.findall(r"([0-9]+)(h|ms|m|s|us|ns)", a))
    return _in_range(-total if a.startswith("-") else total)


@operands.build_value("units.parse_bytes")
def units_parse_bytes(a: Value) -> Value:
    match = re.fullmatch(
        r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([KMGTPE]?i?B?|)", operands.read_text(a), re.ASCII | re.IGNORECASE
    )
    if match is None or match[2].lower() == "i" or match[2].lower() == "ib":
        raise BuiltinError(f"the size `{a:.40}` is not evaluated here")
    unit = match[2].lower()
    power = "kmgtpe".find(unit[:1]) + 1 if unit and unit != "b" else 0
    found = Fraction(match[1]) * (1024 if "i" in unit else 1000) ** power
    if found.denominator != 1:
        raise BuiltinError(f"the size `{a:.40}` is not evaluated here")
    return int(found)
