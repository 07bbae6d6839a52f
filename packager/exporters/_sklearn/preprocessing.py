# SPDX-License-Identifier: Apache-2.0
"""Scalers and other transformers of `sklearn.preprocessing` that compute with numbers, in the library's order.

Thresholds behind a transformer see every rounding. scikit-learn scales float32 in place, by factors in float64: every
operation is one in float64, rounded to float32.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.numeric import bounded, position_among


@writes("transform", "StandardScaler")
def standardise(builder: Builder, model: Any, frame: Frame) -> Value:
    """Subtract the mean, then divide by the scale."""
    found = builder.matrix(frame)
    if model.with_mean and model.mean_ is not None:
        found = builder.sub(found, model.mean_)
    return builder.div(found, model.scale_) if model.with_std and model.scale_ is not None else found


def in_place(builder: Builder, kind: str, value: Value, row: Any) -> Value:
    """Apply an operator with numbers in float64, and keep the type of `value`, as numpy does in place."""
    return builder.cast(builder.binary(kind, builder.cast(value, "float64"), row), value.dtype)


@writes("transform", "MinMaxScaler")
def scale_to_range(builder: Builder, model: Any, frame: Frame) -> Value:
    found = in_place(builder, "Mul", builder.matrix(frame), model.scale_)
    found = in_place(builder, "Add", found, model.min_)
    low, high = map(float, model.feature_range)
    return bounded(builder, found, low, high) if getattr(model, "clip", False) else found


@writes("transform", "MaxAbsScaler")
def scale_to_largest(builder: Builder, model: Any, frame: Frame) -> Value:
    found = in_place(builder, "Div", builder.matrix(frame), model.scale_)
    return bounded(builder, found, -1.0, 1.0) if getattr(model, "clip", False) else found


@writes("transform", "RobustScaler")
def scale_by_quantiles(builder: Builder, model: Any, frame: Frame) -> Value:
    found = builder.matrix(frame)
    if model.with_centering:
        found = in_place(builder, "Sub", found, model.center_)
    return in_place(builder, "Div", found, model.scale_) if model.with_scaling else found


def normalised(builder: Builder, found: Value, norm: str, least: float | None = None) -> Value:
    """Divide every row by its norm, `l1`, `l2` or `max`; rows of zeros, or of a norm below `least`, stay."""
    numpy = importlib.import_module("numpy")
    if norm == "l2":
        size = builder.unary("Sqrt", builder.reduce("ReduceSum", builder.mul(found, found)))
    else:
        size = builder.reduce("ReduceMax" if norm == "max" else "ReduceSum", builder.unary("Abs", found))
    least = 10 * float(numpy.finfo(found.dtype).eps) if least is None else least
    small = builder.binary("Less", size, least) if least else builder.binary("Equal", size, 0.0)
    return builder.div(found, builder.where(small, 1.0, size))


@writes("transform", "Normalizer")
def normalise(builder: Builder, model: Any, frame: Frame) -> Value:
    return normalised(builder, builder.matrix(frame), model.norm)


@writes("transform", "Binarizer")
def binarise(builder: Builder, model: Any, frame: Frame) -> Value:
    found = builder.matrix(frame)
    return builder.cast(builder.binary("Greater", found, float(model.threshold)), found.dtype)


@writes("transform", "KernelCenterer")
def centre_kernel(builder: Builder, model: Any, frame: Frame) -> Value:
    return centred(builder, model, builder.matrix(frame))


def centred(builder: Builder, model: Any, kernel: Value) -> Value:
    """Centre a kernel matrix [batch, fitted rows] as `KernelCenterer` does."""
    mean = builder.div(builder.reduce("ReduceSum", kernel), float(len(model.K_fit_rows_)))
    found = in_place(builder, "Sub", kernel, model.K_fit_rows_)
    return in_place(builder, "Add", builder.sub(found, mean), float(model.K_fit_all_))


@writes("transform", "PolynomialFeatures")
def multiply_features(builder: Builder, model: Any, frame: Frame) -> Value:
    """Multiply columns degree by degree, each product being its first column times a product of the degree before."""
    given = builder.matrix(frame)
    choose = itertools.combinations if model.interaction_only else itertools.combinations_with_replacement
    made = [builder.spread(given, [1.0], given.dtype)] if model.include_bias else []
    lowest, highest = _degrees(model)
    terms: list[tuple[int, ...]] = [(position,) for position in range(given.width)]
    product = given
    for degree in range(1, highest + 1):
        if degree > 1:
            before = {term: position for position, term in enumerate(terms)}
            terms = list(choose(range(given.width), degree))
            if not terms:
                break
            rest = builder.take(product, [before[term[1:]] for term in terms])
            product = builder.mul(rest, builder.take(given, [term[0] for term in terms]))
        made += [product] if degree >= lowest else []
    if not made:
        refuse(model, "makes no columns")
    return builder.concat(made)


def _degrees(model: Any) -> tuple[int, int]:
    stated = model.degree
    return (0, int(stated)) if isinstance(stated, int) else (int(stated[0]), int(stated[1]))


@writes("transform", "KBinsDiscretizer")
def discretise(builder: Builder, model: Any, frame: Frame) -> Value:
    """Count the inner edges at or below each value; one-hot codes are rows of identity matrices."""
    numpy = importlib.import_module("numpy")
    whole = builder.matrix(frame)
    whole = builder.cast(whole, numpy.dtype(model.dtype).name) if model.dtype is not None else whole
    made = []
    for position, edges in enumerate(model.bin_edges_):
        code = position_among(builder, builder.take(whole, [position]), edges[1:-1])
        kind = whole.dtype
        one_hot = "onehot" in model.encode
        bins = int(model.n_bins_[position])
        made.append(builder.look_up(numpy.eye(bins, dtype=kind), code) if one_hot else builder.cast(code, kind))
    return builder.concat(made)
