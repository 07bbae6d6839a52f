# SPDX-License-Identifier: Apache-2.0
"""Select what of two answers is compared: not padding, nor the order of detections."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from packager.exporters._interface.ports import Arrays


def overlay_rows(expected: Any, got: Any, rows: Any) -> Any:
    """Return what was got, with what was expected in the rows that are marked."""
    if expected.shape != got.shape or expected.dtype != got.dtype or not rows.any():
        return got
    made = got.copy()
    made[rows] = expected[rows]
    return made


def mask_outputs(mask: Any, outputs: Arrays, along: Sequence[bool]) -> Arrays:
    """Return outputs with zeros where the mask has none, in those that run along the sequence."""
    found = list(outputs)
    for index, array in enumerate(found[: len(along)]):
        if along[index] and array.shape[:2] == mask.shape:
            found[index] = array.copy()
            found[index][mask == 0] = 0
    return found


def match_detections(names: Sequence[str], expected: Arrays, got: Arrays) -> Arrays:
    """Return `got` with its detections in the order of `expected`.

    Detections are a set: a model that chooses its queries by score orders near ties by rounding. Each is paired with
    the nearest in classes and box; every output with one row per query follows.
    """
    if not {"logits", "pred_boxes"} <= set(names) or len(got) != len(names):
        return got
    if any(one.shape != other.shape for one, other in zip(expected, got, strict=True)):
        return got
    numpy = importlib.import_module("numpy")
    sides = [_described(numpy, names, side) for side in (expected, got)]
    orders = numpy.stack([_pairs(numpy, *rows) for rows in zip(*sides, strict=True)])
    return [_reordered(numpy, array, orders) for array in got]


def _described(numpy: Any, names: Sequence[str], side: Arrays) -> Any:
    known = dict(zip(names, side, strict=True))
    return numpy.concatenate([known["logits"], known["pred_boxes"]], axis=-1).astype("float64")


def _pairs(numpy: Any, expected: Any, got: Any) -> Any:
    """Return for every expected detection the index of its match in `got`, each used once, the surest first."""
    distance = abs(expected[:, None] - got[None]).max(-1)
    order = numpy.arange(len(expected))
    if (distance.diagonal() <= distance.min(1)).all():
        return order
    for row in numpy.argsort(distance.min(1), kind="stable"):
        order[row] = distance[row].argmin()
        distance[:, order[row]] = numpy.inf
    return order


def _reordered(numpy: Any, array: Any, orders: Any) -> Any:
    """Return an output whose second or third axis are the queries in the given order per row of the batch."""
    rows, queries = orders.shape
    for axis in (1, 2):
        if array.ndim > axis and array.shape[0] == rows and array.shape[axis] == queries:
            index = orders.reshape(rows, *[1] * (axis - 1), queries, *[1] * (array.ndim - axis - 1))
            return numpy.take_along_axis(array, index, axis)
    return array
