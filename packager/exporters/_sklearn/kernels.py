# SPDX-License-Identifier: Apache-2.0
"""Kernels of `sklearn.metrics.pairwise`, and models that are weighted sums of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from packager.exporters._sklearn import emit, refuse, writes
from packager.exporters._sklearn.algebra import (
    numbers,
    pick,
    power,
    products,
    square,
    squared_distances,
    total,
)
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import label_of_largest
from packager.exporters._sklearn.metrics import distances
from packager.exporters._sklearn.neighbors import neighbours


def pairwise(
    builder: Builder, owner: Any, value: Value, points: Any, name: Any, parameters: Mapping[str, Any]
) -> Value:
    """Return what `pairwise_kernels(X, points, metric=name, filter_params=True, …)` computes."""
    gamma = parameters.get("gamma")
    gamma = 1.0 / value.width if gamma is None else float(gamma)
    if name in ("linear", "precomputed"):
        return products(builder, value, points) if name == "linear" else value
    if name in ("poly", "polynomial", "sigmoid"):
        base = builder.add(builder.mul(products(builder, value, points), gamma), float(parameters.get("coef0", 1)))
        return builder.unary("Tanh", base) if name == "sigmoid" else _raised(builder, base, parameters.get("degree", 3))
    if name == "rbf":
        return builder.unary("Exp", builder.mul(squared_distances(builder, value, points), -gamma))
    if name == "laplacian":
        far = distances(builder, owner, value, points, "manhattan").raised
        return builder.unary("Exp", builder.mul(far, -gamma))
    if name == "cosine":
        return builder.sub(1.0, distances(builder, owner, value, points, "cosine").raised)
    if name in ("chi2", "additive_chi2"):
        found = _chi_squared(builder, value, points)
        gamma = float(parameters.get("gamma", 1.0))
        return found if name == "additive_chi2" else builder.unary("Exp", builder.mul(found, gamma))
    what = f"the kernel `{name}`" if isinstance(name, str) else "a custom kernel"
    return refuse(owner, f"uses {what}, which has no ONNX form here", hint="use a linear, poly, rbf or other kernel")


def _chi_squared(builder: Builder, value: Value, points: Any) -> Value:
    """Return minus the sum of (x - y)² / (x + y); features that both lack add nothing."""
    numpy = importlib.import_module("numpy")
    rows = numpy.asarray(points, dtype="float64")
    parts = []
    for feature in range(rows.shape[1]):
        own = builder.take(value, [feature])
        away, both = builder.sub(own, rows[:, feature]), builder.add(own, rows[:, feature])
        share = builder.div(square(builder, away), both)
        parts.append(builder.where(builder.binary("Equal", both, 0.0), 0.0, share))
    return builder.unary("Neg", total(builder, parts))


def _raised(builder: Builder, value: Value, degree: Any) -> Value:
    if float(degree).is_integer() and degree >= 0:
        return power(builder, value, int(degree))
    return builder.binary("Pow", value, float(degree))


@writes("predict", "KernelRidge")
def predict_ridge(builder: Builder, model: Any, frame: Frame) -> Value:
    keys = ("gamma", "degree", "coef0")
    how = (model.kernel_params or {}) if callable(model.kernel) else {key: getattr(model, key) for key in keys}
    points = model.X_fit_.toarray() if hasattr(model.X_fit_, "toarray") else model.X_fit_
    found = pairwise(builder, model, numbers(builder, frame), points, model.kernel, how)
    return builder.matmul(found, model.dual_coef_.reshape(len(points), -1))


_SPREADING = ("LabelPropagation", "LabelSpreading")


@writes("predict_proba", *_SPREADING)
def spread_labels(builder: Builder, model: Any, frame: Frame) -> Value:
    """Average the label distributions of the fitted rows, weighed by the kernel or of the nearest."""
    numpy = importlib.import_module("numpy")
    known = numpy.asarray(model.label_distributions_, dtype="float64")
    if callable(model.kernel):
        refuse(model, "uses a custom kernel, which has no ONNX form", hint="use `kernel='rbf'` or `'knn'`")
    if model.kernel == "rbf":
        weights = pairwise(builder, model, numbers(builder, frame), model.X_, "rbf", {"gamma": model.gamma})
        found = builder.matmul(weights, known)
    else:
        _, positions = neighbours(builder, model.nn_fit, frame, int(model.n_neighbors))
        each = [builder.reduce("ReduceSum", pick(builder, column, positions)) for column in known.T]
        found = builder.concat(each)
    return builder.div(found, builder.reduce("ReduceSum", found))


@writes("predict", *_SPREADING)
def predict_spread(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_of_largest(builder, model.classes_, emit(builder, model, "predict_proba", frame))
