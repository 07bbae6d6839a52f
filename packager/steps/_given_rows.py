# SPDX-License-Identifier: Apache-2.0
"""Rows that are given, not drawn: the recipe's samples, the logged example, and rows that are critical to the model.

The inputs of one row belong together, so they are run side by side in batches that the interface allows. None of them
travels in the bundle: they may be private data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.steps._cases import Case

_BATCH = 256
_ELEMENTS = 1 << 26  # of all inputs of one set of rows: what is beyond is not run, and the case says how many were


def batch_rows(interface: JSON, sets: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield every set of rows in batches: the case that names them, and their feeds."""
    for title, rows in sets.items():
        count = _count(interface, title, rows)
        size = _batch(interface)
        for first in range(0, count - count % size if _is_fixed(interface) else count, size):
            feeds = {name: values[first : min(first + size, count)] for name, values in rows.items()}
            lengths = _lengths(interface, feeds)
            last = first + len(next(iter(feeds.values())))
            yield Case(f"{title}, rows {first} to {last - 1} of {count}", lengths, "given", first), feeds


def _count(interface: JSON, title: str, rows: Mapping[str, Any]) -> int:
    """Return how many rows are run. Raises StepError for rows that are not what the interface takes."""
    ports = {port["name"]: port for port in interface["inputs"]}
    if set(rows) != set(ports):
        missing, other = sorted(set(ports) - set(rows)), sorted(set(rows) - set(ports))
        what = f"they lack `{missing[0]}`" if missing else f"they have `{other[0]}`, which is no input"
        raise StepError(f"{title}: expected the inputs {', '.join(f'`{name}`' for name in ports)}; {what}")
    counts = {len(values) for values in rows.values()}
    if len(counts) != 1:
        raise StepError(f"{title}: expected the same number of rows for every input, got {sorted(counts)}")
    count = counts.pop()
    elements = sum(values.size for values in rows.values()) // max(count, 1)
    return min(count, max(1, _ELEMENTS // max(elements, 1)))


def _is_fixed(interface: JSON) -> bool:
    return any(isinstance(port["shape"][0], int) for port in interface["inputs"] if port["shape"])


def _batch(interface: JSON) -> int:
    """Return how many rows go into one run."""
    axes = {port["shape"][0] for port in interface["inputs"] if port["shape"]}
    fixed = [axis for axis in axes if isinstance(axis, int)]
    limits = [interface["dimensions"][axis]["max"] for axis in axes if isinstance(axis, str)]
    return int(fixed[0]) if fixed else min([_BATCH, *limits])


def _lengths(interface: JSON, feeds: Mapping[str, Any]) -> dict[str, int]:
    """Return the lengths of the named dimensions that the feeds have. Raises StepError where they do not fit."""
    found: dict[str, int] = {}
    for port in interface["inputs"]:
        shape = feeds[port["name"]].shape
        for axis, length in zip(port["shape"], shape, strict=False):
            wanted = found.setdefault(axis, length) if isinstance(axis, str) else axis
            if wanted != length or len(shape) != len(port["shape"]):
                raise StepError(f"`{port['name']}`: expected the shape {port['shape']}, got {list(shape)}")
    return found


def row_of(interface: JSON, feeds: Mapping[str, Any], position: int) -> dict[str, Any]:
    """Return one row of the feeds, or all of them where rows of the inputs do not belong together."""
    numpy = importlib.import_module("numpy")
    axes = {port["shape"][0] if port["shape"] else None for port in interface["inputs"]}
    if len(axes) != 1 or not isinstance(next(iter(axes)), str):
        return dict(feeds)
    return {name: numpy.ascontiguousarray(values[position : position + 1]) for name, values in feeds.items()}
