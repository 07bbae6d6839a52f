# SPDX-License-Identifier: Apache-2.0
"""Linear models of scikit-learn: a matrix product and what follows it."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import both_sides, emit, refuse, writes
from packager.exporters._sklearn.algebra import clip, expit, normalised, numbers, products, softmax
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import inside_or_outside, label_by_sign

_REGRESSORS = (
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "Lars",
    "LarsCV",
    "ElasticNet",
    "ElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "BayesianRidge",
    "ARDRegression",
    "HuberRegressor",
    "TheilSenRegressor",
    "QuantileRegressor",
    "SGDRegressor",
    "PassiveAggressiveRegressor",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "LinearSVR",
)
_CLASSIFIERS = (
    "LogisticRegression",
    "LogisticRegressionCV",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
    "Perceptron",
    "PassiveAggressiveClassifier",
    "LinearSVC",
)


def product(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return `X @ coef_.T + intercept_`."""
    numpy = importlib.import_module("numpy")
    coefficients = numpy.atleast_2d(model.coef_.toarray() if hasattr(model.coef_, "toarray") else model.coef_)
    found = builder.matmul(builder.matrix(frame, "float64"), coefficients.T.astype("float64"))
    return builder.add(found, numpy.broadcast_to(numpy.ravel(model.intercept_), (len(coefficients),)))


@writes("predict", *_REGRESSORS)
def predict_number(builder: Builder, model: Any, frame: Frame) -> Value:
    return product(builder, model, frame)


@writes("predict", "PoissonRegressor", "GammaRegressor", "TweedieRegressor")
def predict_mean(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write a generalised linear model: the inverse of its link behind the product."""
    link = type(model._base_loss.link).__name__
    if link == "IdentityLink":
        return product(builder, model, frame)
    if link != "LogLink":
        refuse(model, f"has a link, `{link}`, without an ONNX form here")
    return builder.unary("Exp", product(builder, model, frame))


@writes("predict", "RANSACRegressor")
def predict_inliers(builder: Builder, model: Any, frame: Frame) -> Value:
    return emit(builder, model.estimator_, "predict", frame)


@writes("decision_function", *_CLASSIFIERS)
def decide(builder: Builder, model: Any, frame: Frame) -> Value:
    return product(builder, model, frame)


@writes("predict", *_CLASSIFIERS)
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Say yes above zero between two classes, else name the largest; every column by itself for many labels."""
    scores = emit(builder, model, "decision_function", frame)
    binarizer = getattr(model, "_label_binarizer", None)
    if binarizer is not None and binarizer.y_type_.startswith("multilabel"):
        return builder.cast(builder.binary("Greater", scores, 0.0), "int64")
    return label_by_sign(builder, model.classes_, scores)


@writes("predict_proba", "LogisticRegression", "LogisticRegressionCV")
def logistic_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write a logistic of each score, normalised, for one-vs-rest; else a softmax over all classes."""
    scores = emit(builder, model, "decision_function", frame)
    if _is_one_vs_rest(model):
        return one_vs_rest(builder, expit(builder, scores))
    if scores.width == 1:
        return both_sides(builder, expit(builder, builder.mul(scores, 2.0)))
    return softmax(builder, scores)


def one_vs_rest(builder: Builder, each: Value) -> Value:
    """Return probabilities of all classes from those of each against the rest."""
    return both_sides(builder, each) if each.width == 1 else normalised(builder, each)


def _is_one_vs_rest(model: Any) -> bool:
    """Say whether probabilities are one-vs-rest, as the installed `LogisticRegression.predict_proba` decides it."""
    binary = len(model.classes_) <= 2
    if "multi_class" not in model._get_param_names():
        return binary
    stated = getattr(model, "multi_class", "deprecated")
    return stated == "ovr" or (stated in ("auto", "deprecated", "warn") and (binary or model.solver == "liblinear"))


@writes("predict_proba", "SGDClassifier")
def descent_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the logistic of log loss, or the clipped line of modified Huber loss."""
    scores = emit(builder, model, "decision_function", frame)
    if model.loss == "log_loss":
        return one_vs_rest(builder, expit(builder, scores))
    if model.loss != "modified_huber":
        refuse(model, f"gives no probabilities for `loss={model.loss!r}`")
    return one_vs_rest(builder, builder.div(builder.add(clip(builder, scores, -1.0, 1.0), 1.0), 2.0))


@writes("decision_function", "SGDOneClassSVM")
def decide_one_class(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.sub(products(builder, numbers(builder, frame), model.coef_.reshape(1, -1)), model.offset_)


@writes("score_samples", "SGDOneClassSVM")
def score_one_class(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.add(emit(builder, model, "decision_function", frame), model.offset_)


@writes("predict", "SGDOneClassSVM")
def predict_one_class(builder: Builder, model: Any, frame: Frame) -> Value:
    return inside_or_outside(builder, emit(builder, model, "decision_function", frame))
