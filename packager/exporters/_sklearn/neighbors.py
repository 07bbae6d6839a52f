# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours: finding them, and combining their answers.

Of points at the very same distance the first in the table, or in the leaves of a tree, counts as nearer. The library's
search keeps whichever its heap happens to: `critical.tied_rows` finds such rows.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from packager.exporters._sklearn import emit, label_values, refuse, writes
from packager.exporters._sklearn.algebra import (
    numbers,
    pick,
    products,
    smallest,
    square,
    total,
)
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.cluster import nearest
from packager.exporters._sklearn.discriminant import decide_between, likelihoods
from packager.exporters._sklearn.labels import (
    inside_or_outside,
    is_multi_output,
    label_of_largest,
    label_outputs,
    side_by_side,
    split_outputs,
)
from packager.exporters._sklearn.metrics import Distances, distances


def _to_fitted(builder: Builder, model: Any, frame: Frame, order: Any = slice(None)) -> Distances:
    """Return the distances to the rows a model was fitted on, in an order."""
    if model.metric == "precomputed":
        refuse(model, "takes precomputed distances, which has no ONNX form")
    points = model._fit_X.toarray() if hasattr(model._fit_X, "toarray") else model._fit_X
    how = dict(model.effective_metric_params_ or {})
    brute = model._fit_method == "brute"
    return distances(
        builder, model, numbers(builder, frame), points[order], model.effective_metric_, by_product=brute or None, **how
    )


def neighbours(builder: Builder, model: Any, frame: Frame, count: int) -> tuple[Value, Value]:
    """Return the distances of the nearest rows, ascending, and their positions."""

    def make() -> tuple[Value, Value]:
        order = _order(model)
        found = _to_fitted(builder, model, frame, order)
        raised, positions = smallest(builder, found.raised, count)
        return found.plain(builder, raised), pick(builder, order, positions)

    pair: tuple[Value, Value] = builder.remember((id(model), "neighbours", count, frame), make)
    return pair


def _order(model: Any) -> Any:
    """Return the fitted rows in the order in which a search meets them: by the leaves of its tree."""
    numpy = importlib.import_module("numpy")
    if model._tree is None:
        return numpy.arange(model.n_samples_fit_)
    return numpy.asarray(model._tree.get_arrays()[1]).astype("int64")


def _weighed(builder: Builder, model: Any, far: Value) -> Value | None:
    """Return the weights of neighbours by their distance; None where all are one.

    A neighbour at no distance outweighs all others.
    """
    if model.weights in (None, "uniform"):
        return None
    if model.weights != "distance":
        refuse(model, "weighs neighbours by a custom function", hint="use `weights='distance'` or `'uniform'`")
    same = builder.binary("Equal", far, 0.0)
    ones = builder.cast(same, "float64")
    any_same = builder.binary("Greater", builder.reduce("ReduceMax", ones), 0.0)
    return builder.where(any_same, ones, builder.div(1.0, builder.where(same, 1.0, far)))


def _outputs(model: Any) -> list[Any]:
    """Return the encoded classes or targets by output, each one per fitted row."""
    numpy = importlib.import_module("numpy")
    known = numpy.asarray(model._y)
    return list(known.reshape(len(known), -1).T)


# -- a number of neighbours


def _votes(builder: Builder, model: Any, frame: Frame) -> list[Value]:
    """Return for every output the votes for each class, added from the nearest neighbour on."""
    numpy = importlib.import_module("numpy")
    far, positions = neighbours(builder, model, frame, model.n_neighbors)
    weights = _weighed(builder, model, far)
    known = model.classes_ if is_multi_output(model) else [model.classes_]
    found = []
    for encoded, classes in zip(_outputs(model), known, strict=True):
        own, parts = pick(builder, encoded.astype("int64"), positions), []
        for index in range(positions.width):
            says = builder.binary("Equal", builder.take(own, [index]), numpy.arange(len(classes)))
            part = builder.cast(says, "float64")
            parts.append(part if weights is None else builder.mul(part, builder.take(weights, [index])))
        found.append(total(builder, parts))
    return found


