# SPDX-License-Identifier: Apache-2.0
"""What is where in a picture: boxes of things, and regions of pixels with a label each.

The arithmetic is that of transformers' `post_process_object_detection` of DETR, YOLOS and RT-DETR, and of
`post_process_semantic_segmentation` (5.23).
"""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from packager.server.errors import RequestError
from packager.server.pipeline.answers import scores as scored
from packager.server.pipeline.parts import Boxes, Regions
from packager.server.protocol.tensors import Array

Thing: TypeAlias = dict[str, Any]
MAX_WORK = 1 << 31  # pixels times classes that come into question
_BLOCK = 1 << 22  # scores that are made at once
NOTHING = 1
"""Classes behind those with a label, where scores are made by softmax."""


def find_things(
    about: Boxes, results: Mapping[str, Array], sizes: Sequence[tuple[int, int]], top: int | None = None
) -> list[list[Thing]]:
    """Return for every picture its things, those with equal scores in the order of the queries."""
    logits, boxes = (np.asarray(results[name], np.float32) for name in (about.scores, about.boxes))
    return [_things(about, *one, top) for one in zip(logits, boxes, sizes, strict=True)]


def _things(about: Boxes, logits: Array, boxes: Array, size: tuple[int, int], top: int | None) -> list[Thing]:
    table = scored(about.function, logits)
    if about.function == "softmax":
        table = table[:, :-NOTHING]
        best, places, labels = table.max(-1), np.arange(len(table)), table.argmax(-1)
    else:
        order = np.argsort(-table.ravel(), kind="stable")[: len(table)]
        best, places, labels = table.ravel()[order], order // table.shape[1], order % table.shape[1]
    height, width = size
    half = 0.5 * boxes[:, 2:]
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    corners = corners * np.array([width, height, width, height], np.float32)
    found = [
        {"label": about.labels[label], "score": float(score), **_box(corners[place])}
        for score, place, label in zip(best, places, labels, strict=True)
        if score > about.threshold
    ]
    return found if top is None else sorted(found, key=lambda item: -item["score"])[:top]


def _box(corners: Array) -> dict[str, float]:
    return {name: float(value) for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)}


def find_regions(about: Regions, results: Mapping[str, Array], sizes: Sequence[tuple[int, int]]) -> list[list[Thing]]:
    """Return for every picture the labels that its pixels have, in the order of the classes, with masks as PNG."""
    return [_regions(about, logits, size) for logits, size in zip(results[about.output], sizes, strict=True)]


def _regions(about: Regions, logits: Array, size: tuple[int, int]) -> list[Thing]:
    found = label_pixels(logits, size)
    return [
        {"label": about.labels[label], "share": float((found == label).mean()), "mask": _png(found == label)}
        for label in np.flatnonzero(np.bincount(found.ravel())).tolist()
    ]


def _png(mask: Array) -> str:
    """Return a mask as a picture of black and white, in base64."""
    sink = io.BytesIO()
    importlib.import_module("PIL.Image").fromarray(mask).save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def label_pixels(logits: Array, size: tuple[int, int]) -> Array:
    """Return the class of every pixel of a picture, from scores [classes, rows, columns] of a coarser grid.

    Raises RequestError for a picture that is too large for so many classes.
    """
    values = np.asarray(logits, np.float32)
    candidates = _candidates(values)
    height, width = size
    if len(candidates) * height * width > MAX_WORK:
        raise RequestError(
            f"expected a picture of at most {MAX_WORK // len(candidates)} pixels for {len(candidates)} classes, "
            f"got {width}x{height}",
            status=413,
        )
    values, found = values[candidates], np.empty(size, np.int32)
    down, across = _places(values.shape[1], height), _places(values.shape[2], width)
    wide = min(width, max(1, _BLOCK // len(candidates)))
    high = max(1, _BLOCK // (len(candidates) * wide))
    for top in range(0, height, high):
        rows = _mixed(values, _part(down, top, high), 1)
        for left in range(0, width, wide):
            best = _mixed(rows, _part(across, left, wide), 2).argmax(0)
            found[top : top + high, left : left + wide] = candidates[best]
    return found


_Places: TypeAlias = tuple[Array, Array, Array]


def _part(places: _Places, first: int, count: int) -> _Places:
    low, high, share = (values[first : first + count] for values in places)
    return low, high, share


def _candidates(values: Array) -> Array:
    """Return the classes that may have the best score somewhere between the points of the grid.

    Between four points the best score is at least the largest of the classes' least scores at them, so that a class
    whose largest score at them is lower is not the best there.
    """
    padded = np.pad(values, ((0, 0), (0, 1), (0, 1)), mode="edge")
    corners = np.stack([padded[:, :-1, :-1], padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, 1:, 1:]])
    floor = corners.min(0).max(0)
    return np.flatnonzero((corners.max(0) >= floor).any((1, 2)))


def _places(coarse: int, fine: int) -> _Places:
    """Return for every fine place the two coarse ones beside it, and how near it is to the second."""
    at = np.maximum((np.arange(fine, dtype=np.float32) + np.float32(0.5)) * np.float32(coarse / fine) - 0.5, 0)
    low = np.minimum(at.astype(np.int64), coarse - 1)
    return low, np.minimum(low + 1, coarse - 1), (at - low).astype(np.float32)


def _mixed(values: Array, places: _Places, axis: int) -> Array:
    low, high, share = places
    weights = share.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    return np.asarray(values.take(low, axis) * (1 - weights) + values.take(high, axis) * weights)
