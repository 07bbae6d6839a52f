# SPDX-License-Identifier: Apache-2.0
"""Labels inside graphs: the class of a column of scores, of one output or several."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from packager.exporters._sklearn import emit, label_values, position_above, position_of_largest, refuse, write_labels
from packager.exporters._sklearn.builder import Builder, Frame, Value


def label_of_largest(builder: Builder, classes: Any, scores: Value) -> Value:
    """Return the class whose score is the first largest."""
    return write_labels(builder, classes, position_of_largest(builder, scores))


def label_by_sign(builder: Builder, classes: Any, scores: Value) -> Value:
    """Return the second class where the one score is above zero; with several scores, the class of the largest."""
    position = position_above(builder, scores) if scores.width == 1 else position_of_largest(builder, scores)
    return write_labels(builder, classes, position)


def inside_or_outside(builder: Builder, scores: Value, *, inclusive: bool = True) -> Value:
    """Return 1 (inlier) where the score reaches zero, else -1."""
    yes = position_above(builder, scores, inclusive=inclusive)
    return builder.sub(builder.mul(yes, 2), 1)


def is_multi_output(model: Any) -> bool:
    """Say whether a classifier has a list of classes per output."""
    return isinstance(getattr(model, "classes_", None), list)


def side_by_side(builder: Builder, model: Any, labels: Sequence[Value]) -> Value:
    """Return the labels of several outputs as one matrix; refuse labels of unlike types."""
    if len({value.dtype for value in labels}) > 1:
        refuse(model, "has outputs with labels of unlike types, which one matrix cannot hold")
    return builder.concat(labels)


def label_outputs(builder: Builder, model: Any, scores: Sequence[Value]) -> Value:
    """Return for every output the class of the largest score."""
    found = [label_of_largest(builder, known, own) for known, own in zip(model.classes_, scores, strict=True)]
    return side_by_side(builder, model, found)


def split_outputs(builder: Builder, model: Any, matrix: Value) -> list[Value]:
    """Split probabilities that stand side by side by output."""
    found, start = [], 0
    for known in model.classes_:
        found.append(builder.take(matrix, list(range(start, start + len(known)))))
        start += len(known)
    return found


def indicators(builder: Builder, labels: Value, classes: Any) -> Value:
    """Return 1.0 in the column of the class that a label is, else 0.0."""
    numpy = importlib.import_module("numpy")
    known = label_values(classes)
    if labels.dtype == "string":
        labels, known = builder.code_of(labels, known.tolist()), numpy.arange(len(known))
    found = builder.binary("Equal", labels, known.astype(labels.dtype))
    return builder.cast(found, "float64")


def scores_for_two(builder: Builder, model: Any, frame: Frame, methods: Sequence[str]) -> Value:
    """Return the score of the last class between two, by the first method that the estimator has.

    The columns of all classes where there are more of them.
    """
    method = first_method(model, methods)
    found = emit(builder, model, method, frame)
    if method == "predict_proba" and len(getattr(model, "classes_", ())) == 2:
        return builder.take(found, [1])
    return builder.cast(found, "float64") if method == "predict" else found


def first_method(model: Any, methods: Sequence[str]) -> str:
    """Return the first of some methods that an estimator has."""
    for method in methods:
        if hasattr(model, method):
            return method
    return refuse(model, "has none of the methods " + ", ".join(f"`{method}`" for method in methods))
