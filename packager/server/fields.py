# SPDX-License-Identifier: Apache-2.0
"""Strict reading of the records in a configuration: every key known, none missing, each of its type."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from packager.server.errors import quote


def record(value: Any, where: str, required: Set[str], *, optional: Set[str] = frozenset()) -> dict[str, Any]:
    """Return `value` if it is an object with exactly these keys. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"`{where}` is not an object")
    for key in sorted(required - value.keys()):
        raise ValueError(f"`{where}` lacks `{key}`")
    for key in sorted(value.keys() - required - optional):
        raise ValueError(f"`{where}` has an unknown key {quote(key)}")
    return value


def text(value: Any, where: str) -> str:
    """Return `value` if it is a non-empty string. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{where}`: expected a string, got {quote(value)}")
    return value
