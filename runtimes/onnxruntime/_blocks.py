# SPDX-License-Identifier: Apache-2.0
"""Round weights to four bits in blocks, so that the error is small and the codes are the same on every processor.

A block's range is tried as it is and shrunk: cutting the ends off costs the few weights there and gives all others a
finer step. Kept is the range with the smallest sum of squared errors, with the scale that fits its codes best. All is
done element by element in float32, and sums add the rows of a block in their order: no matrix product, which processors
and libraries compute in several orders.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from packager.graph import nbits

_SHRUNK = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_TOP = 15.0  # the largest code
_CHUNK = 1 << 22  # weights that are rounded at a time, which bounds the arrays in between


class Blocks(NamedTuple):
    """Codes 0…15 [N, K], zero points 0…15 [N, blocks], both uint8, scales [N, blocks] in float32, and the loss.

    `loss` is the root of the sum of squared errors over that of squared weights; 0 where all weights are.
    """

    codes: Any
    scales: Any
    zeros: Any
    loss: float


class _Fit(NamedTuple):
    """Codes [blocks, block, N], and of each block the scale, zero point and squared error, [blocks, 1, N]; float32."""

    codes: Any
    scale: Any
    zero: Any
    error: Any


def quantise(weights: Any, block: int, *, symmetric: bool) -> Blocks:
    """Round a `float32` array of K rows and N columns, each below 1e15, in blocks of `block` rows, which divides K."""
    numpy = importlib.import_module("numpy")
    rows, columns = weights.shape
    step = max(1, _CHUNK // rows)
    parts, wrong, size = [], 0.0, 0.0
    for start in range(0, columns, step):
        values = numpy.ascontiguousarray(weights[:, start : start + step]).reshape(rows // block, block, -1)
        fit = _search(values, symmetric=symmetric)
        codes, zeros = (array.astype(numpy.uint8) for array in (fit.codes.reshape(rows, -1).T, fit.zero[:, 0].T))
        parts.append((codes, fit.scale[:, 0].T, zeros))
        wrong += float(fit.error.astype(numpy.float64).sum())
        size += float(_sum(values * values).astype(numpy.float64).sum())
    codes, scales, zeros = (numpy.ascontiguousarray(numpy.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    return Blocks(codes, scales, zeros, (wrong / size) ** 0.5 if size else 0.0)


def _search(values: Any, *, symmetric: bool) -> _Fit:
    """Return the best fit of weights [blocks, block, N]."""
    numpy = importlib.import_module("numpy")
    ranges = _symmetric if symmetric else _between
    best = _fitted(values, *ranges(values, numpy.float32(1)))
    for part in _SHRUNK:
        found = _fitted(values, *ranges(values, numpy.float32(part)))
        better = found.error < best.error
        best = _Fit(*(numpy.where(better, new, old) for new, old in zip(found, best, strict=True)))
    return best


def _between(values: Any, part: Any) -> tuple[Any, Any]:
    """Return scale and zero point of `part` of the range between the ends of each block, zero always inside."""
    numpy = importlib.import_module("numpy")
    low = numpy.minimum(values.min(axis=1, keepdims=True), 0) * part
    high = numpy.maximum(values.max(axis=1, keepdims=True), 0) * part
    scale = _used((high - low) / numpy.float32(_TOP))
    return scale, numpy.clip(numpy.rint(-low / scale), 0, _TOP)


def _symmetric(values: Any, part: Any) -> tuple[Any, Any]:
    """Return the scale by which `part` of the value farthest from zero is eight steps, and the zero point 8."""
    numpy = importlib.import_module("numpy")
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scale = _used(numpy.where(-low > high, low, high) * part / numpy.float32(-nbits.MIDDLE))
    return scale, numpy.full_like(scale, nbits.MIDDLE)


def _used(scale: Any) -> Any:
    """Return a scale that can be divided by: blocks of zeros have none."""
    numpy = importlib.import_module("numpy")
    return numpy.where(scale == 0, numpy.float32(1), scale)


def _fitted(values: Any, scale: Any, zero: Any) -> _Fit:
    """Round to codes, and return them with the scale that makes their error smallest, the zero point and that error."""
    numpy = importlib.import_module("numpy")
    codes = numpy.clip(numpy.rint(values / scale) + zero, 0, _TOP)
    steps = codes - zero
    size = _sum(steps * steps)
    fitting = _sum(values * steps) / numpy.where(size == 0, numpy.float32(1), size)
    scale = numpy.where(fitting == 0, scale, fitting)
    wrong = values - scale * steps
    return _Fit(codes, scale, zero, _sum(wrong * wrong))


def _sum(values: Any) -> Any:
    """Add the rows of each block in their order, the same on every processor."""
    numpy = importlib.import_module("numpy")
    return numpy.add.reduce(values, axis=1, keepdims=True)
