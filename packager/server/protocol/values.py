# SPDX-License-Identifier: Apache-2.0
"""Check the values of an input: a range, or a list of allowed values.

A missing number (NaN) always passes; whether the model allows it is checked elsewhere. A dense tensor of floats costs
one pass for each bound, some microseconds for a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from packager.server.errors import RequestError, quote
from packager.server.fields import record

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Values:
    """From `low` to `high`, or those `listed` alone: all numbers, or all texts."""

    low: float = 0
    high: float = 0
    listed: tuple[Any, ...] = ()
    known: frozenset[Any] = field(default=frozenset())

    @staticmethod
    def from_json(value: Any, where: str) -> Values:
        """Read `{min, max}` or `{values}`. Raises ValueError."""
        if isinstance(value, dict) and "values" in value:
            listed = record(value, where, {"values"})["values"]
            texts = isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed)
            if not texts and not (isinstance(listed, list) and listed and all(map(_is_number, listed))):
                raise ValueError(f"`{where}.values`: expected numbers or texts")
            return Values(listed=tuple(listed), known=frozenset(listed))
        fields = record(value, where, {"min", "max"})
        if not _is_number(fields["min"]) or not _is_number(fields["max"]) or fields["min"] > fields["max"]:
            raise ValueError(f"`{where}`: expected min <= max, got {quote(value)}")
        return Values(fields["min"], fields["max"])

    def check(self, array: np.ndarray[Any, Any], subject: str) -> None:
        """Refuse an array with another value. Raises RequestError, which names it and the allowed values."""
        if not array.size:
            return
        found = self._listed_wrong(array) if self.listed else self._beyond(array)
        if found is not None:
            raise RequestError(f"{subject}: expected {self}, got {quote(found)}")

    def _listed_wrong(self, array: np.ndarray[Any, Any]) -> Any:
        if array.dtype.kind == "O":
            return next((item for item in array.reshape(-1) if item not in self.known), None)
        wrong = ~np.isin(array, np.array(self.listed).astype(array.dtype))
        if array.dtype.kind == "f":
            wrong &= ~np.isnan(array)
        return array[wrong].reshape(-1)[0].item() if wrong.any() else None

    def _beyond(self, array: np.ndarray[Any, Any]) -> Any:
        least, most = array.min(), array.max()
        if least != least:  # NaN: check the other numbers
            kept = array[~np.isnan(array)]
            if not kept.size:
                return None
            least, most = kept.min(), kept.max()
        least, most = least.item(), most.item()
        return least if least < self.low else most if most > self.high else None

    @property
    def first(self) -> Any:
        """Return an allowed value, of numbers the one nearest to zero."""
        return self.listed[0] if self.listed else min(max(0, self.low), self.high)

    def __str__(self) -> str:
        if not self.listed:
            return f"values from {self.low:.15g} to {self.high:.15g}"
        more = f" … ({len(self.listed)} in all)" if len(self.listed) > _SHOWN else ""
        return f"one of {', '.join(map(str, self.listed[:_SHOWN]))}{more}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
