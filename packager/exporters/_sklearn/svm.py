# SPDX-License-Identifier: Apache-2.0
"""Support vector machines: kernels against the support vectors, votes of pairs, and the coupling of pairs."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import emit, position_of_largest, refuse, write_labels, writes
from packager.exporters._sklearn.algebra import (
    clip,
    expit,
    numbers,
    power,
    products,
    square,
    squared_distances,
)
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import inside_or_outside, label_of_largest

_CLASSIFIERS = ("SVC", "NuSVC")
_LEAST = 1e-7  # libsvm keeps the probabilities of pairs this far from 0 and 1


def _dense(array: Any) -> Any:
    return array.toarray() if hasattr(array, "toarray") else array


def _kernel(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the kernel of every row with every support vector."""
    if callable(model.kernel) or model.kernel == "precomputed":
        kind = "a custom kernel" if callable(model.kernel) else "a precomputed kernel"
        refuse(model, f"uses {kind}, which has no ONNX form", hint="use one of the kernels that have a name")
    found, vectors = numbers(builder, frame), _dense(model.support_vectors_)
    if model.kernel == "rbf":
        return builder.unary("Exp", builder.mul(squared_distances(builder, found, vectors), -float(model._gamma)))
    if model.kernel == "linear":
        return products(builder, found, vectors)
    inner = builder.add(builder.mul(products(builder, found, vectors), float(model._gamma)), float(model.coef0))
    return power(builder, inner, int(model.degree)) if model.kernel == "poly" else builder.unary("Tanh", inner)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(count) for other in range(one + 1, count)]


def _weights(model: Any) -> Any:
    """Return the weight of every support vector [vectors, pairs] in the decision between two classes."""
    numpy = importlib.import_module("numpy")
    dual = _dense(model._dual_coef_)
    ends = numpy.cumsum(model._n_support)
    owner = numpy.repeat(numpy.arange(len(ends)), model._n_support)
    columns = [
        numpy.where(owner == one, dual[other - 1], numpy.where(owner == other, dual[one], 0.0))
        for one, other in _pairs(len(ends))
    ]
    return numpy.stack(columns, axis=1)