@writes("predict_proba", "KNeighborsClassifier")
def predict_shares(builder: Builder, model: Any, frame: Frame) -> Value:
    votes = _votes(builder, model, frame)
    return builder.concat([builder.div(own, builder.reduce("ReduceSum", own)) for own in votes])


@writes("predict", "KNeighborsClassifier")
def predict_majority(builder: Builder, model: Any, frame: Frame) -> Value:
    votes = _votes(builder, model, frame)
    if is_multi_output(model):
        return label_outputs(builder, model, votes)
    return label_of_largest(builder, model.classes_, votes[0])


@writes("predict", "KNeighborsRegressor")
def predict_mean(builder: Builder, model: Any, frame: Frame) -> Value:
    far, positions = neighbours(builder, model, frame, model.n_neighbors)
    weights, found = _weighed(builder, model, far), []
    for targets in _outputs(model):
        own = pick(builder, targets.astype("float64"), positions)
        if weights is None:
            found.append(builder.div(builder.reduce("ReduceSum", own), float(positions.width)))
        else:
            whole = builder.reduce("ReduceSum", weights)
            found.append(builder.div(builder.reduce("ReduceSum", builder.mul(own, weights)), whole))
    return builder.concat(found)


# -- neighbours within a radius


def _within(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the weight of every fitted row: nought beyond the radius."""
    found = _to_fitted(builder, model, frame)
    reached = builder.binary("LessOrEqual", found.raised, float(model.radius) ** found.power)
    inside = builder.cast(reached, "float64")
    if model.weights in (None, "uniform"):
        return inside
    far = builder.where(reached, found.plain(builder), math.inf)
    weights = _weighed(builder, model, far)
    return builder.mul(weights, inside) if weights is not None else inside


@writes("predict", "RadiusNeighborsRegressor")
def predict_mean_within(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the mean of the targets within the radius, NaN where there are none."""
    numpy = importlib.import_module("numpy")
    weights = _within(builder, model, frame)
    sums = builder.matmul(weights, numpy.stack(_outputs(model), axis=1).astype("float64"))
    return builder.div(sums, builder.reduce("ReduceSum", weights))


def _shares_within(builder: Builder, model: Any, frame: Frame) -> list[Value]:
    numpy = importlib.import_module("numpy")
    weights, found = _within(builder, model, frame), []
    known = model.classes_ if is_multi_output(model) else [model.classes_]
    for index, (encoded, classes) in enumerate(zip(_outputs(model), known, strict=True)):
        votes = builder.matmul(weights, (encoded[:, None] == numpy.arange(len(classes))).astype("float64"))
        sums = builder.reduce("ReduceSum", votes)
        alone = builder.binary("Equal", sums, 0.0)
        shares = builder.div(votes, builder.where(alone, 1.0, sums))
        found.append(builder.where(alone, _outlier_shares(numpy, model, classes, index), shares))
    return found


def _outlier_shares(numpy: Any, model: Any, classes: Any, output: int) -> Any:
    """Return the shares of a row without neighbours; NaN where the library raises an error."""
    if model.outlier_label_ is None:
        return numpy.full(len(classes), numpy.nan)
    return (numpy.asarray(classes) == model.outlier_label_[output]).astype("float64")


@writes("predict_proba", "RadiusNeighborsClassifier")
def predict_shares_within(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.concat(_shares_within(builder, model, frame))


@writes("predict", "RadiusNeighborsClassifier")
def predict_majority_within(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the class with the largest share; a row without neighbours gets the label for outliers."""
    if model.outlier_label_ is None:
        refuse(
            model,
            "raises an error for a row without neighbours, which a graph cannot",
            hint="fit it with `outlier_label='most_frequent'` or a label",
        )
    numpy = importlib.import_module("numpy")
    shares = (
        split_outputs(builder, model, emit(builder, model, "predict_proba", frame))
        if is_multi_output(model)
        else [emit(builder, model, "predict_proba", frame)]
    )
    known = model.classes_ if is_multi_output(model) else [model.classes_]
    found = []
    for index, (own, classes) in enumerate(zip(shares, known, strict=True)):
        labels = label_of_largest(builder, classes, own)
        if model.outlier_label_ is not None:
            outlier = label_values(numpy.array([model.outlier_label_[index]], dtype=numpy.asarray(classes).dtype))
            nowhere = builder.binary("Equal", builder.reduce("ReduceMax", own), 0.0)
            labels = builder.where(nowhere, builder.spread(labels, outlier, labels.dtype), labels)
        found.append(labels)
    return side_by_side(builder, model, found)


# -- outliers, densities, centroids

_DENSEST = 1e7  # of a local density; 1e10 is what equal rows have


@writes("score_samples", "LocalOutlierFactor")
def score_density(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the negative mean of the neighbours' reachability density over one's own."""
    if not model.novelty:
        refuse(model, "has no answer for new rows unless fitted with `novelty=True`", hint="fit it with `novelty=True`")
    if float(model._lrd.max()) > _DENSEST:
        refuse(
            model,
            "was fitted on rows of which more are equal than it has neighbours: densities there are rounding",
            hint="raise `n_neighbors`, or drop duplicates before it is fitted",
        )
    count = int(model.n_neighbors_)
    far, positions = neighbours(builder, model, frame, count)
    reach = builder.binary(
        "Max", far, pick(builder, model._distances_fit_X_[:, count - 1].astype("float64"), positions)
    )
    own = builder.div(1.0, builder.add(builder.reduce("ReduceMean", reach), 1e-10))
    ratios = builder.div(pick(builder, model._lrd.astype("float64"), positions), own)
    return builder.unary("Neg", builder.reduce("ReduceMean", ratios))


@writes("decision_function", "LocalOutlierFactor")
def decide_density(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.sub(emit(builder, model, "score_samples", frame), float(model.offset_))


@writes("predict", "LocalOutlierFactor")
def predict_density(builder: Builder, model: Any, frame: Frame) -> Value:
    return inside_or_outside(builder, emit(builder, model, "decision_function", frame))


@writes("transform", "NeighborhoodComponentsAnalysis")
def project(builder: Builder, model: Any, frame: Frame) -> Value:
    return products(builder, numbers(builder, frame), model.components_)


@writes("decision_function", "NearestCentroid")
def decide_centroid(builder: Builder, model: Any, frame: Frame) -> Value:
    return decide_between(builder, _centroid_scores(builder, model, frame))


@writes("predict_proba", "NearestCentroid")
def centroid_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    return likelihoods(builder, _centroid_scores(builder, model, frame))


def _centroid_scores(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the negative squares of distances in units of the spread within classes, and the prior."""
    numpy = importlib.import_module("numpy")
    scale = numpy.where(model.within_class_std_dev_ != 0, model.within_class_std_dev_, 1.0)
    given = builder.div(numbers(builder, frame), scale)
    found = distances(builder, model, given, model.centroids_ / scale, model.metric)
    squares = found.raised if found.power == 2.0 else square(builder, found.plain(builder))
    return builder.add(builder.unary("Neg", squares), 2.0 * numpy.log(model.class_prior_))


@writes("predict", "NearestCentroid")
def predict_centroid(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the nearest centroid, or with unlike priors the class that scores highest."""
    numpy = importlib.import_module("numpy")
    prior = getattr(model, "class_prior_", None)
    if prior is not None and not numpy.isclose(prior, 1 / len(model.classes_)).all():
        return label_of_largest(builder, model.classes_, _centroid_scores(builder, model, frame))
    given = numbers(builder, frame)
    if model.metric == "euclidean":
        return builder.look_up(label_values(model.classes_), nearest(builder, given, model.centroids_))
    found = distances(builder, model, given, model.centroids_, model.metric)
    return builder.look_up(label_values(model.classes_), builder.position_of("ArgMin", found.raised))
