# SPDX-License-Identifier: Apache-2.0
"""Trees, forests and boosted trees of scikit-learn."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from packager.exporters._sklearn import (
    both_sides,
    emit,
    position_above,
    position_of_largest,
    refuse,
    write_labels,
    writes,
)
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._trees import categories, forest, histogram
from packager.exporters._trees.ensemble import Ensemble
from packager.exporters._trees.write import write_sums, write_trees

_CLASSIFIERS = ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier")
_REGRESSORS = ("DecisionTreeRegressor", "ExtraTreeRegressor", "RandomForestRegressor", "ExtraTreesRegressor")


def _means(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the sum over the trees of what their leaves say, divided by their number."""
    grown = getattr(model, "estimators_", [model])
    ensemble = forest.read(grown, model.n_features_in_)
    return write_sums(builder, ensemble, builder.matrix(frame, "float32"), divided=len(grown))


@writes("predict", *_REGRESSORS)
def predict_numbers(builder: Builder, model: Any, frame: Frame) -> Value:
    return _means(builder, model, frame)


@writes("predict_proba", *_CLASSIFIERS)
def vote(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the mean of the fractions of classes in the leaves; for several outputs, those of each side by side."""
    return builder.concat(_by_output(builder, model, frame))


def _by_output(builder: Builder, model: Any, frame: Frame) -> list[Value]:
    found: list[Value] = builder.remember((id(model), "votes", frame), lambda: _split(builder, model, frame))
    return found


def _split(builder: Builder, model: Any, frame: Frame) -> list[Value]:
    means = _means(builder, model, frame)
    if model.n_outputs_ == 1:
        return [means]
    counts = [len(classes) for classes in model.classes_]
    largest = means.width // len(counts)
    return [builder.take(means, range(k * largest, k * largest + count)) for k, count in enumerate(counts)]


@writes("predict", *_CLASSIFIERS)
def elect(builder: Builder, model: Any, frame: Frame) -> Value:
    votes = _by_output(builder, model, frame)
    classes = [model.classes_] if model.n_outputs_ == 1 else model.classes_
    return builder.concat(
        [
            write_labels(builder, own, position_of_largest(builder, each))
            for own, each in zip(classes, votes, strict=True)
        ]
    )


@writes("transform", "RandomTreesEmbedding")
def embed(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write 1 for the leaf of every tree, in the columns that the encoder has for it; a leaf it never saw has none."""
    numpy = importlib.import_module("numpy")
    ensemble = forest.read(model.estimators_, model.n_features_in_)
    known = model.one_hot_encoder_.categories_
    starts = numpy.concatenate([[0], numpy.cumsum([len(own) for own in known])])
    targets, weights = [], []
    for tree, own, start in zip(ensemble.trees, known, starts, strict=False):
        leaves = numpy.flatnonzero(tree.leaf)
        seen = numpy.isin(leaves, own)
        targets.append(numpy.where(seen, start + numpy.searchsorted(own, leaves).clip(0, len(own) - 1), 0))
        weights.append(seen.astype("float32"))
    joined = numpy.concatenate(targets), numpy.concatenate(weights)
    matrix = builder.matrix(frame, "float32")
    return builder.cast(write_trees(builder, ensemble, matrix, *joined, int(starts[-1])), "float64")


# -- isolation


@writes("score_samples", "IsolationForest")
def isolate(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write `-2 ** -(depth / expected depth)`; the library has 1 for the quotient where nothing is expected."""
    found = importlib.import_module("sklearn.ensemble._iforest")
    ensemble = forest.read_isolation(model)
    expected = float(found._average_path_length([model._max_samples])[0]) * len(model.estimators_)
    depths = write_sums(builder, ensemble, builder.matrix(frame, "float32"))
    quotient = builder.div(depths, expected) if expected else builder.spread(depths, [1.0])
    base = builder.spread(quotient, [2.0])
    return builder.unary("Neg", builder.binary("Pow", base, builder.unary("Neg", quotient)))


@writes("decision_function", "IsolationForest")
def isolation_margin(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.sub(emit(builder, model, "score_samples", frame), float(model.offset_))


@writes("predict", "IsolationForest")
def isolated(builder: Builder, model: Any, frame: Frame) -> Value:
    """Say -1 below zero, else 1."""
    margin = emit(builder, model, "decision_function", frame)
    return builder.look_up([1, -1], builder.cast(builder.binary("Less", margin, 0.0), "int64"))


# -- boosting

_BOOSTED = ("GradientBoosting", "HistGradientBoosting")
_BOOSTED_CLASSIFIERS = tuple(f"{name}Classifier" for name in _BOOSTED)
_BOOSTED_REGRESSORS = tuple(f"{name}Regressor" for name in _BOOSTED)


def _raw(builder: Builder, model: Any, frame: Frame) -> Value:
    found: Value = builder.remember((id(model), "raw", frame), lambda: _write_raw(builder, model, frame))
    return found


def _write_raw(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the sum of a boosted model, in the space of its link."""
    if hasattr(model, "_predictors"):
        return write_sums(builder, histogram.read(model), _encoded(builder, model, frame))
    ensemble, matrix = forest.read_stages(model), builder.matrix(frame, "float32")
    start = _start(builder, model, matrix)
    if isinstance(start, Value):
        return write_sums(builder, ensemble, matrix, start)
    return write_sums(builder, replace(ensemble, base=start), matrix)


def _start(builder: Builder, model: Any, matrix: Value) -> Value | list[float]:
    """Return what gradient boosting starts from: constants, or what another model says."""
    numpy = importlib.import_module("numpy")
    if isinstance(model.init_, str) or type(model.init_).__module__ == "sklearn.dummy":
        return [float(item) for item in model._raw_predict_init(numpy.zeros((1, matrix.width), "float32")).ravel()]
    if not importlib.import_module("sklearn.base").is_classifier(model):
        found = emit(builder, model.init_, "predict", Frame((matrix,)))
        return builder.cast(found, "float64")
    found = builder.cast(emit(builder, model.init_, "predict_proba", Frame((matrix,))), "float64")
    least = _least_probability(model)
    found = builder.binary("Min", builder.binary("Max", found, least), 1 - least)
    return _link(builder, model, found)


def _link(builder: Builder, model: Any, probabilities: Value) -> Value:
    """Return the scores that probabilities stand for."""
    if model._loss.is_multiclass:
        logs = builder.unary("Log", probabilities)
        return builder.sub(logs, builder.reduce("ReduceMean", logs))
    yes = builder.take(probabilities, [1])
    scores = builder.unary("Log", builder.div(yes, builder.sub(1.0, yes)))
    return builder.mul(scores, 0.5) if _is_half(model) else scores


def _is_half(model: Any) -> bool:
    link = getattr(model._loss, "link", None)  # losses before 1.4 have none
    return type(link or model._loss).__name__ in ("HalfLogitLink", "ExponentialLoss")


def _least_probability(model: Any) -> float:
    """Return how far from zero the installed scikit-learn keeps the probabilities of the model it starts from."""
    numpy, module = importlib.import_module("numpy"), importlib.import_module("sklearn.ensemble._gb")
    count = 3 if model._loss.is_multiclass else 2

    class Impossible:
        def predict_proba(self, rows: Any) -> Any:
            return numpy.eye(count)[[count - 1] * len(rows)]

    raw = module._init_raw_predictions(numpy.zeros((1, 1)), Impossible(), model._loss, True)
    spread = numpy.ptp(raw) if count == 3 else abs(float(raw[0, 0])) * (2 if _is_half(model) else 1)
    return float(
        min(
            (float(numpy.finfo(kind).eps) for kind in ("float32", "float64")),
            key=lambda least: abs(numpy.log((1 - least) / least) - spread),
        )
    )


def _encoded(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the input of histogram boosting: columns of categories first, as their positions among the known ones."""
    chosen = getattr(model, "is_categorical_", None)
    if chosen is None:
        return builder.matrix(frame, "float64")
    encoder = model._preprocessor.named_transformers_["encoder"] if model._preprocessor is not None else None
    if encoder is None:
        refuse(model, "has categories of a kind that has no ONNX form here", "fit it with scikit-learn 1.4 or newer")
    fitted = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if frame.names and set(fitted) <= set(frame.names):
        frame = builder.select(frame, [list(frame.names).index(name) for name in fitted])
    positions = chosen.nonzero()[0].tolist()
    first = [
        categories.write_codes(builder, builder.column(frame, position), list(known))
        for position, known in zip(positions, encoder.categories_, strict=True)
    ]
    rest = builder.select(frame, (~chosen).nonzero()[0].tolist())
    return builder.concat([*first, *([builder.matrix(rest, "float64")] if rest.width else [])])


@writes("decision_function", *_BOOSTED_CLASSIFIERS)
def boosted_scores(builder: Builder, model: Any, frame: Frame) -> Value:
    return _raw(builder, model, frame)


@writes("predict_proba", *_BOOSTED_CLASSIFIERS)
def boosted_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    raw = _raw(builder, model, frame)
    if raw.width > 1:
        return Value(builder.node("Softmax", [raw.name], axis=1), raw.dtype, raw.width)
    return both_sides(builder, builder.unary("Sigmoid", builder.mul(raw, 2.0) if _is_half(model) else raw))


@writes("predict", *_BOOSTED_CLASSIFIERS)
def boosted_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the largest; between two classes gradient boosting says yes at zero, histogram boosting says no."""
    raw = _raw(builder, model, frame)
    inclusive = not hasattr(model, "_predictors")
    position = (
        position_above(builder, raw, inclusive=inclusive) if raw.width == 1 else position_of_largest(builder, raw)
    )
    return write_labels(builder, model.classes_, position)


@writes("predict", *_BOOSTED_REGRESSORS)
def boosted_number(builder: Builder, model: Any, frame: Frame) -> Value:
    raw = _raw(builder, model, frame)
    stated = getattr(model._loss, "link", None) if hasattr(model, "_predictors") else None
    link = type(stated).__name__ if stated is not None else "IdentityLink"  # losses before 1.4 have none
    if link not in ("IdentityLink", "LogLink"):
        refuse(model, f"has a loss with the link `{link}`, which has no ONNX form here")
    return builder.unary("Exp", raw) if link == "LogLink" else raw


def ensemble_of(model: Any) -> Ensemble | None:
    """Return the trees that belong to an estimator of scikit-learn itself, for callers that need their splits."""
    if hasattr(model, "_predictors"):
        return histogram.read(model)
    if hasattr(model, "tree_"):
        return forest.read([model], model.n_features_in_)
    return None
