# SPDX-License-Identifier: Apache-2.0
"""Raw categories of a column to the codes that trees were trained on."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from packager.exporters._sklearn.builder import Builder, Value
from packager.exporters._trees.write import position_of_code


def write_codes(builder: Builder, column: Value, known: Sequence[Any], dtype: str = "float64") -> Value:
    """Return the position of every value among the known categories, NaN for one that is not, or is missing.

    Text is compared with text and numbers with numbers; a known missing value is no category.
    """
    if column.dtype == "string":
        return _numbered(builder, builder.code_of(column, _texts(known), len(known)), known, dtype)
    numbers = [_number(item) for item in known]
    if column.dtype in ("float32", "float64"):
        return _equal(builder, builder.cast(column, "float64"), numbers, dtype)
    whole = {int(value): position for position, value in enumerate(numbers) if value == math.floor(value)}
    keys = sorted(whole)
    found = position_of_code(builder, builder.cast(column, "int64"), keys)
    table = importlib.import_module("numpy").array([*(whole[key] for key in keys), math.nan], dtype)
    return builder.look_up(table, found)


def _texts(known: Sequence[Any]) -> list[str]:
    """Return texts to look for; what is no text stands where nothing finds it."""
    return [item if isinstance(item, str) else f"\0{position}" for position, item in enumerate(known)]


def _number(item: Any) -> float:
    """Return a category as a number; NaN, which equals nothing, for text and for missing values."""
    return math.nan if item is None or isinstance(item, str) else float(item)


def _numbered(builder: Builder, position: Value, known: Sequence[Any], dtype: str) -> Value:
    """Return positions as numbers, NaN behind the last."""
    table = importlib.import_module("numpy").array([*range(len(known)), math.nan], dtype)
    return builder.look_up(table, position)


def _equal(builder: Builder, column: Value, numbers: Sequence[float], dtype: str) -> Value:
    """Return the position of the number that equals a value."""
    numpy = importlib.import_module("numpy")
    kept = [position for position, value in enumerate(numbers) if not math.isnan(value)]
    if not kept:
        return builder.spread(column, [math.nan], dtype)
    same = builder.binary("Equal", column, [numbers[position] for position in kept])
    marks = builder.cast(same, "float32")
    position = builder.position_of("ArgMax", marks)
    found = builder.look_up(numpy.array(kept, dtype), position)
    return builder.where(builder.binary("Greater", builder.reduce("ReduceMax", marks), 0.5), found, math.nan)
