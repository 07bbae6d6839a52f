# SPDX-License-Identifier: Apache-2.0
"""Boosters of XGBoost, read from their JSON form: all in float32, in the order of the trees, as the library computes.

A category is the whole part of a number from 0 on; what is in no set, known or not, goes left. Since 3.1 a booster
that was trained on a data frame holds the values of its categories, before that only their codes.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._trees.categories import write_codes
from packager.exporters._trees.ensemble import Columns, Ensemble, Tree, reachable, step_below
from packager.exporters._trees.write import add_up, write_sums

LOGISTIC = ("binary:logistic", "reg:logistic")
SOFTMAX = ("multi:softprob", "multi:softmax")
_EXPONENTIAL = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")
_IDENTITY = (
    "reg:squarederror",
    "reg:linear",
    "reg:squaredlogerror",
    "reg:pseudohubererror",
    "reg:absoluteerror",
    "reg:quantileerror",
    "reg:expectileerror",
    "binary:logitraw",
    "rank:pairwise",
    "rank:ndcg",
    "rank:map",
)
_LARGEST = 88.7  # its logistic function goes no further down
_HINT = "train with an objective that XGBoost itself offers"


@dataclass(frozen=True, slots=True)
class Model:
    """A booster: its trees or, of a linear one, its weights [columns, outputs] behind `ensemble.base`.

    `categories` holds by position the values of columns with some, `coded` the columns whose codes alone are known;
    `missing` is what stands for a missing value besides NaN.
    """

    ensemble: Ensemble
    objective: str
    names: Sequence[str] = ()
    categories: Mapping[int, Sequence[JSON]] = field(default_factory=dict)
    coded: Sequence[int] = ()
    weights: Any = None
    missing: float = math.nan


def read(booster: Any, *, best: bool = False, missing: Any = math.nan) -> Model:
    """Return a booster; with `best` only the rounds up to the best one. Raises StepError for what has no ONNX form."""
    learner = _stated(booster)
    kind, stated, objective = learner["gradient_booster"], learner["learner_model_param"], learner["objective"]["name"]
    outputs = max(int(stated["num_class"]), int(stated.get("num_target", "1")), 1)
    base = _base(stated["base_score"], objective, outputs)
    model = Model(
        Ensemble([], base, Columns(int(stated["num_feature"])), added="float32"),
        objective,
        learner.get("feature_names", ()),
        missing=_missing(missing),
    )
    if kind["name"] == "gblinear":
        return replace(
            model, ensemble=replace(model.ensemble, base=_constants(booster, outputs)), weights=_weights(kind, outputs)
        )
    forest = (kind["gbtree"] if kind["name"] == "dart" else kind)["model"]
    rounds = int(learner.get("attributes", {}).get("best_iteration", -1)) if best else -1
    count = _grown(forest, outputs, rounds) if rounds >= 0 else len(forest["trees"])
    scales = kind.get("weight_drop") or [1.0] * count
    trees = [
        _tree(forest["trees"][position], int(forest["tree_info"][position]), scales[position], model.ensemble.columns)
        for position in range(count)
    ]
    known = _known(forest.get("cats") or {})
    coded = [
        position
        for position, name in enumerate(learner.get("feature_types", ()))
        if name == "c" and position not in known
    ]
    return replace(model, ensemble=replace(model.ensemble, trees=trees), categories=known, coded=coded)


def _stated(booster: Any) -> Mapping[str, Any]:
    """Return what XGBoost writes of a booster as JSON; every version since 1.0 writes files, not all give bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        booster.save_model(str(path))
        found: Mapping[str, Any] = json.loads(path.read_bytes())["learner"]
        return found


def _grown(forest: Mapping[str, Any], outputs: int, last: int) -> int:
    """Return how many trees the rounds up to `last` have; before 2.0 all rounds have as many."""
    if "iteration_indptr" in forest:
        return int(forest["iteration_indptr"][last + 1])
    return (last + 1) * outputs * max(int(forest["gbtree_model_param"].get("num_parallel_tree", "1")), 1)


def _missing(value: Any) -> float:
    return math.nan if value is None else float(value)


def _base(text: str, objective: str, outputs: int) -> list[float]:
    """Return the sum that every output starts from; the file holds what it stands for, XGBoost 3 by output."""
    scores = [float(part) for part in text.strip("[]").split(",")]
    margins = [_margin(score, objective) for score in scores]
    return margins * outputs if len(margins) == 1 else margins


def _margin(score: float, objective: str) -> float:
    numpy = importlib.import_module("numpy")
    if objective in LOGISTIC:
        odds = numpy.float32(1) / numpy.float32(score) - numpy.float32(1)
        return float(numpy.float32(-math.log(odds)))
    return float(numpy.float32(math.log(numpy.float32(score)))) if objective in _EXPONENTIAL else score


def _weights(kind: Mapping[str, Any], outputs: int) -> Any:
    """Return the weights of a linear booster [columns, outputs] without the constants behind them."""
    return importlib.import_module("numpy").array(kind["model"]["weights"], "float32").reshape(-1, outputs)[:-1]


def _constants(booster: Any, outputs: int) -> list[float]:
    """Return what a linear booster says of a row in which all is missing."""
    numpy, lib = importlib.import_module("numpy"), importlib.import_module("xgboost")
    nothing = lib.DMatrix(numpy.full((1, booster.num_features()), numpy.nan, "float32"), nthread=1)
    said = booster.predict(nothing, output_margin=True, validate_features=False)
    return [float(value) for value in said.reshape(outputs)]


