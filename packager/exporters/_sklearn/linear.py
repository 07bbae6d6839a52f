# SPDX-License-Identifier: Apache-2.0
"""Linear models of scikit-learn: a matrix product, and what stands behind it."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import both_sides, emit, place_above, place_of_largest, write_labels, writes
from packager.exporters._sklearn.builder import Builder, Frame, Value

_REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "Lars",
    "LarsCV", "ElasticNet", "ElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet",
    "MultiTaskElasticNetCV", "BayesianRidge", "ARDRegression", "HuberRegressor", "TheilSenRegressor",
    "QuantileRegressor", "SGDRegressor", "PassiveAggressiveRegressor", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "LinearSVR",
)  # fmt: skip
_CLASSIFIERS = (
    "LogisticRegression", "LogisticRegressionCV", "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier", "Perceptron",
    "PassiveAggressiveClassifier", "LinearSVC",
)  # fmt: skip


def product(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return `X @ coef_.T + intercept_`."""
    numpy = importlib.import_module("numpy")
    coefficients = numpy.atleast_2d(model.coef_.toarray() if hasattr(model.coef_, "toarray") else model.coef_)
    found = builder.matmul(builder.matrix(frame, "float64"), coefficients.T.astype("float64"))
    return builder.add(found, numpy.broadcast_to(numpy.ravel(model.intercept_), (len(coefficients),)))


@writes("predict", *_REGRESSORS)
def predict_number(builder: Builder, model: Any, frame: Frame) -> Value:
    return product(builder, model, frame)


@writes("decision_function", *_CLASSIFIERS)
def decide(builder: Builder, model: Any, frame: Frame) -> Value:
    return product(builder, model, frame)


@writes("predict", *_CLASSIFIERS)
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Say yes above zero between two classes, else name the largest."""
    scores = emit(builder, model, "decision_function", frame)
    place = place_above(builder, scores) if scores.width == 1 else place_of_largest(builder, scores)
    return write_labels(builder, model.classes_, place)


@writes("predict_proba", "LogisticRegression", "LogisticRegressionCV")
def logistic_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write a logistic of each score, normalised, for one-vs-rest; else a softmax over all classes."""
    scores = emit(builder, model, "decision_function", frame)
    if _is_one_vs_rest(model):
        each = builder.unary("Sigmoid", scores)
        return both_sides(builder, each) if each.width == 1 else builder.div(each, builder.reduce("ReduceSum", each))
    if scores.width == 1:
        return both_sides(builder, builder.unary("Sigmoid", builder.mul(scores, 2.0)))
    return Value(builder.node("Softmax", [scores.name], axis=1), scores.dtype, scores.width)


def _is_one_vs_rest(model: Any) -> bool:
    """Say whether probabilities are one-vs-rest: as `LogisticRegression.predict_proba` decides it."""
    stated = getattr(model, "multi_class", "deprecated")
    if stated == "ovr":
        return True
    binary = len(model.classes_) <= 2
    return stated in ("auto", "deprecated", "warn") and (binary or model.solver == "liblinear")
