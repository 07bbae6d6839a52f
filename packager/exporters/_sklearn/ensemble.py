# SPDX-License-Identifier: Apache-2.0
"""Votes, stacks, bags and boosts of any members, and estimators that only pass on to another."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from packager.exporters._sklearn import emit, position_above, position_of_largest, refuse, write_labels, writes
from packager.exporters._sklearn.algebra import pick, smallest, softmax, total
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import indicators, label_of_largest

_METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")


# -- estimators around another


def _pass_on(method: str) -> None:
    @writes(method, *_SEARCHES)
    def write_best(builder: Builder, model: Any, frame: Frame) -> Value:
        if not hasattr(model, "best_estimator_"):
            refuse(model, "was fitted with `refit=False` and predicts nothing")
        return emit(builder, model.best_estimator_, method, frame)

    @writes(method, "FrozenEstimator")
    def write_frozen(builder: Builder, model: Any, frame: Frame) -> Value:
        return emit(builder, model.estimator, method, frame)


for _method in _METHODS:
    _pass_on(_method)


def _pass_on_predictions(method: str) -> None:
    @writes(method, "SelfTrainingClassifier")
    def write_trained(builder: Builder, model: Any, frame: Frame) -> Value:
        inner = model.estimator_ if hasattr(model, "estimator_") else model.base_estimator_
        return emit(builder, inner, method, as_array(builder, frame))

    @writes(method, "RFE", "RFECV")
    def write_selected(builder: Builder, model: Any, frame: Frame) -> Value:
        chosen = importlib.import_module("numpy").flatnonzero(model.support_).tolist()
        return emit(builder, model.estimator_, method, builder.select(as_array(builder, frame), chosen))


for _method in ("predict", "predict_proba", "decision_function"):
    _pass_on_predictions(_method)


@writes("predict_proba", "FixedThresholdClassifier", "TunedThresholdClassifierCV")
def pass_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    return emit(builder, getattr(model, "estimator_", model.estimator), "predict_proba", frame)


@writes("decision_function", "FixedThresholdClassifier", "TunedThresholdClassifierCV")
def pass_decision(builder: Builder, model: Any, frame: Frame) -> Value:
    return emit(builder, getattr(model, "estimator_", model.estimator), "decision_function", frame)


def as_array(builder: Builder, frame: Frame) -> Frame:
    """Return a frame as an estimator hands it on that made an array of it: no names, and one type for all numbers."""
    if "string" in frame.dtypes or len(frame.blocks) == 1:
        return replace(frame, names=())
    return Frame((builder.matrix(frame),))


# -- votes


def _weights(model: Any) -> list[float] | None:
    """Return the weights of the members that were not dropped."""
    if model.weights is None:
        return None
    return [
        float(weight)
        for (_, member), weight in zip(model.estimators, model.weights, strict=True)
        if (not isinstance(member, str))
    ]


def _average(builder: Builder, values: list[Value], weights: list[float] | None) -> Value:
    """Write `numpy.average` over members, in float64 unless all are float32 (XGBoost's)."""
    if weights is not None or len({value.dtype for value in values}) > 1:
        values = [builder.cast(value, "float64") for value in values]
    if weights is None:
        return builder.div(total(builder, values), float(len(values)))
    weighed = [builder.mul(value, weight) for value, weight in zip(values, weights, strict=True)]
    return builder.div(total(builder, weighed), float(importlib.import_module("numpy").sum(weights)))


def _all(builder: Builder, model: Any, method: str, frame: Frame) -> list[Value]:
    return [emit(builder, member, method, frame) for member in model.estimators_]


@writes("predict_proba", "VotingClassifier")
def vote_softly(builder: Builder, model: Any, frame: Frame) -> Value:
    return _average(builder, _all(builder, model, "predict_proba", frame), _weights(model))


@writes("predict", "VotingClassifier")
def vote(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the class with most weight of votes, the first of equals; members know classes by their numbers."""
    numpy = importlib.import_module("numpy")
    known = model.le_.classes_
    if model.voting == "soft":
        return label_of_largest(builder, known, emit(builder, model, "predict_proba", frame))
    labels = _all(builder, model, "predict", frame)
    weights = _weights(model) or [1.0] * len(labels)
    votes = [
        builder.mul(indicators(builder, label, numpy.arange(len(known))), weight)
        for label, weight in zip(labels, weights, strict=True)
    ]
    return label_of_largest(builder, known, total(builder, votes))


@writes("predict", "VotingRegressor")
def average_members(builder: Builder, model: Any, frame: Frame) -> Value:
    return _average(builder, _all(builder, model, "predict", frame), _weights(model))


@writes("transform", "VotingRegressor", "VotingClassifier")
def members_side_by_side(builder: Builder, model: Any, frame: Frame) -> Value:
    soft = getattr(model, "voting", "hard") == "soft"
    if soft and not model.flatten_transform:
        refuse(model, "makes a cube with `flatten_transform=False`", hint="set `flatten_transform=True`")
    return builder.concat(_all(builder, model, "predict_proba" if soft else "predict", frame))


# -- stacks


@writes("transform", "StackingClassifier", "StackingRegressor")
def stack_members(builder: Builder, model: Any, frame: Frame) -> Value:
    return stack(builder, model, frame)


def stack(builder: Builder, model: Any, frame: Frame) -> Value:
    """Put what the members say side by side, without the first of two probabilities, and the columns themselves."""
    if isinstance(getattr(model, "_label_encoder", None), list):
        refuse(model, "stacks members with several outputs, which has no ONNX form here")
    parts = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        found = emit(builder, member, method, frame)
        two = method == "predict_proba" and len(model.classes_) == 2
        parts.append(builder.take(found, list(range(1, found.width))) if two else found)
    given = frame.blocks if model.passthrough else ()
    return builder.matrix(Frame((*parts, *given)))


def _stacked(method: str) -> None:
    @writes(method, "StackingClassifier")
    def write(builder: Builder, model: Any, frame: Frame) -> Value:
        found = emit(builder, model.final_estimator_, method, Frame((stack(builder, model, frame),)))
        return write_labels(builder, model.classes_, found) if method == "predict" else found


for _method in ("predict", "predict_proba", "decision_function"):
    _stacked(_method)


@writes("predict", "StackingRegressor")
def predict_stacked(builder: Builder, model: Any, frame: Frame) -> Value:
    return emit(builder, model.final_estimator_, "predict", Frame((stack(builder, model, frame),)))


# -- bags


def _own_columns(builder: Builder, model: Any, frame: Frame) -> list[tuple[Any, Frame]]:
    """Return every member of a bag with the columns it was given."""
    whole = as_array(builder, frame)
    positions = [list(map(int, own)) for own in model.estimators_features_]
    return [(member, builder.select(whole, own)) for member, own in zip(model.estimators_, positions, strict=True)]


@writes("predict_proba", "BaggingClassifier")
def share_of_bag(builder: Builder, model: Any, frame: Frame) -> Value:
    """Average the members' probabilities, or their votes where they have none."""
    numpy = importlib.import_module("numpy")
    count, parts = int(model.n_classes_), []
    for member, own in _own_columns(builder, model, frame):
        if not hasattr(member, "predict_proba"):
            parts.append(indicators(builder, emit(builder, member, "predict", own), numpy.arange(count)))
            continue
        found = emit(builder, member, "predict_proba", own)
        known = numpy.asarray(member.classes_).astype(int)
        parts.append(found if len(known) == count else builder.matmul(found, numpy.eye(count)[known]))
    return builder.div(total(builder, parts), float(model.n_estimators))


@writes("predict", "BaggingClassifier")
def predict_bag(builder: Builder, model: Any, frame: Frame) -> Value:
    return label_of_largest(builder, model.classes_, emit(builder, model, "predict_proba", frame))


def _bagged(method: str, name: str) -> None:
    @writes(method, name)
    def write(builder: Builder, model: Any, frame: Frame) -> Value:
        parts = [emit(builder, member, method, own) for member, own in _own_columns(builder, model, frame)]
        return builder.div(total(builder, parts), float(model.n_estimators))


_bagged("decision_function", "BaggingClassifier")
_bagged("predict", "BaggingRegressor")


# -- boosts


@writes("decision_function", "AdaBoostClassifier")
def weigh_votes(builder: Builder, model: Any, frame: Frame) -> Value:
    """Sum the weights of members for the class they name, and against each of the others."""
    if getattr(model, "algorithm", "SAMME") == "SAMME.R":
        refuse(model, "was boosted by `SAMME.R`, which the library no longer has", hint="fit it with `SAMME`")
    count, own = len(model.classes_), as_array(builder, frame)
    if count == 1:
        return builder.spread(own.blocks[0], [0.0])
    parts = []
    for member, weight in zip(model.estimators_, model.estimator_weights_.tolist(), strict=False):
        says = indicators(builder, emit(builder, member, "predict", own), model.classes_)
        parts.append(builder.where(builder.cast(says, "bool"), weight, -1 / (count - 1) * weight))
    found = builder.div(total(builder, parts), float(model.estimator_weights_.sum()))
    return builder.sub(builder.take(found, [1]), builder.take(found, [0])) if count == 2 else found


@writes("predict_proba", "AdaBoostClassifier")
def boosted_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    count = len(model.classes_)
    found = emit(builder, model, "decision_function", frame)
    if count == 1:
        return builder.add(found, 1.0)
    if count == 2:
        return softmax(builder, builder.div(builder.concat([builder.unary("Neg", found), found]), 2.0))
    return softmax(builder, builder.div(found, count - 1.0))


@writes("predict", "AdaBoostClassifier")
def predict_boosted(builder: Builder, model: Any, frame: Frame) -> Value:
    found = emit(builder, model, "decision_function", frame)
    position = position_above(builder, found) if found.width == 1 else position_of_largest(builder, found)
    return write_labels(builder, model.classes_, position)


@writes("predict", "AdaBoostRegressor")
def weighted_median(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the prediction at which half of the members' weight is reached, in ascending order."""
    own = as_array(builder, frame)
    members = [builder.cast(emit(builder, member, "predict", own), "float64") for member in model.estimators_]
    ascending, order = smallest(builder, builder.concat(members), len(members))
    weights = pick(builder, model.estimator_weights_[: len(members)].astype("float64"), order)
    reached = Value(builder.node("CumSum", [weights.name, builder.constant(1, "int64")]), "float64", len(members))
    enough = builder.binary("GreaterOrEqual", reached, builder.mul(builder.take(reached, [len(members) - 1]), 0.5))
    position = position_of_largest(builder, builder.cast(enough, "float64"))
    return Value(builder.node("GatherElements", [ascending.name, position.name], axis=1), "float64", 1)