def _known(stored: Mapping[str, Any]) -> dict[int, list[JSON]]:
    """Return the values of categories by column: numbers, or texts as bytes between offsets."""
    found: dict[int, list[JSON]] = {}
    for position, entry in enumerate(stored.get("enc", ())):
        borders, values = entry.get("offsets"), entry.get("values", [])
        found[position] = values if borders is None else _texts(borders, values)
    return {position: values for position, values in found.items() if values}


def _texts(borders: Sequence[int], values: Sequence[int]) -> list[JSON]:
    if any(value < 0 or value > 127 for value in values):
        raise StepError(
            "the model has categories that are not ASCII, which XGBoost cuts at the wrong bytes in its file, so that "
            "rows of theirs are refused or taken for another category",
            hint="name the categories in ASCII, or turn them into codes before the model",
        )
    data = bytes(values)
    return [data[first:last].decode() for first, last in itertools.pairwise(borders)]


# -- one tree


def _tree(stated: Mapping[str, Any], target: int, scale: float, columns: Columns) -> Tree:
    numpy = importlib.import_module("numpy")
    left, right = (numpy.array(stated[f"{side}_children"], "int64") for side in ("left", "right"))
    column, missing = numpy.array(stated["split_indices"], "int64"), numpy.array(stated["default_left"], "int64") == 1
    conditions = numpy.array(stated["split_conditions"], "float32")
    threshold, leaf = step_below(conditions).astype("float64"), left == -1
    values = _values(stated, leaf, conditions, right) * numpy.float32(scale)
    for node, codes in _sets(stated):
        column[node], threshold[node] = columns.member(int(column[node]), codes), 0.5
        left[node], right[node], missing[node] = right[node], left[node], not missing[node]
    found = Tree(leaf, column, threshold, left, right, missing, values, target)
    return reachable(found) if int(stated["tree_param"].get("num_deleted", "0")) else found


def _values(stated: Mapping[str, Any], leaf: Any, conditions: Any, right: Any) -> Any:
    """Return the numbers of leaves [nodes, width]: several outputs lie apart, by leaf, or before 3.1 by node."""
    numpy = importlib.import_module("numpy")
    width = int(stated["tree_param"]["size_leaf_vector"])
    if width <= 1:
        return conditions.reshape(-1, 1)
    if "leaf_weights" not in stated:
        return numpy.array(stated["base_weights"], "float32").reshape(-1, width)
    apart = numpy.array(stated["leaf_weights"], "float32").reshape(-1, width)
    return apart[numpy.where(leaf, right, 0)]


def _sets(stated: Mapping[str, Any]) -> list[tuple[int, frozenset[int]]]:
    """Return the splits on categories: a node, and what goes right there."""
    pieces = zip(
        stated.get("categories_nodes", ()),
        stated.get("categories_segments", ()),
        stated.get("categories_sizes", ()),
        strict=True,
    )
    return [(node, frozenset(stated["categories"][first : first + size])) for node, first, size in pieces]


# -- writing


def write_prediction(builder: Builder, model: Model, frame: Frame) -> Value:
    """Write what `Booster.predict` answers, with probabilities where it names the class."""
    return answer(builder, model.objective, write_raw(builder, model, frame))


def write_raw(builder: Builder, model: Model, frame: Frame) -> Value:
    """Write the sums [batch, outputs] in float32."""
    matrix = _matrix(builder, model, frame)
    if model.weights is None:
        return write_sums(builder, model.ensemble, matrix)
    outputs = model.ensemble.outputs
    given = builder.where(builder.unary("IsNaN", matrix), 0.0, matrix)
    beside = builder.node("Reshape", [given.name, builder.constant([0, given.width, 1], "int64")])
    terms = builder.node("Mul", [beside, builder.constant(model.weights, "float32")])
    start = builder.spread(matrix, model.ensemble.base, "float32")
    return add_up(builder, Value(terms, "float32", given.width * outputs), outputs, start)


def _matrix(builder: Builder, model: Model, frame: Frame) -> Value:
    """Return the input in float32, every column cast by itself, categories as codes, what is missing as NaN."""
    if model.categories:
        columns = [
            write_codes(builder, column, model.categories[position], "float32")
            if position in model.categories
            else builder.cast(column, "float32")
            for position, column in enumerate(builder.columns(frame))
        ]
    else:
        columns = [builder.cast(block, "float32") for block in frame.blocks]
    found = builder.concat(columns)
    if math.isnan(model.missing):
        return found
    return builder.where(builder.binary("Equal", found, model.missing), math.nan, found)


def answer(builder: Builder, objective: str, raw: Value) -> Value:
    """Write what an objective makes of the sums. Raises StepError for one that is not known."""
    if objective in LOGISTIC:
        most = builder.binary("Min", builder.unary("Neg", raw), _LARGEST)
        return builder.div(1.0, builder.add(_exp(builder, most), 1.0))
    if objective in SOFTMAX:
        powers = _exp(builder, builder.sub(raw, builder.reduce("ReduceMax", raw)))
        total = builder.reduce("ReduceSum", builder.cast(powers, "float64"))
        return builder.div(powers, builder.cast(total, "float32"))
    if objective in _EXPONENTIAL:
        return _exp(builder, raw)
    if objective == "binary:hinge":
        return builder.cast(builder.binary("Greater", raw, 0.0), "float32")
    if objective in _IDENTITY:
        return raw
    raise StepError(f"the objective `{objective}` of XGBoost has no ONNX form here", hint=_HINT)


def _exp(builder: Builder, value: Value) -> Value:
    """Write a power as the C library rounds it to float32; runtimes have faster ones that are off in the last digit."""
    return builder.cast(builder.unary("Exp", builder.cast(value, "float64")), "float32")
