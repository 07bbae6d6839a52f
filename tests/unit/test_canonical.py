# SPDX-License-Identifier: Apache-2.0
"""Laws of canonical JSON, against an independent implementation of RFC 8785."""

from __future__ import annotations

import struct

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from packager import canonical

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_equals_the_independent_implementation(value: canonical.JSON) -> None:
    assert canonical.dump(value) == rfc8785.dumps(value)


@given(values)
def test_round_trip(value: canonical.JSON) -> None:
    written = canonical.dump(value)
    assert canonical.dump(canonical.load(written, limit=1 << 20)) == written


@given(st.binary(min_size=8, max_size=8))
def test_any_double_is_laid_out_as_ecmascript_does(raw: bytes) -> None:
    (value,) = struct.unpack("d", raw)
    if value == value and abs(value) != float("inf"):
        assert canonical.dump(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: "a"}, "\ud800", b"x", {"a": {1, 2}}])
def test_refuses_what_json_cannot_carry(value: object) -> None:
    with pytest.raises(ValueError):
        canonical.dump(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b"NaN", "not JSON"),
        (b"[1e999]", "out of range"),
        (b"[" * 70 + b"]" * 70, "too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"),
        (b'"\xff"', "decode"),
        (b"[1,2,3" + b" " * 2000 + b"]", "at most"),
    ],
)
def test_refuses_hostile_text(data: bytes, reason: str) -> None:
    limit = 1000 if reason == "at most" else 1 << 20
    with pytest.raises(ValueError, match=reason):
        canonical.load(data, limit=limit)
