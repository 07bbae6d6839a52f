# SPDX-License-Identifier: Apache-2.0
"""Discriminant analysis, partial least squares, and the robust covariance of outlier detection."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import both_sides, emit, refuse, writes
from packager.exporters._sklearn.algebra import expit, log_sum_exp, numbers, row_norms, softmax, square
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import inside_or_outside, label_by_sign, label_of_largest
from packager.exporters._sklearn.linear import product


@writes("decision_function", "LinearDiscriminantAnalysis")
def decide_linearly(builder: Builder, model: Any, frame: Frame) -> Value:
    return product(builder, model, frame)


@writes("predict", "LinearDiscriminantAnalysis")
def predict_linearly(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_by_sign(builder, model.classes_, emit(builder, model, "decision_function", frame))


@writes("predict_proba", "LinearDiscriminantAnalysis")
def linear_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    scores = emit(builder, model, "decision_function", frame)
    return both_sides(builder, expit(builder, scores)) if scores.width == 1 else softmax(builder, scores)


@writes("transform", "LinearDiscriminantAnalysis")
def project(builder: Builder, model: Any, frame: Frame) -> Value:
    if model.solver == "lsqr":
        refuse(model, "does not transform with `solver='lsqr'`")
    given = numbers(builder, frame)
    moved = builder.sub(given, model.xbar_) if model.solver == "svd" else given
    return builder.matmul(moved, model.scalings_[:, : model._max_components])


def _quadratic_scores(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    given, norms = numbers(builder, frame), []
    for rotation, scale, mean in zip(model.rotations_, model.scalings_, model.means_, strict=True):
        norms.append(row_norms(builder, builder.matmul(builder.sub(given, mean), rotation * scale**-0.5)))
    spread = numpy.array([numpy.log(scale).sum() for scale in model.scalings_])
    scores = builder.mul(builder.add(builder.concat(norms), spread), -0.5)
    return builder.add(scores, numpy.log(model.priors_))


def decide_between(builder: Builder, scores: Value) -> Value:
    """Return the difference of two scores, or more scores as they are."""
    if scores.width != 2:
        return scores
    return builder.sub(builder.take(scores, [1]), builder.take(scores, [0]))


def likelihoods(builder: Builder, scores: Value) -> Value:
    """Return the exponentials of scores, normalised in logarithms."""
    moved = builder.sub(scores, builder.reduce("ReduceMax", scores))
    return builder.unary("Exp", builder.sub(moved, log_sum_exp(builder, moved)))


@writes("decision_function", "QuadraticDiscriminantAnalysis")
def decide_quadratically(builder: Builder, model: Any, frame: Frame) -> Value:
    return decide_between(builder, _quadratic_scores(builder, model, frame))


@writes("predict", "QuadraticDiscriminantAnalysis")
def predict_quadratically(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_of_largest(builder, model.classes_, _quadratic_scores(builder, model, frame))


@writes("predict_proba", "QuadraticDiscriminantAnalysis")
def quadratic_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    return likelihoods(builder, _quadratic_scores(builder, model, frame))


@writes("predict", "PLSRegression", "PLSCanonical", "CCA")
def predict_from_components(builder: Builder, model: Any, frame: Frame) -> Value:
    moved = builder.sub(numbers(builder, frame), model._x_mean)
    return builder.add(builder.matmul(moved, model.coef_.T), model.intercept_)


@writes("score_samples", "EllipticEnvelope")
def score_by_distance(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the negative squared Mahalanobis distance from the centre."""
    moved = builder.sub(numbers(builder, frame), model.location_)
    spread = builder.mul(moved, builder.matmul(moved, model.get_precision()))
    root = builder.unary("Sqrt", builder.binary("Max", builder.reduce("ReduceSum", spread), 0.0))
    return builder.unary("Neg", square(builder, root))


@writes("decision_function", "EllipticEnvelope")
def decide_by_distance(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.sub(emit(builder, model, "score_samples", frame), float(model.offset_))


@writes("predict", "EllipticEnvelope")
def predict_by_distance(builder: Builder, model: Any, frame: Frame) -> Value:
    return inside_or_outside(builder, emit(builder, model, "decision_function", frame))
