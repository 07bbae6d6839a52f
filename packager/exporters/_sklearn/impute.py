# SPDX-License-Identifier: Apache-2.0
"""Imputers: missing values are found by column and type, and filled with the fitted values.

In a column of text, the empty string stands for a missing value that is `None` or NaN.
"""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import emit, refuse, writes
from packager.exporters._sklearn.algebra import pick, smallest
from packager.exporters._sklearn.builder import FLOATS, Builder, Frame, Value
from packager.exporters._sklearn.encoders import is_missing
from packager.exporters._sklearn.numeric import bounded

_MOST_TIES = 0.01  # of rows, for which neighbours are ambiguous


def missing_in(builder: Builder, block: Value, mark: Any) -> Value:
    """Say of every element whether it is missing; `mark` is the estimator's `missing_values`."""
    if block.dtype == "string":
        keys = [""] if is_missing(mark) else [str(mark)] if isinstance(mark, str) else []
        return builder.binary("Equal", builder.code_of(block, keys), 0)
    if is_missing(mark) and block.dtype in FLOATS:
        return builder.unary("IsNaN", block)
    if is_missing(mark) or isinstance(mark, str):
        return builder.cast(builder.spread(block, [0] * block.width, "int64"), "bool")
    exact = block.dtype in FLOATS or float(mark).is_integer()
    return builder.binary("Equal", block if exact else builder.cast(block, "float64"), mark)


def _positions(blocks: tuple[Value, ...]) -> list[range]:
    starts = [sum(block.width for block in blocks[:index]) for index in range(len(blocks))]
    return [range(start, start + block.width) for start, block in zip(starts, blocks, strict=True)]


@writes("transform", "SimpleImputer")
def fill_simply(builder: Builder, model: Any, frame: Frame) -> Frame:
    blocks = _typed(builder, model, frame)
    made = []
    for block, positions in zip(blocks, _positions(blocks), strict=True):
        fills = [model.statistics_[position] for position in positions]
        kept = [index for index, fill in enumerate(fills) if model.keep_empty_features or not is_missing(fill)]
        if kept:
            mask = builder.take(missing_in(builder, block, model.missing_values), kept)
            made.append(_filled(builder, builder.take(block, kept), mask, [fills[index] for index in kept]))
    return _with_indicator(builder, model, tuple(made), blocks)


def _typed(builder: Builder, model: Any, frame: Frame) -> tuple[Value, ...]:
    """Return the matrix that the imputer makes of a frame; beside text, numbers keep their types."""
    kinds = set(frame.dtypes)
    if "string" in kinds:
        return frame.blocks
    whole = not kinds & set(FLOATS) and model.strategy in ("most_frequent", "constant")
    return (builder.matrix(frame, "int64") if whole else builder.matrix(frame),)


def _filled(builder: Builder, block: Value, mask: Value, fills: list[Any]) -> Value:
    numpy = importlib.import_module("numpy")
    if block.dtype == "bool":  # `Where` has no kernel for it
        return builder.cast(_filled(builder, builder.cast(block, "int64"), mask, fills), "bool")
    if block.dtype == "string":
        texts = ["" if is_missing(fill) else str(fill) for fill in fills]
        return builder.where(mask, Value(builder.constant([texts], "string"), "string", len(texts)), block)
    numbers = numpy.array([numpy.nan if fill is None else fill for fill in fills], dtype="float64")
    if block.dtype not in FLOATS:
        numbers = numpy.array([0 if is_missing(fill) else int(fill) for fill in fills])
    return builder.where(mask, numbers, block)


def _with_indicator(builder: Builder, model: Any, made: tuple[Value, ...], given: tuple[Value, ...]) -> Frame:
    """Put the indicator of missing values behind the columns, in their type where that is a number."""
    if model.add_indicator and getattr(model, "indicator_", None) is not None:
        mask = _indicator(builder, model.indicator_, given)
        kind = made[-1].dtype if made and made[-1].dtype != "string" else "bool"
        made = (*made, builder.cast(mask, kind)) if mask else made
    if not made:
        refuse(model, "makes no columns")
    return Frame((builder.concat(made),) if len({block.dtype for block in made}) == 1 else made)


def _indicator(builder: Builder, model: Any, blocks: tuple[Value, ...]) -> Value | None:
    mask = builder.concat([missing_in(builder, block, model.missing_values) for block in blocks])
    positions = range(mask.width) if model.features == "all" else [int(position) for position in model.features_]
    return builder.take(mask, positions) if len(positions) else None


@writes("transform", "MissingIndicator")
def indicate_missing(builder: Builder, model: Any, frame: Frame) -> Value:
    found = _indicator(builder, model, frame.blocks)
    return found if found is not None else refuse(model, "makes no columns")


@writes("transform", "IterativeImputer")
def fill_in_rounds(builder: Builder, model: Any, frame: Frame) -> Frame:
    """Predict every missing column from the others, round by round, with the estimators of each round."""
    if model.sample_posterior:
        refuse(model, "draws what it fills in at random (`sample_posterior`)", hint="use `sample_posterior=False`")
    given = builder.matrix(frame)
    filled = emit(builder, model.initial_imputer_, "transform", Frame((given,)))
    empty = getattr(model, "_is_empty_feature", None)
    kept = [position for position in range(given.width) if empty is None or not empty[position]]
    if model.keep_empty_features:
        kept = list(range(given.width))
    mask = builder.take(missing_in(builder, given, model.missing_values), kept)
    columns = [builder.take(filled, [position]) for position in range(filled.width)]
    for step in model.imputation_sequence_ if model.n_iter_ else ():
        if empty is None or not (model.keep_empty_features and empty[kept[step.feat_idx]]):
            columns[step.feat_idx] = _predicted(builder, model, step, columns, mask)
    found = builder.where(_all(builder, mask), filled, builder.concat(columns))
    return _with_indicator(builder, model, (found,), (given,))


