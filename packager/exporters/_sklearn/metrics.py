# SPDX-License-Identifier: Apache-2.0
"""Distances by scikit-learn's names, from every row to every point of a table.

A tree sums over features one after another, and so does its graph: equal distances are equal in both. Brute force
computes Euclidean distances by a matrix product, and so does its graph.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from packager.exporters._sklearn import refuse
from packager.exporters._sklearn.algebra import (
    direct_squares,
    expanded_distances,
    over_features,
    products,
    row_norms,
    square,
)
from packager.exporters._sklearn.builder import Builder, Value

_ALIASES = {
    "l2": "euclidean",
    "l1": "manhattan",
    "cityblock": "manhattan",
    "infinity": "chebyshev",
    "p": "minkowski",
}


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances of every row to every point, raised to `power`: ordering alone needs no root."""

    raised: Value
    power: float = 1.0

    def plain(self, builder: Builder, raised: Value | None = None) -> Value:
        """Return the distances themselves, all of them or the chosen ones."""
        chosen = self.raised if raised is None else raised
        if self.power == 1.0:
            return chosen
        if self.power == 2.0:
            return builder.unary("Sqrt", chosen)
        return builder.binary("Pow", chosen, 1.0 / self.power)


def distances(builder: Builder, owner: Any, value: Value, points: Any, name: Any, **how: Any) -> Distances:
    """Return distances by the metric `name` of scikit-learn.

    `how` holds the metric's own parameters, and `by_product` where Euclidean distances come from a matrix product.
    Raises StepError, about `owner`, for a metric without an ONNX form.
    """
    parameters = {key: given for key, given in how.items() if given is not None}
    by_product = parameters.pop("by_product", False)
    kind, power = _named(owner, name, parameters)
    if kind == "euclidean" and by_product:
        return Distances(expanded_distances(builder, value, points), 2.0)
    return Distances(_MAKERS[kind](builder, value, points, parameters), power)


def _named(owner: Any, name: Any, parameters: Mapping[str, Any]) -> tuple[str, float]:
    """Return the kind of a metric and the power to which its maker raises distances."""
    kind = _ALIASES.get(name, name) if isinstance(name, str) else "callable"
    if kind == "minkowski" and "w" not in parameters:
        kind = {1: "manhattan", 2: "euclidean", float("inf"): "chebyshev"}.get(parameters.get("p", 2), kind)
    if kind not in _MAKERS:
        what = "a custom function" if kind == "callable" else f"the metric `{kind}`"
        refuse(owner, f"measures distances by {what}, which has no ONNX form here", "choose another metric")
    return kind, float(parameters.get("p", 2)) if kind == "minkowski" else _POWERS.get(kind, 1.0)


def _sum(term: Callable[[Builder, Value, int], Value]) -> Callable[..., Value]:
    def make(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
        return over_features(builder, value, points, lambda off, position: term(builder, off, position), builder.add)

    return make


def _largest(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    def join(left: Value, right: Value) -> Value:
        return builder.binary("Max", left, right)

    return over_features(builder, value, points, lambda off, _: builder.unary("Abs", off), join)


def _euclidean(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    return direct_squares(builder, value, points)


def _minkowski(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    power, weights = float(parameters.get("p", 2)), parameters.get("w")

    def term(off: Value, position: int) -> Value:
        found = builder.binary("Pow", builder.unary("Abs", off), power)
        return found if weights is None else builder.mul(found, float(weights[position]))

    return over_features(builder, value, points, term, builder.add)


def _seuclidean(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    variances = parameters["V"]

    def term(off: Value, position: int) -> Value:
        return builder.div(square(builder, off), float(variances[position]))

    return over_features(builder, value, points, term, builder.add)


def _mahalanobis(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    """Measure Euclidean distances after the root of the inverse covariance."""
    numpy = importlib.import_module("numpy")
    inverse = parameters["VI"] if "VI" in parameters else numpy.linalg.inv(parameters["V"])
    root = numpy.linalg.cholesky(numpy.asarray(inverse, dtype="float64"))
    return direct_squares(builder, builder.matmul(value, root), points @ root)


def _cosine(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    """Return one minus the cosine, between 0 and 2; a row of zeros is as far from everything as at a right angle."""
    numpy = importlib.import_module("numpy")
    points = numpy.asarray(points, dtype="float64")
    lengths = numpy.sqrt((points**2).sum(axis=1, keepdims=True))
    own = builder.unary("Sqrt", row_norms(builder, value))
    own = builder.where(builder.binary("Equal", own, 0.0), 1.0, own)
    cosines = products(builder, builder.div(value, own), points / numpy.where(lengths == 0, 1.0, lengths))
    return builder.binary("Min", builder.binary("Max", builder.sub(1.0, cosines), 0.0), 2.0)


def _canberra(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    numpy = importlib.import_module("numpy")
    size = builder.unary("Abs", value)

    def term(off: Value, position: int) -> Value:
        scale = builder.add(builder.take(size, [position]), numpy.abs(points[:, position]))
        apart = builder.binary("Greater", scale, 0.0)
        return builder.div(builder.unary("Abs", off), builder.where(apart, scale, 1.0))

    return over_features(builder, value, points, term, builder.add)


def _differs(builder: Builder, off: Value, position: int) -> Value:
    return builder.sub(1.0, builder.cast(builder.binary("Equal", off, 0.0), "float64"))


def _hamming(builder: Builder, value: Value, points: Any, parameters: Mapping[str, Any]) -> Value:
    return builder.div(_sum(_differs)(builder, value, points, parameters), float(value.width))


_POWERS = {"euclidean": 2.0, "seuclidean": 2.0, "mahalanobis": 2.0}
_MAKERS: dict[str, Callable[..., Value]] = {
    "euclidean": _euclidean,
    "sqeuclidean": _euclidean,
    "manhattan": _sum(lambda builder, off, position: builder.unary("Abs", off)),
    "chebyshev": _largest,
    "minkowski": _minkowski,
    "seuclidean": _seuclidean,
    "mahalanobis": _mahalanobis,
    "cosine": _cosine,
    "canberra": _canberra,
    "hamming": _hamming,
}
