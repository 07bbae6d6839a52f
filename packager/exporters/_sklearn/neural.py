# SPDX-License-Identifier: Apache-2.0
"""Multi-layer perceptrons and the restricted Boltzmann machine."""

from __future__ import annotations

from typing import Any

from packager.exporters._sklearn import both_sides, position_above, refuse, write_labels, writes
from packager.exporters._sklearn.algebra import expit, numbers, products, softmax
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import label_of_largest


def _activate(builder: Builder, model: Any, kind: str, value: Value) -> Value:
    if kind == "identity":
        return value
    if kind == "logistic":
        return expit(builder, value)
    if kind == "softmax":
        return softmax(builder, value)
    operators = {"tanh": "Tanh", "relu": "Relu", "exp": "Exp"}
    if kind not in operators:
        refuse(model, f"has an activation, `{kind}`, without an ONNX form here")
    return builder.unary(operators[kind], value)


def _forward(builder: Builder, model: Any, frame: Frame) -> Value:
    found = numbers(builder, frame)
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    for index, (weights, bias) in enumerate(layers):
        found = builder.add(builder.matmul(found, weights), bias)
        last = index == len(layers) - 1
        found = _activate(builder, model, model.out_activation_ if last else model.activation, found)
    return found


@writes("predict", "MLPRegressor")
def predict_number(builder: Builder, model: Any, frame: Frame) -> Value:
    return _forward(builder, model, frame)


@writes("predict_proba", "MLPClassifier")
def predict_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    found = _forward(builder, model, frame)
    return both_sides(builder, found) if found.width == 1 else found


@writes("predict", "MLPClassifier")
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the largest of many classes, the second of two above a half; each column by itself for many labels."""
    found = _forward(builder, model, frame)
    if model._label_binarizer.y_type_ == "multiclass":
        return label_of_largest(builder, model.classes_, found)
    if model._label_binarizer.y_type_.startswith("multilabel"):
        return builder.cast(builder.binary("Greater", found, 0.5), "int64")
    return write_labels(builder, model.classes_, position_above(builder, found, 0.5))


@writes("transform", "BernoulliRBM")
def hidden_means(builder: Builder, model: Any, frame: Frame) -> Value:
    line = products(builder, numbers(builder, frame), model.components_)
    return expit(builder, builder.add(line, model.intercept_hidden_))