def _all(builder: Builder, mask: Value) -> Value:
    """Say whether every element of a whole batch is true; scikit-learn predicts nothing from a batch of nothing."""
    least = builder.node("ReduceMin", [builder.cast(mask, "int32").name], keepdims=1)
    return builder.binary("Equal", Value(least, "int32", 1), 1)


def _predicted(builder: Builder, model: Any, step: Any, columns: list[Value], mask: Value) -> Value:
    position = int(step.feat_idx)
    others = Frame((builder.concat([columns[index] for index in step.neighbor_feat_idx]),))
    found = emit(builder, step.estimator, "predict", others)
    found = builder.cast(found, columns[position].dtype)
    found = bounded(builder, found, float(model._min_value[position]), float(model._max_value[position]))
    return builder.where(builder.take(mask, [position]), found, columns[position])


@writes("transform", "KNNImputer")
def fill_from_neighbours(builder: Builder, model: Any, frame: Frame) -> Frame:
    """Fill every missing value with the mean of the nearest fitted rows that have one; with none near, of all rows."""
    if model.metric != "nan_euclidean" or callable(model.weights):
        refuse(model, "measures or weighs neighbours with a custom function")
    if _share_of_ties(model) > _MOST_TIES:
        refuse(
            model,
            "picks among equally near rows by how the processor sorts them, which no graph repeats",
            hint="use another imputer for columns of few different values",
        )
    given = builder.matrix(frame)
    wide = builder.cast(given, "float64")
    mask = missing_in(builder, wide, model.missing_values)
    distance = _distances(builder, model, wide, mask)
    made = []
    for position in range(given.width):
        column = builder.take(given, [position])
        if model._valid_mask[position]:
            value = builder.cast(_from_donors(builder, model, distance, position), given.dtype)
            made.append(builder.where(builder.take(mask, [position]), value, column))
        elif model.keep_empty_features:
            made.append(builder.spread(column, [0], given.dtype))
    return _with_indicator(builder, model, (builder.concat(made),), (given,))


def _share_of_ties(model: Any) -> float:
    """Return for how many of the first fitted rows the last neighbour is as near as the next one."""
    metrics = importlib.import_module("sklearn.metrics.pairwise")
    numpy, rows = importlib.import_module("numpy"), model._fit_X
    away = metrics.nan_euclidean_distances(rows[:200], rows, missing_values=model.missing_values)
    nearest = numpy.sort(away, axis=1)[:, 1:]  # without the row itself
    count = int(model.n_neighbors)
    if nearest.shape[1] <= count:
        return 0.0
    return float(numpy.isclose(nearest[:, count - 1], nearest[:, count], rtol=1e-12, atol=0).mean())


def _distances(builder: Builder, model: Any, given: Value, mask: Value) -> Value:
    """Return squared distances to the fitted rows over what both have, scaled to all columns; NaN where nothing is."""
    numpy = importlib.import_module("numpy")
    have = (~model._mask_fit_X).astype("float64")
    fitted = numpy.where(model._mask_fit_X, 0.0, model._fit_X).astype("float64")
    own = builder.sub(1.0, builder.cast(mask, "float64"))
    values = builder.where(mask, 0.0, given)
    squares = builder.mul(values, values)
    found = builder.mul(builder.matmul(values, fitted.T), -2.0)
    found = builder.add(builder.add(found, builder.reduce("ReduceSum", squares)), (fitted * fitted).sum(axis=1))
    found = builder.sub(bounded(builder, found, 0.0), builder.matmul(squares, 1.0 - have.T))
    found = builder.sub(found, builder.matmul(builder.cast(mask, "float64"), (fitted * fitted).T))
    shared = builder.matmul(own, have.T)
    scaled = builder.mul(builder.div(bounded(builder, found, 0.0), shared), float(fitted.shape[1]))
    return builder.where(builder.binary("Equal", shared, 0.0), float("nan"), scaled)


def _from_donors(builder: Builder, model: Any, distance: Value, position: int) -> Value:
    numpy = importlib.import_module("numpy")
    donors = numpy.flatnonzero(~model._mask_fit_X[:, position])
    values = model._fit_X[donors, position].astype("float64")
    near = builder.take(distance, donors.tolist())
    none = builder.unary("IsNaN", near)
    near = builder.where(none, float("inf"), near)
    count = min(int(model.n_neighbors), len(donors))
    size, chosen = smallest(builder, near, count)
    weight = _weights(builder, model, size)
    flat = pick(builder, values, chosen)
    total = builder.reduce("ReduceSum", weight)
    mean = builder.div(builder.reduce("ReduceSum", builder.mul(weight, flat)), total)
    usual = float(
        numpy.ma.array(model._fit_X[:, position], mask=model._mask_fit_X[:, position]).mean()
    )  # to the last bit
    return builder.where(builder.binary("Equal", total, 0.0), usual, mean)


def _weights(builder: Builder, model: Any, size: Value) -> Value:
    """Return the weight of every neighbour: none for one that shares no column, all for those at distance zero."""
    counted = builder.cast(builder.unary("Not", builder.unary("IsInf", size)), "float64")
    if model.weights == "uniform":
        return counted
    same = builder.cast(builder.binary("Equal", size, 0.0), "float64")
    some = builder.binary("Greater", builder.reduce("ReduceSum", same), 0.0)
    return builder.where(some, same, builder.div(1.0, builder.unary("Sqrt", size)))
