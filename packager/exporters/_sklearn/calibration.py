# SPDX-License-Identifier: Apache-2.0
"""Isotonic regression, calibrated classifiers and decision thresholds."""

from __future__ import annotations

import importlib
import math
from typing import Any

from packager.exporters._sklearn import emit, write_labels, writes
from packager.exporters._sklearn.algebra import clip, count_not_above, expit, pick, softmax, total
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import first_method, label_of_largest, scores_for_two

_RESPONSES = ("decision_function", "predict_proba")


def interpolate(builder: Builder, value: Value, xs: Any, ys: Any) -> Value:
    """Write `numpy.interp` between the first and last of ascending `xs`; outside of them the line goes on."""
    numpy = importlib.import_module("numpy")
    xs, ys = numpy.asarray(xs, dtype="float64"), numpy.asarray(ys, dtype="float64")
    if len(xs) == 1:
        return builder.spread(value, [float(ys[0])])
    slopes = (ys[1:] - ys[:-1]) / (xs[1:] - xs[:-1])
    position = builder.sub(count_not_above(builder, value, xs), 1)
    position = builder.binary("Min", builder.binary("Max", position, 0), len(slopes) - 1)
    ahead = builder.sub(value, pick(builder, xs[:-1], position))
    found = builder.add(builder.mul(pick(builder, slopes, position), ahead), pick(builder, ys[:-1], position))
    return builder.where(builder.binary("Equal", value, float(xs[-1])), float(ys[-1]), found)


@writes("transform", "IsotonicRegression")
@writes("predict", "IsotonicRegression")
def predict_monotonic(builder: Builder, model: Any, frame: Frame) -> Value:
    """Interpolate between thresholds; outside of them clip, or say NaN (also where the library raises an error)."""
    return _monotonic(builder, model, builder.matrix(frame))


def _monotonic(builder: Builder, model: Any, given: Value) -> Value:
    xs, ys = model.X_thresholds_, model.y_thresholds_
    value = builder.cast(builder.cast(given, xs.dtype.name), "float64")
    if model.out_of_bounds == "clip":
        value = clip(builder, value, float(model.X_min_), float(model.X_max_))
    found = interpolate(builder, value, xs, ys)
    if model.out_of_bounds != "clip" and len(xs) > 1:
        below = builder.binary("Less", value, float(xs[0]))
        beyond = builder.binary("Or", below, builder.binary("Greater", value, float(xs[-1])))
        found = builder.where(beyond, math.nan, found)
    return builder.cast(builder.cast(found, xs.dtype.name), "float64")


# -- calibration


@writes("predict_proba", "CalibratedClassifierCV")
def average_calibrated(builder: Builder, model: Any, frame: Frame) -> Value:
    parts = [_calibrated(builder, part, frame) for part in model.calibrated_classifiers_]
    return builder.div(total(builder, parts), float(len(parts)))


@writes("predict", "CalibratedClassifierCV")
def predict_calibrated(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_of_largest(builder, model.classes_, emit(builder, model, "predict_proba", frame))


def _calibrated(builder: Builder, part: Any, frame: Frame) -> Value:
    """Return what one calibrated classifier says of all classes."""
    scores = scores_for_two(builder, part.estimator, frame, _RESPONSES)
    if part.method == "temperature":
        found = _cooled(builder, part, scores)
    elif len(part.classes) == 2:
        yes = _calibrate(builder, part.calibrators[0], scores)
        found = builder.concat([builder.sub(1.0, yes), yes])
    else:
        found = _shares(builder, part, scores)
    slightly = builder.binary(
        "And", builder.binary("Greater", found, 1.0), builder.binary("LessOrEqual", found, 1.0 + 1e-5)
    )
    return builder.where(slightly, 1.0, found)


def _shares(builder: Builder, part: Any, scores: Value) -> Value:
    """Calibrate every class by itself and divide by the sum; all alike where every class says nought."""
    known = list(part.classes)
    own = {known.index(label): position for position, label in enumerate(part.estimator.classes_)}
    columns = [
        _calibrate(builder, part.calibrators[own[index]], builder.take(scores, [own[index]]))
        if index in own
        else builder.mul(builder.take(scores, [0]), 0.0)
        for index in range(len(known))
    ]
    each = builder.concat(columns)
    whole = builder.reduce("ReduceSum", each)
    empty = builder.binary("Equal", whole, 0.0)
    return builder.where(empty, 1.0 / len(known), builder.div(each, builder.where(empty, 1.0, whole)))


def _calibrate(builder: Builder, calibrator: Any, score: Value) -> Value:
    if hasattr(calibrator, "a_"):
        line = builder.add(builder.mul(score, float(calibrator.a_)), float(calibrator.b_))
        return expit(builder, builder.unary("Neg", line))
    return _monotonic(builder, calibrator, score)


def _cooled(builder: Builder, part: Any, scores: Value) -> Value:
    """Write a softmax of logits at a fitted temperature; probabilities become logits by their logarithm."""
    if first_method(part.estimator, _RESPONSES) == "predict_proba":
        both = builder.concat([builder.sub(1.0, scores), scores]) if scores.width == 1 else scores
        logits = builder.unary("Log", builder.add(both, 1e-12))
    else:
        logits = builder.concat([builder.unary("Neg", scores), scores]) if scores.width == 1 else scores
    return softmax(builder, builder.mul(logits, float(part.calibrators[0].beta_)))


# -- thresholds


@writes("predict", "FixedThresholdClassifier", "TunedThresholdClassifierCV")
def predict_by_threshold(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the positive class where its score reaches the threshold."""
    inner = getattr(model, "estimator_", model.estimator)
    auto = model.response_method == "auto"
    methods = ("predict_proba", "decision_function") if auto else (model.response_method,)
    method, tuned = first_method(inner, methods), hasattr(model, "best_threshold_")
    positive = model._curve_scorer._get_pos_label() if tuned else model.pos_label
    threshold = model.best_threshold_ if tuned else model.threshold
    if threshold == "auto":
        threshold = 0.5 if method == "predict_proba" else 0.0
    known = list(model.classes_)
    position = 1 if positive is None else known.index(positive)
    score = emit(builder, inner, method, frame)
    if method == "predict_proba":
        score = builder.take(score, [position])
    elif position == 0:
        score = builder.unary("Neg", score)
    reached = builder.cast(builder.binary("GreaterOrEqual", score, float(threshold)), "int64")
    return write_labels(builder, model.classes_, reached if position else builder.sub(1, reached))
