# SPDX-License-Identifier: Apache-2.0
"""Boosters of LightGBM, read from their text form: all in binary64, as the library computes.

What it takes for a category is the whole part of a number, a negative or missing one is in no set. Numbers closer to
zero than a float32 of 1e-35 are read as zero. A missing value is NaN, or zero, or counts as zero, by column.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._trees.categories import write_codes
from packager.exporters._trees.ensemble import Columns, Ensemble, Tree, Voided
from packager.exporters._trees.write import add_up, write_leaves, write_sums

ZERO = 1.0000000180025095e-35  # kZeroThreshold, a float32
CLASSES = ("binary", "multiclass", "multiclassova")
_CATEGORY, _LEFT, _MISSING_ZERO, _MISSING_NAN = 1, 2, 4, 8  # bits of `decision_type`
_ABOVE_MINUS_ONE = math.nextafter(-1.0, 0.0)  # the lowest number whose whole part is a category
_MOST_COEFFICIENTS = 1 << 25
_EXPONENTIAL = ("poisson", "gamma", "tweedie")
_IDENTITY = (
    "custom",
    "regression",
    "regression_l1",
    "huber",
    "fair",
    "quantile",
    "mape",
    "lambdarank",
    "rank_xendcg",
)


@dataclass(frozen=True, slots=True)
class Model:
    """A booster: its trees, the objective with its options, and the pandas categories of columns by their position.

    `averaged` is the number by which sums are divided (a random forest's rounds, else 1); `linear` holds what the
    models in the leaves multiply, by tree.
    """

    ensemble: Ensemble
    objective: str
    options: Mapping[str, str]
    averaged: int
    categories: Mapping[int, Sequence[JSON]]
    linear: Sequence[Linear] = ()


@dataclass(frozen=True, slots=True)
class Linear:
    """The models in the leaves of a tree: a constant, and columns and coefficients, by leaf."""

    constants: Sequence[float]
    features: Sequence[Sequence[int]]
    coefficients: Sequence[Sequence[float]]


def read(booster: Any) -> Model:
    """Return a booster with the rounds that its `predict` uses. Raises StepError for what has no ONNX form."""
    head, *blocks = re.split(r"(?m)^(?=Tree=\d+$)", booster.model_to_string())
    tail = blocks[-1] if blocks else head
    columns = Columns(int(_field(head, "max_feature_idx")) + 1)
    per_round = int(_field(head, "num_tree_per_iteration"))
    trees = [_tree(block, number % per_round, columns) for number, block in enumerate(blocks)]
    objective, *options = _field(head, "objective").split() or ["custom"]
    ensemble = Ensemble(trees, [0.0] * per_round, columns, compared="float64", lowest_code=_ABOVE_MINUS_ONE, zero=ZERO)
    return Model(
        ensemble,
        objective,
        {name: value for name, _, value in (option.partition(":") for option in options)},
        len(blocks) // per_round if "\naverage_output\n" in head else 1,
        _categories(booster, tail),
        [_linear(block) for block in blocks] if re.search(r"^is_linear=1$", tail, re.MULTILINE) else (),
    )


def _categories(booster: Any, tail: str) -> dict[int, Sequence[JSON]]:
    """Return the pandas categories of columns: those stated as categorical, in their order."""
    lists = booster.pandas_categorical or []
    stated = re.search(r"^\[categorical_feature: ([\d,]*)\]$", tail, re.MULTILINE)
    positions = sorted(int(part) for part in stated[1].split(",") if part) if stated else []
    if len(lists) not in (0, len(positions)):
        raise StepError(
            f"{len(positions)} columns of the model are categorical, and it has the categories of {len(lists)} columns "
            "of a data frame, so that nothing says which is which",
            hint="train with `categorical_feature='auto'`, or turn those columns into codes before the model",
        )
    return dict(zip(positions, lists, strict=False))


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


# -- one tree


def _tree(block: str, target: int, columns: Columns) -> Tree:
    """Return a tree whose leaves are numbered behind its splits; in the text, leaf j is the child ~j."""
    numpy = importlib.import_module("numpy")
    weights = [float(value) for value in _field(block, "leaf_value").split()]
    splits = len(weights) - 1

    def numbers(name: str) -> Any:
        return numpy.array(_field(block, name).split()[:splits], "float64")

    def children(name: str) -> Any:
        stated = numbers(name).astype("int64")
        return _padded(numpy.where(stated < 0, splits + ~stated, stated), len(weights), -1)

    sets = _sets(block)
    rules = [
        _rule(columns, sets, int(feature), threshold, int(kind))
        for feature, threshold, kind in zip(
            numbers("split_feature").tolist(),
            numbers("threshold").tolist(),
            numbers("decision_type").tolist(),
            strict=True,
        )
    ]
    return Tree(
        leaf=numpy.arange(splits + len(weights)) >= splits,
        column=_padded(numpy.array([rule[0] for rule in rules], "int64"), len(weights), 0),
        threshold=_padded(numpy.array([rule[1] for rule in rules], "float64"), len(weights), 0.0),
        left=children("left_child"),
        right=children("right_child"),
        missing=_padded(numpy.array([rule[2] for rule in rules], bool), len(weights), False),
        values=numpy.array([0.0] * splits + weights).reshape(-1, 1),
        target=target,
    )


def _padded(values: Any, more: int, fill: Any) -> Any:
    numpy = importlib.import_module("numpy")
    return numpy.concatenate([values, numpy.full(more, fill, dtype=values.dtype)])


def _sets(block: str) -> list[frozenset[int]]:
    """Return the sets of categories of a tree: bits in words of 32, and where the words of each begin."""
    borders = [int(part) for part in _field(block, "cat_boundaries").split()]
    words = [int(part) for part in _field(block, "cat_threshold").split()]
    return [
        frozenset(
            32 * position + bit
            for position, word in enumerate(words[first:last])
            for bit in range(32)
            if word >> bit & 1
        )
        for first, last in itertools.pairwise(borders)
    ]


def _rule(
    columns: Columns, sets: Sequence[frozenset[int]], feature: int, threshold: float, kind: int
) -> tuple[int, float, bool]:
    """Return the column of a split, its threshold, and whether a missing value goes left."""
    if kind & _CATEGORY:
        return columns.member(feature, sets[int(threshold)]), 0.5, False
    left = bool(kind & _LEFT)
    if kind & _MISSING_ZERO:
        return columns.position(Voided(feature)), threshold, left
    if abs(threshold) <= ZERO:
        threshold = ZERO if threshold >= 0 else math.nextafter(-ZERO, -math.inf)
    return feature, threshold, left if kind & _MISSING_NAN else threshold >= 0


def _linear(block: str) -> Linear:
    coefficients = iter([float(part) for part in _field(block, "leaf_coeff").split()])
    features = iter([int(part) for part in _field(block, "leaf_features").split()])
    counts = [int(part) for part in _field(block, "num_features").split()]
    constants = [float(part) for part in _field(block, "leaf_const").split()]
    return Linear(
        constants,
        [[next(features) for _ in range(count)] for count in counts],
        [[next(coefficients) for _ in range(count)] for count in counts],
    )


# -- writing


def write_prediction(builder: Builder, model: Model, frame: Frame) -> Value:
    """Write what `Booster.predict` answers to a data frame, or to a matrix where the frame has no names."""
    raw = write_raw(builder, model, frame)
    return _answer(builder, model, raw if model.averaged == 1 else builder.div(raw, float(model.averaged)))


def write_raw(builder: Builder, model: Model, frame: Frame) -> Value:
    """Write the sum of the trees [batch, outputs]; LightGBM's raw scores of a random forest are no averages."""
    matrix = _matrix(builder, model, frame)
    if any(linear.coefficients for linear in model.linear):
        return _linear_sums(builder, model, matrix)
    return write_sums(builder, model.ensemble, matrix)


def _matrix(builder: Builder, model: Model, frame: Frame) -> Value:
    """Return the input in binary64, categories as codes; a matrix of integers goes through float32, as there."""
    through = "float32" if not frame.names and not set(frame.dtypes) & {"float32", "float64"} else "float64"
    columns = []
    for position, column in enumerate(builder.columns(frame)) if model.categories else enumerate(frame.blocks):
        known = model.categories.get(position)
        plain = known is None or not model.categories
        columns.append(
            builder.cast(builder.cast(column, through), "float64")
            if plain
            else write_codes(builder, column, known or ())
        )
    return builder.concat(columns)


def _answer(builder: Builder, model: Model, raw: Value) -> Value:
    """Write what the objective makes of the sums."""
    name = model.objective
    if name in _IDENTITY:
        return _unrooted(builder, raw) if "sqrt" in model.options else raw
    if name in _EXPONENTIAL:
        return builder.unary("Exp", raw)
    if name == "multiclass":
        return Value(builder.node("Softmax", [raw.name], axis=1), raw.dtype, raw.width)
    if name in ("binary", "multiclassova"):
        return _sigmoid(builder, builder.mul(raw, float(model.options.get("sigmoid", "1"))))
    if name == "cross_entropy":
        return _sigmoid(builder, raw)
    if name == "cross_entropy_lambda":
        return _log1p(builder, builder.unary("Exp", raw))
    raise StepError(
        f"the objective `{name}` of LightGBM has no ONNX form here", hint="use an objective for classes or numbers"
    )


def _unrooted(builder: Builder, raw: Value) -> Value:
    """Square with the sign kept: `reg_sqrt` trains on square roots."""
    return builder.mul(builder.unary("Sign", raw), builder.mul(raw, raw))


def _log1p(builder: Builder, value: Value) -> Value:
    """Write the logarithm of one more, to the last digits of small numbers."""
    more = builder.add(1.0, value)
    scaled = builder.mul(builder.unary("Log", more), builder.div(value, builder.sub(more, 1.0)))
    return builder.where(builder.binary("Equal", more, 1.0), value, scaled)


def _sigmoid(builder: Builder, raw: Value) -> Value:
    return builder.div(1.0, builder.add(1.0, builder.unary("Exp", builder.unary("Neg", raw))))


def _linear_sums(builder: Builder, model: Model, matrix: Value) -> Value:
    """Write sums of the models in the leaves; one that needs a missing value is replaced by its leaf's number."""
    numpy = importlib.import_module("numpy")
    leaves = write_leaves(builder, model.ensemble, matrix)
    used = sorted({feature for linear in model.linear for own in linear.features for feature in own})
    coefficients, needed, constants = _coefficients(model, used)
    columns = builder.take(matrix, used)
    absent = builder.cast(builder.unary("IsNaN", columns), "float64")
    terms = builder.add(_gathered(builder, constants, leaves), _over(builder, coefficients, needed, leaves, columns))
    lacking = builder.binary("Greater", _over(builder, needed.astype("float64"), needed, leaves, absent), 0.5)
    plain = numpy.concatenate([tree.values[tree.leaf] for tree in model.ensemble.trees]).reshape(-1)
    terms = builder.where(lacking, _gathered(builder, plain, leaves), terms)
    return add_up(builder, terms, model.ensemble.outputs)


def _coefficients(model: Model, used: Sequence[int]) -> tuple[Any, Any, Any]:
    """Return the coefficients of all leaves [leaves, used columns], where there is one, and the constants."""
    numpy = importlib.import_module("numpy")
    leaves = [leaf for linear in model.linear for leaf in zip(linear.features, linear.coefficients, strict=True)]
    if len(leaves) * len(used) > _MOST_COEFFICIENTS:
        raise StepError(
            f"the linear leaves of the model have {len(leaves)} x {len(used)} coefficients, expected at most "
            f"{_MOST_COEFFICIENTS}",
            hint="train fewer trees, or plain leaves (`linear_tree=False`)",
        )
    table, positions = (
        numpy.zeros((len(leaves), len(used))),
        {feature: position for position, feature in enumerate(used)},
    )
    needed = numpy.zeros(table.shape, bool)
    for row, (features, coefficients) in enumerate(leaves):
        own = [positions[feature] for feature in features]
        table[row, own], needed[row, own] = coefficients, True
    return table, needed, numpy.concatenate([linear.constants for linear in model.linear])


def _gathered(builder: Builder, numbers: Any, leaves: Value) -> Value:
    made = builder.node("Gather", [builder.constant(numbers, "float64"), leaves.name], axis=0)
    return Value(made, "float64", leaves.width)


def _over(builder: Builder, table: Any, needed: Any, leaves: Value, columns: Value) -> Value:
    """Return for every tree the columns times the leaf's row of a table, added where the leaf needs the column."""
    rows, chosen = (builder.node("Gather", [builder.constant(each), leaves.name], axis=0) for each in (table, needed))
    beside = builder.node("Reshape", [columns.name, builder.constant([0, 1, columns.width], "int64")])
    products = builder.node("Mul", [rows, beside])
    kept = builder.node("Where", [chosen, products, builder.constant([0.0], "float64")])
    running = builder.node("CumSum", [kept, builder.constant([2], "int64")])
    last = builder.node("Gather", [running, builder.constant([columns.width - 1], "int64")], axis=2)
    flat = builder.node("Reshape", [last, builder.constant([0, leaves.width], "int64")])
    return Value(flat, "float64", leaves.width)
