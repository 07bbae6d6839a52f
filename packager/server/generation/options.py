# SPDX-License-Identifier: Apache-2.0
"""Read the options of a request for an answer, within their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packager.server.errors import RequestError, quote
from packager.server.generation.sampling import Sampling
from packager.server.generation.settings import SAMPLING, Generation

_MOST_SEED = (1 << 63) - 1


def sampling_of(about: Generation, given: Mapping[str, Any]) -> Sampling:
    """Return how tokens are chosen: the publisher's defaults under those of a request. Raises RequestError."""
    values = {**about.sampling, **{name: _number(given, name) for name in SAMPLING if name in given}}
    seed = whole_within(given, "seed", 0, _MOST_SEED, 0) if "seed" in given else None
    return Sampling(
        values.get("temperature", 0.0),
        int(values.get("top_k", 0)),
        values.get("top_p", 1.0),
        values.get("repetition_penalty", 1.0),
        seed,
    )


def whole_within(given: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    """Return a whole number of a request. Raises RequestError."""
    value = given.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{quote(name)}: expected a whole number from {low} to {high}, got {quote(value)}")
    return value


def _number(given: Mapping[str, Any], name: str) -> float:
    value, (low, high) = given[name], SAMPLING[name]
    if type(value) not in (int, float) or not low <= value <= high:
        raise RequestError(f"{quote(name)}: expected a number from {low:g} to {high:g}, got {quote(value)}")
    return float(value)
