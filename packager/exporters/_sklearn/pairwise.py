# SPDX-License-Identifier: Apache-2.0
"""Kernels between the rows of a batch and constant rows, as `sklearn.metrics.pairwise` computes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from packager.exporters._sklearn import refuse
from packager.exporters._sklearn.builder import Builder, Value
from packager.exporters._sklearn.numeric import bounded

Parameters = Mapping[str, Any]


def kernel(builder: Builder, model: Any, given: Value, rows: Any, metric: Any, parameters: Parameters) -> Value:
    """Return `pairwise_kernels(given, rows, metric, **parameters)` as [batch, rows]; parameters of None are defaults.

    Raises StepError, about `model`, for a kernel that has no form here.
    """
    made = _KERNELS.get(metric) if isinstance(metric, str) else None
    if made is None:
        refuse(model, f"uses the kernel `{getattr(metric, '__name__', metric)}`, which has no ONNX form here")
    known = {name: value for name, value in parameters.items() if value is not None}
    return made(
        builder, builder.cast(given, "float64"), importlib.import_module("numpy").asarray(rows, "float64"), known
    )


def _product(builder: Builder, given: Value, rows: Any, _: Parameters) -> Value:
    return builder.matmul(given, rows.T)


def _scaled_product(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    gamma = float(parameters.get("gamma", 1.0 / rows.shape[1]))
    scaled = builder.mul(builder.matmul(given, rows.T), gamma)
    return builder.add(scaled, float(parameters.get("coef0", 1)))


def _polynomial(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    return builder.binary("Pow", _scaled_product(builder, given, rows, parameters), float(parameters.get("degree", 3)))


def _sigmoid(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    return builder.unary("Tanh", _scaled_product(builder, given, rows, parameters))


def squared_distances(builder: Builder, given: Value, rows: Any) -> Value:
    """Return squared Euclidean distances to constant rows, as sums of squares minus twice the product."""
    product = builder.mul(builder.matmul(given, rows.T), -2.0)
    own = builder.reduce("ReduceSum", builder.mul(given, given))
    found = builder.add(builder.add(product, own), (rows * rows).sum(axis=1))
    return bounded(builder, found, 0.0)


def _radial(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    gamma = float(parameters.get("gamma", 1.0 / rows.shape[1]))
    return builder.unary("Exp", builder.mul(squared_distances(builder, given, rows), -gamma))


def _cosine(builder: Builder, given: Value, rows: Any, _: Parameters) -> Value:
    numpy = importlib.import_module("numpy")
    size = builder.unary("Sqrt", builder.reduce("ReduceSum", builder.mul(given, given)))
    size = builder.where(builder.binary("Less", size, 10 * numpy.finfo("float64").eps), 1.0, size)
    lengths = numpy.sqrt((rows * rows).sum(axis=1, keepdims=True))
    lengths[lengths < 10 * numpy.finfo("float64").eps] = 1.0
    return builder.matmul(builder.div(given, size), (rows / lengths).T)


def _summed(builder: Builder, given: Value, rows: Any, term: Callable[[Value, Any], Value]) -> Value:
    """Sum a term over the columns: `term` is given one column [batch, 1] and that of the rows."""
    found = term(builder.take(given, [0]), rows[:, 0])
    for place in range(1, given.width):
        found = builder.add(found, term(builder.take(given, [place]), rows[:, place]))
    return found


def _laplacian(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    gamma = float(parameters.get("gamma", 1.0 / rows.shape[1]))
    away = _summed(builder, given, rows, lambda own, other: builder.unary("Abs", builder.sub(own, other)))
    return builder.unary("Exp", builder.mul(away, -gamma))


def _additive_chi_squared(builder: Builder, given: Value, rows: Any, _: Parameters) -> Value:
    def term(own: Value, other: Any) -> Value:
        away, both = builder.sub(own, other), builder.add(own, other)
        share = builder.div(builder.mul(away, away), both)
        return builder.where(builder.binary("Equal", both, 0.0), 0.0, share)

    return builder.unary("Neg", _summed(builder, given, rows, term))


def _chi_squared(builder: Builder, given: Value, rows: Any, parameters: Parameters) -> Value:
    found = _additive_chi_squared(builder, given, rows, parameters)
    return builder.unary("Exp", builder.mul(found, float(parameters.get("gamma", 1.0))))


_KERNELS: dict[str, Callable[[Builder, Value, Any, Parameters], Value]] = {
    "linear": _product, "poly": _polynomial, "polynomial": _polynomial, "sigmoid": _sigmoid, "rbf": _radial,
    "cosine": _cosine, "laplacian": _laplacian, "additive_chi2": _additive_chi_squared, "chi2": _chi_squared,
    "precomputed": lambda _, given, rows, parameters: given,
}  # fmt: skip
