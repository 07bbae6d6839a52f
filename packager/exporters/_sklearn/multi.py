# SPDX-License-Identifier: Apache-2.0
"""Several classes of binary members, and several outputs of single ones."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import emit, position_above, position_of_largest, refuse, write_labels, writes
from packager.exporters._sklearn.algebra import numbers
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.cluster import nearest
from packager.exporters._sklearn.ensemble import as_array
from packager.exporters._sklearn.inverse import undo
from packager.exporters._sklearn.labels import (
    label_of_largest,
    scores_for_two,
    side_by_side,
)
from packager.exporters._sklearn.svm import votes_and_confidence


def _is_regressor(model: Any) -> bool:
    return bool(importlib.import_module("sklearn.base").is_regressor(model))


def _binary_score(builder: Builder, member: Any, frame: Frame) -> Value:
    """Return how much a member says yes."""
    if _is_regressor(member):
        return emit(builder, member, "predict", frame)
    return scores_for_two(builder, member, frame, ("decision_function", "predict_proba"))


def _threshold(member: Any) -> float:
    return 0.0 if hasattr(member, "decision_function") and not _is_regressor(member) else 0.5


# -- one against the rest, one against one, codes


@writes("predict", "OneVsRestClassifier")
def predict_best(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the class whose member scores highest, the second of two above the threshold, or every label by itself."""
    scores = builder.concat([_binary_score(builder, member, frame) for member in model.estimators_])
    kind = model.label_binarizer_.y_type_
    if kind == "multiclass":
        return write_labels(builder, model.classes_, _position_of_best(builder, scores))
    position = builder.cast(builder.binary("Greater", scores, _threshold(model.estimators_[0])), "int64")
    return position if kind.startswith("multilabel") else write_labels(builder, model.classes_, position)


def _position_of_best(builder: Builder, scores: Value) -> Value:
    """Return the position of the largest score: the first of equals, before scikit-learn 1.8 the last."""
    if _library() >= (1, 8):
        return position_of_largest(builder, scores)
    last = scores.width - 1
    return builder.sub(last, position_of_largest(builder, builder.take(scores, list(range(last, -1, -1)))))


def _library() -> tuple[int, ...]:
    """Return major and minor version of the scikit-learn that answers for the model."""
    return tuple(map(int, importlib.import_module("sklearn").__version__.split(".")[:2]))


@writes("predict_proba", "OneVsRestClassifier")
def share_against_rest(builder: Builder, model: Any, frame: Frame) -> Value:
    """Divide the probabilities of members by their sum, except of several labels at once."""
    yes = [builder.take(emit(builder, member, "predict_proba", frame), [1]) for member in model.estimators_]
    if len(yes) == 1:
        yes = [builder.sub(1.0, yes[0]), yes[0]]
    each = builder.concat(yes)
    if model.multilabel_:
        return each
    sums = builder.reduce("ReduceSum", each)
    if _library() < (1, 7):  # a row of noughts became NaN
        return builder.div(each, sums)
    return builder.div(each, builder.where(builder.binary("Equal", sums, 0.0), 1.0, sums))


@writes("decision_function", "OneVsRestClassifier")
def decide_against_rest(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.concat([emit(builder, member, "decision_function", frame) for member in model.estimators_])


def _constant(method: str) -> None:
    @writes(method, "_ConstantPredictor")
    def write(builder: Builder, model: Any, frame: Frame) -> Value:
        known = float(model.y_.reshape(-1)[0])
        return builder.spread(frame.blocks[0], [1 - known, known] if method == "predict_proba" else [known])


for _method in ("predict", "predict_proba", "decision_function"):
    _constant(_method)


@writes("decision_function", "OneVsOneClassifier")
def decide_by_pairs(builder: Builder, model: Any, frame: Frame) -> Value:
    if model.pairwise_indices_ is not None:
        refuse(model, "takes a precomputed kernel, which has no ONNX form")
    own = as_array(builder, frame)
    says = builder.concat(
        [builder.cast(emit(builder, member, "predict", own), "float64") for member in model.estimators_]
    )
    first, second = (builder.cast(builder.binary("Equal", says, side), "float64") for side in (0.0, 1.0))
    scores = builder.concat([_binary_score(builder, member, own) for member in model.estimators_])
    found = votes_and_confidence(builder, first, second, scores, len(model.classes_))
    return builder.take(found, [1]) if found.width == 2 else found


@writes("predict", "OneVsOneClassifier")
def predict_by_pairs(builder: Builder, model: Any, frame: Frame) -> Value:
    found = emit(builder, model, "decision_function", frame)
    if found.width > 1:
        return label_of_largest(builder, model.classes_, found)
    return write_labels(builder, model.classes_, position_above(builder, found, _threshold(model.estimators_[0])))


@writes("predict", "OutputCodeClassifier")
def predict_by_code(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the class whose code is nearest to what the members say."""
    scores = builder.concat([_binary_score(builder, member, frame) for member in model.estimators_])
    return write_labels(builder, model.classes_, nearest(builder, scores, model.code_book_))


# -- several outputs


@writes("predict", "MultiOutputClassifier")
def predict_each(builder: Builder, model: Any, frame: Frame) -> Value:
    labels = [emit(builder, member, "predict", frame) for member in model.estimators_]
    return side_by_side(builder, model, labels)


@writes("predict_proba", "MultiOutputClassifier")
def probabilities_of_each(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.concat([emit(builder, member, "predict_proba", frame) for member in model.estimators_])


@writes("predict", "MultiOutputRegressor")
def number_of_each(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.concat([emit(builder, member, "predict", frame) for member in model.estimators_])


def _chained(builder: Builder, model: Any, frame: Frame, method: str) -> Value:
    """Give every member the columns and what the members before it said."""
    first = numbers(builder, frame)
    said: list[Value] = []
    found: list[Value] = []
    link = getattr(model, "chain_method_", "predict")
    for member in model.estimators_:
        own = Frame((builder.concat([first, *said]),))
        said.append(scores_for_two(builder, member, own, (link,)))
        found.append(scores_for_two(builder, member, own, (method,)))
    if any(value.dtype == "string" for value in found):
        refuse(model, "chains text labels")
    order = [list(model.order_).index(position) for position in range(len(found))]
    return builder.concat([found[position] for position in order])


def _chain(method: str, *names: str) -> None:
    @writes(method, *names)
    def write(builder: Builder, model: Any, frame: Frame) -> Value:
        return _chained(builder, model, frame, method)


_chain("predict", "ClassifierChain", "RegressorChain")
_chain("predict_proba", "ClassifierChain")
_chain("decision_function", "ClassifierChain")


# -- transformed targets


@writes("predict", "TransformedTargetRegressor")
def predict_target(builder: Builder, model: Any, frame: Frame) -> Value:
    """Undo the transformation of the target."""
    found = builder.cast(emit(builder, model.regressor_, "predict", frame), "float64")
    return undo(builder, model.transformer_, found)
