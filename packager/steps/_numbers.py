# SPDX-License-Identifier: Apache-2.0
"""Numbers of inputs without a stated range: where types end, and where the next narrower type goes wrong.

Every row of the first axis has numbers of one size, so that a sum over a row does not drown its small terms: small
ones, counts, time stamps, both sides of what 32-bit integers hold, and beyond the precision of doubles. Doubles are
also drawn where float32 cannot represent the difference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Rows: TypeAlias = Callable[[Any, tuple[int, ...]], Any]  # generator and size to values

_WIDEST = 1 << 60  # room for a model that multiplies by a few


def _between(low: int, high: int) -> Rows:
    return lambda generator, size: generator.integers(low, high, size=size, endpoint=True)


def _around(*centres: int, spread: int = 999) -> Rows:
    def draw(generator: Any, size: tuple[int, ...]) -> Any:
        numpy = importlib.import_module("numpy")
        chosen = numpy.array(centres, dtype="int64")[generator.integers(0, len(centres), size=size)]
        return chosen + generator.integers(-spread, spread, size=size, endpoint=True)

    return draw


def _gaussian(scale: float, centre: float = 0.0) -> Rows:
    return lambda generator, size: centre + scale * generator.standard_normal(size)


_KINDS: dict[str, tuple[int, int, Sequence[Rows]]] = {  # the ends of a type, and what its rows are drawn from in turn
    "int64": (
        -_WIDEST,
        _WIDEST,
        (
            _between(-9, 9),
            _between(10**12, 2 * 10**12),
            _around(1 << 31, -(1 << 31)),
            _between(0, 1000),
            _around(1 << 53, -(1 << 53)),
            _between(-(1 << 24), 1 << 24),
            _between(-_WIDEST, _WIDEST),
        ),
    ),
    "int32": (
        -(1 << 31),
        (1 << 31) - 1,
        (
            _between(-9, 9),
            _between(-(1 << 31), (1 << 31) - 1),
            _between(0, 1000),
            _around(1 << 24, -(1 << 24)),
            _between(10**9, 2 * 10**9),
        ),
    ),
    "uint64": (0, _WIDEST, (_between(0, 9), _around((1 << 53) + 999), _around(1 << 32), _between(0, _WIDEST))),
    "uint32": (0, (1 << 32) - 1, (_between(0, 9), _around(1 << 31), _between(0, (1 << 32) - 1))),
    "int16": (-(1 << 15), (1 << 15) - 1, (_between(-(1 << 15), (1 << 15) - 1), _between(-9, 9))),
    "uint16": (0, (1 << 16) - 1, (_between(0, (1 << 16) - 1), _between(0, 9))),
    "int8": (-128, 127, (_between(-128, 127),)),
    "uint8": (0, 255, (_between(0, 255),)),
    "float64": (-1, 1, (_gaussian(1.0), _gaussian(1e-8, 1.0), _gaussian(1.0), _gaussian(1e6, 1e13))),
}
OPEN = frozenset(_KINDS)


def draw(generator: Any, dtype: str, size: tuple[int, ...], fill: str) -> Any:
    """Return numbers of a type that has no stated range; for an edge, one of them per row lies on it."""
    numpy = importlib.import_module("numpy")
    low, high, kinds = _KINDS[dtype]
    values = numpy.empty(size, dtype=dtype)
    rows = values.reshape(size[0] if len(size) else 1, -1)
    first = 0 if fill != "random" else int(generator.integers(0, len(kinds)))
    for index in range(len(rows)):
        kind = kinds[0] if fill != "random" else kinds[(first + index) % len(kinds)]
        rows[index] = kind(generator, rows[index].shape).astype(dtype)
    if fill == "zeros":
        values[...] = 0
    elif fill != "random":
        mark_rows(generator, values, low if fill == "low" else high)
    return values


def mark_rows(generator: Any, values: Any, number: float) -> None:
    """Set one number of every row, at a random position."""
    rows = values.reshape(values.shape[0] if values.ndim else 1, -1)
    if rows.size:
        positions = generator.integers(0, rows.shape[1], size=len(rows))
        rows[importlib.import_module("numpy").arange(len(rows)), positions] = number
