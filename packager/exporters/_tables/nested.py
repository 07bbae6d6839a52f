# SPDX-License-Identifier: Apache-2.0
"""The estimators inside an estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def inner_estimators(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield every estimator inside `value`, itself first: attributes, lists, tuples and dicts are followed."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        children = list(value)
    elif isinstance(value, dict):
        children = list(value.values())
    elif hasattr(value, "get_params") and hasattr(value, "__dict__"):
        yield value
        children = list(vars(value).values())
    else:
        return
    for child in children:
        yield from inner_estimators(child, seen)
