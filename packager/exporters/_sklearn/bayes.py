# SPDX-License-Identifier: Apache-2.0
"""Naive Bayes: joint log likelihoods, and what all kinds derive from them."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import emit, writes
from packager.exporters._sklearn.algebra import clip, log_sum_exp, numbers, products, square, total
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import label_of_largest

_KINDS = ("GaussianNB", "MultinomialNB", "ComplementNB", "BernoulliNB", "CategoricalNB")


@writes("predict", *_KINDS)
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_of_largest(builder, model.classes_, emit(builder, model, "predict_joint_log_proba", frame))


@writes("predict_proba", *_KINDS)
def predict_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    joint = emit(builder, model, "predict_joint_log_proba", frame)
    return builder.unary("Exp", builder.sub(joint, log_sum_exp(builder, joint)))


@writes("predict_joint_log_proba", "GaussianNB")
def join_gaussians(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    given = numbers(builder, frame)
    constants = numpy.log(model.class_prior_) - 0.5 * numpy.log(2.0 * numpy.pi * model.var_).sum(axis=1)
    scores = []
    for mean, variance, constant in zip(model.theta_, model.var_, constants, strict=True):
        parts = builder.div(square(builder, builder.sub(given, mean)), variance)
        scores.append(builder.add(builder.mul(builder.reduce("ReduceSum", parts), -0.5), float(constant)))
    return builder.concat(scores)


@writes("predict_joint_log_proba", "MultinomialNB")
def join_counts(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.add(products(builder, numbers(builder, frame), model.feature_log_prob_), model.class_log_prior_)


@writes("predict_joint_log_proba", "ComplementNB")
def join_complements(builder: Builder, model: Any, frame: Frame) -> Value:
    found = products(builder, numbers(builder, frame), model.feature_log_prob_)
    return builder.add(found, model.class_log_prior_) if len(model.classes_) == 1 else found


@writes("predict_joint_log_proba", "BernoulliNB")
def join_flags(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    given = numbers(builder, frame)
    if model.binarize is not None:
        given = builder.cast(builder.binary("Greater", given, float(model.binarize)), "float64")
    absent = numpy.log(1 - numpy.exp(model.feature_log_prob_))
    return builder.add(
        products(builder, given, model.feature_log_prob_ - absent), model.class_log_prior_ + absent.sum(axis=1)
    )


@writes("predict_joint_log_proba", "CategoricalNB")
def join_categories(builder: Builder, model: Any, frame: Frame) -> Value:
    """Look every category up; a number beyond those known, which scikit-learn refuses, counts as the last."""
    given = builder.cast(builder.matrix(frame), "int64")
    parts = []
    for position, logs in enumerate(model.feature_log_prob_):
        column = builder.cast(
            clip(builder, builder.cast(builder.take(given, [position]), "float64"), 0.0, logs.shape[1] - 1.0), "int64"
        )
        parts.append(builder.look_up(logs.T.astype("float64"), column))
    return builder.add(total(builder, parts), model.class_log_prior_)
