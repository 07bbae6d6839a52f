# SPDX-License-Identifier: Apache-2.0
"""The YAML that registries put beside a model is data of a stranger."""

from __future__ import annotations

import pytest

from packager.errors import SourceError
from packager.exporters._files import yaml


def test_plain_values_are_read_and_dates_stay_text() -> None:
    found = yaml.parse_mapping(b"a: 1\nb: {c: [x, 2.5, null]}\nd: 2024-13-45\ne: 2024-01-02\n", "MLmodel", 1000)
    assert found == {"a": 1, "b": {"c": ["x", 2.5, None]}, "d": "2024-13-45", "e": "2024-01-02"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a: " + b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b"a: " + b"[{b: " * 100_000, "nested deeper than 64 levels"),
        (b"- a", "is not a mapping"),
        (b"a: !!python/object/apply:os.system [id]", "is not YAML"),
        (b"a: [", "is not YAML"),
        (b"a: \xff", "is not YAML"),
        (b"a" * 1001, "is larger than 1000 bytes"),
    ],
)
def test_what_no_registry_writes_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        yaml.parse_mapping(data, "MLmodel", 1000 if len(data) == 1001 else 1 << 20)


def test_the_deepest_that_is_taken() -> None:
    assert yaml.parse_mapping(b"a: " + b"[" * 63 + b"]" * 63, "MLmodel", 1000)