def _pair_decisions(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return libsvm's decision for every pair of classes: above zero for the first of the two."""

    def make() -> Value:
        return builder.add(builder.matmul(_kernel(builder, model, frame), _weights(model)), model._intercept_)

    found: Value = builder.remember((id(model), "pairs", frame), make)
    return found


@writes("decision_function", *_CLASSIFIERS)
def decide(builder: Builder, model: Any, frame: Frame) -> Value:
    pairs = builder.unary("Neg", _pair_decisions(builder, model, frame))
    if len(model.classes_) == 2:
        return pairs
    if model.decision_function_shape == "ovr":
        second = builder.cast(builder.binary("Greater", pairs, 0.0), "float64")
        return votes_and_confidence(builder, builder.sub(1.0, second), second, pairs, len(model.classes_))
    return builder.unary("Neg", pairs)


def votes_and_confidence(builder: Builder, first: Value, second: Value, confidences: Value, count: int) -> Value:
    """Return votes of pairs by class, plus the sum of confidences squeezed below a third.

    `first` and `second` are 1.0 where that class of a pair wins, and `confidences` is above zero for the second.
    """
    numpy = importlib.import_module("numpy")
    one, other = (
        numpy.array([[float(pair[side] == index) for index in range(count)] for pair in _pairs(count)])
        for side in (0, 1)
    )
    votes = builder.add(builder.matmul(first, one), builder.matmul(second, other))
    sums = builder.matmul(confidences, other - one)
    scale = builder.mul(builder.add(builder.unary("Abs", sums), 1.0), 3.0)
    return builder.add(votes, builder.div(sums, scale))


@writes("predict", *_CLASSIFIERS)
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the class with most votes of pairs, the first of equals; `break_ties` uses the decision function."""
    count = len(model.classes_)
    if count > 2 and model.break_ties and model.decision_function_shape == "ovr":
        return label_of_largest(builder, model.classes_, emit(builder, model, "decision_function", frame))
    numpy = importlib.import_module("numpy")
    first = builder.cast(builder.binary("Greater", _pair_decisions(builder, model, frame), 0.0), "float64")
    gain = numpy.array([[float(i == one) - (i == other) for i in range(count)] for one, other in _pairs(count)])
    base = numpy.array([float(index) for index in range(count)])  # votes of pairs whose first class loses all
    return write_labels(
        builder, model.classes_, position_of_largest(builder, builder.add(builder.matmul(first, gain), base))
    )


@writes("predict_proba", *_CLASSIFIERS)
def couple_pairs(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write Platt's logistic of every pair, and libsvm's iteration that makes probabilities of classes of them."""
    if not len(model._probA):
        refuse(model, "was fitted without `probability=True`")
    pairs = _pair_decisions(builder, model, frame)
    line = builder.add(builder.mul(pairs, model._probA), model._probB)
    chances = clip(builder, expit(builder, builder.unary("Neg", line)), _LEAST, 1 - _LEAST)
    return _coupled(builder, chances, len(model.classes_))


def _coupled(builder: Builder, chances: Value, count: int) -> Value:
    """Minimise Wu, Lin and Weng's second form, coordinate by coordinate, until libsvm stops."""
    numpy = importlib.import_module("numpy")
    rows = _coupling_rows(builder, chances, count)
    diagonals = [builder.take(row, [index]) for index, row in enumerate(rows)]
    start = builder.spread(chances, [1.0 / count] * count)

    def step(state: Value) -> tuple[Value, Value]:
        products = builder.concat([builder.reduce("ReduceSum", builder.mul(row, state)) for row in rows])
        whole = builder.reduce("ReduceSum", builder.mul(state, products))
        error = builder.reduce("ReduceMax", builder.unary("Abs", builder.sub(products, whole)))
        going = builder.binary("GreaterOrEqual", error, 0.005 / count)
        for index, (row, diagonal) in enumerate(zip(rows, diagonals, strict=True)):
            own = builder.take(products, [index])
            change = builder.div(builder.sub(whole, own), diagonal)
            more = builder.add(change, 1.0)
            gain = builder.mul(change, builder.add(builder.mul(change, diagonal), builder.mul(own, 2.0)))
            whole = builder.div(builder.div(builder.add(whole, gain), more), more)
            products = builder.div(builder.add(products, builder.mul(change, row)), more)
            here = numpy.arange(count) == index
            state = builder.div(builder.add(state, builder.mul(change, here.astype("float64"))), more)
        return state, going

    return builder.repeat(max(100, count), start, step)


def _coupling_rows(builder: Builder, chances: Value, count: int) -> list[Value]:
    """Return the rows of the quadratic form, each [batch, classes]."""
    numpy = importlib.import_module("numpy")
    positions = {pair: index for index, pair in enumerate(_pairs(count))}
    known = builder.concat([chances, builder.sub(1.0, chances), builder.mul(builder.take(chances, [0]), 0.0)])
    zero = 2 * len(positions)

    def position(one: int, other: int) -> int:
        if one == other:
            return zero
        return positions[one, other] if one < other else len(positions) + positions[other, one]

    rows = []
    for index in range(count):
        against = builder.take(known, [position(other, index) for other in range(count)])
        chosen = builder.take(known, [position(index, other) for other in range(count)])
        squares = builder.reduce("ReduceSum", square(builder, against))
        here = (numpy.arange(count) == index).astype("float64")
        rows.append(builder.sub(builder.mul(squares, here), builder.mul(against, chosen)))
    return rows


@writes("predict", "SVR", "NuSVR")
@writes("decision_function", "OneClassSVM")
def sum_kernels(builder: Builder, model: Any, frame: Frame) -> Value:
    weights = _dense(model._dual_coef_).reshape(-1, 1)
    if not len(weights):  # every target within epsilon: no row supports anything, and the answer is a constant
        return builder.spread(builder.matrix(frame, "float64"), model._intercept_)
    return builder.add(builder.matmul(_kernel(builder, model, frame), weights), model._intercept_)


@writes("score_samples", "OneClassSVM")
def score_samples(builder: Builder, model: Any, frame: Frame) -> Value:
    return builder.add(emit(builder, model, "decision_function", frame), model.offset_)


@writes("predict", "OneClassSVM")
def predict_inside(builder: Builder, model: Any, frame: Frame) -> Value:
    return inside_or_outside(builder, emit(builder, model, "decision_function", frame), inclusive=False)
