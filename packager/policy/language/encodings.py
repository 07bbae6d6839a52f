# SPDX-License-Identifier: Apache-2.0
"""Built-ins of OPA that encode, digest, and match patterns."""

from __future__ import annotations

import base64 as b64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

from packager.policy.language import operands, patterns
from packager.policy.language.evaluate import BuiltinError
from packager.policy.language.values import Value


def _decoded(decode: Callable[[str], bytes], a: Value) -> str:
    try:
        return decode(operands.read_text(a)).decode()
    except (ValueError, binascii.Error) as error:
        raise BuiltinError(str(error)) from None


def _strict(text: str, letters: str) -> bytes:
    plain = text.rstrip("=")
    if len(text) % 4 or len(text) - len(plain) > 2 or not re.fullmatch(f"[A-Za-z0-9{letters}]*", plain):
        raise ValueError("illegal base64 data")
    return b64.b64decode(text, altchars=letters.replace("\\", "").encode())


@operands.build_value("base64.encode")
def base64_encode(a: Value) -> Value:
    return b64.b64encode(operands.read_text(a).encode()).decode()


@operands.build_value("base64.decode")
def base64_decode(a: Value) -> Value:
    return _decoded(lambda text: _strict(text, r"+/"), a)


@operands.build_value("base64.is_valid")
def base64_is_valid(a: Value) -> Value:
    try:
        _strict(operands.read_text(a), r"+/")
    except ValueError:
        return False
    return True


@operands.build_value("base64url.encode")
def base64url_encode(a: Value) -> Value:
    return b64.urlsafe_b64encode(operands.read_text(a).encode()).decode()


@operands.build_value("base64url.encode_no_pad")
def base64url_encode_no_pad(a: Value) -> Value:
    return b64.urlsafe_b64encode(operands.read_text(a).encode()).decode().rstrip("=")


@operands.build_value("base64url.decode")
def base64url_decode(a: Value) -> Value:
    return _decoded(lambda text: _strict(text, r"\-_"), a)


@operands.build_value("hex.encode")
def hex_encode(a: Value) -> Value:
    return operands.read_text(a).encode().hex()


@operands.build_value("hex.decode")
def hex_decode(a: Value) -> Value:
    return _decoded(lambda text: binascii.unhexlify(operands.ascii_text(text)), a)


def _digests(name: str) -> None:
    @operands.build_value(f"crypto.hmac.{name}")
    def keyed(a: Value, secret: Value) -> Value:
        return hmac.new(operands.read_text(secret).encode(), operands.read_text(a).encode(), name).hexdigest()

    if name == "sha512":
        return

    @operands.build_value(f"crypto.{name}")
    def plain(a: Value) -> Value:
        return hashlib.new(name, operands.read_text(a).encode(), usedforsecurity=False).hexdigest()


for _name in ("md5", "sha1", "sha256", "sha512"):
    _digests(_name)


def _pattern(text: Value) -> re.Pattern[str]:
    return patterns.compile_pattern(operands.read_text(text))


@operands.build_value("regex.match")
def regex_match(pattern: Value, a: Value) -> Value:
    found = _pattern(pattern)
    patterns.check_engines(found, operands.read_text(a))
    return found.search(a) is not None


def _matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    patterns.check_engines(pattern, text)
    found = list(pattern.finditer(text))
    if any(match.start() == match.end() for match in found):
        raise BuiltinError("a pattern that fits between two letters is not evaluated here")
    return found


@operands.build_value("regex.find_n")
def regex_find_n(pattern: Value, a: Value, most: Value) -> Value:
    found, number = _matches(_pattern(pattern), operands.read_text(a)), operands.read_integer(most)
    return tuple(match.group() for match in (found if number < 0 else found[:number]))


@operands.build_value("regex.find_all_string_submatch_n")
def regex_submatch(pattern: Value, a: Value, most: Value) -> Value:
    found, number = _matches(_pattern(pattern), operands.read_text(a)), operands.read_integer(most)
    return tuple(
        (match.group(), *(item or "" for item in match.groups())) for match in (found if number < 0 else found[:number])
    )


@operands.build_value("regex.split")
def regex_split(pattern: Value, a: Value) -> Value:
    text, at, found = operands.read_text(a), 0, []
    for match in _matches(_pattern(pattern), text):
        found.append(text[at : match.start()])
        at = match.end()
    return (*found, text[at:])


@operands.build_value("regex.replace")
def regex_replace(a: Value, pattern: Value, new: Value) -> Value:
    text, other, at, found = operands.read_text(a), operands.read_text(new), 0, []
    if re.search(r"\$(?!\d(?![0-9A-Za-z_]))", other):
        raise BuiltinError("of places for groups only `$1` to `$9` are evaluated here")
    for match in _matches(_pattern(pattern), text):
        found.append(text[at : match.start()])
        found.append(re.sub(r"\$(\d)", lambda digit, whole=match: _group(whole, int(digit[1])), other))  # type: ignore[misc]
        at = match.end()
    return operands.check_bounds("".join([*found, text[at:]]))


def _group(match: re.Match[str], number: int) -> str:
    return (match[number] or "") if number <= len(match.groups()) else ""


@operands.build_value("glob.match")
def glob_match(pattern: Value, delimiters: Value, a: Value) -> Value:
    marks = () if delimiters is None else tuple(operands.read_texts(operands.of_type("array", delimiters))) or (".",)
    return patterns.match_glob(operands.read_text(pattern), marks).fullmatch(operands.read_text(a)) is not None


@operands.build_value("glob.quote_meta")
def glob_quote_meta(a: Value) -> Value:
    return re.sub(r"([*?\\\[\]{}])", r"\\\1", operands.read_text(a))
