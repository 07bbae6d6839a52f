# SPDX-License-Identifier: Apache-2.0
"""Boosted trees of four libraries in one form: trees, the constants they start from, and the link behind the sum.

For boosters that are a step inside a scikit-learn pipeline; a booster alone goes through `onnxmltools`. What is read
here decides exactly as the library: XGBoost's `x < t` on float32 is `x <= t'` for the float32 before `t`, LightGBM's
missing values that count as zero go where zero goes. Sums are binary64 here; XGBoost's are float32, so its
probabilities differ in the last digits of a float32, and its labels where a sum is that close to zero.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError

_ZERO = 1.0000000180025095e-35  # kZeroThreshold of LightGBM, a float32: what is closer to zero is read as zero
_CATEGORY, _LEFT, _MISSING_ZERO, _MISSING_NAN = 1, 2, 4, 8  # bits of LightGBM's `decision_type`
_EXPONENTIAL = ("poisson", "gamma", "tweedie")
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_XGB_IDENTITY = ("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror")
_ALONE = "use an objective for classes or numbers, or export the booster by itself"


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: arrays over its nodes, and for each node the numbers of its leaf by target, already weighted.

    `missing` says that a missing value goes left. A tree of boosting adds to one target only: the one named `target`.
    """

    leaf: Any
    feature: Any
    threshold: Any
    left: Any
    right: Any
    missing: Any
    values: Any
    target: int = 0


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trees in the order in which they are added up to `base`; `link` turns the sum into the answer.

    `rounded` says that the library sees its input as float32.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    link: str  # identity, exp, logistic or softmax
    rounded: bool


def classes() -> dict[str, tuple[type, ...]]:
    """Return the classes of the scikit-learn interfaces that are loaded here, by what they answer with.

    A library that nobody imported made no step of the model at hand.
    """
    modules = importlib.import_module("sys").modules
    found: dict[str, tuple[type, ...]] = {"classes": (), "numbers": ()}
    for name, prefix in (("xgboost", "XGB"), ("xgboost", "XGBRF"), ("lightgbm", "LGBM")):
        library = modules.get(name)
        if library is not None:
            found["classes"] += (getattr(library, f"{prefix}Classifier"),)
            found["numbers"] += (getattr(library, f"{prefix}Regressor"),)
    return found


def is_foreign(model: Any) -> bool:
    """Say whether a fitted model is a booster of XGBoost or LightGBM."""
    return type(model).__module__.partition(".")[0] in ("xgboost", "lightgbm") and hasattr(model, "get_params")


def read(model: Any) -> Ensemble:
    """Return the trees of a fitted `XGB…` or `LGBM…` model. Raises StepError for what has no ONNX form."""
    return _xgboost(model) if type(model).__module__.startswith("xgboost") else _lightgbm(model)


# -- XGBoost


def _xgboost(model: Any) -> Ensemble:
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    booster = booster if best is None else booster[: int(best) + 1]
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    if not _is_nan(getattr(model, "missing", math.nan)):
        raise StepError(
            f"the booster takes {model.missing} for missing, which no ONNX node does", hint="train with `missing=nan`"
        )
    if learner["gradient_booster"]["name"] != "gbtree":
        raise StepError(
            f"the booster is `{learner['gradient_booster']['name']}`, which has no ONNX form here", hint=_ALONE
        )
    forest = learner["gradient_booster"]["model"]
    groups = max(int(learner["learner_model_param"]["num_class"]), 1)
    objective = str(learner["objective"]["name"])
    if learner["learner_model_param"].get("num_target", "1") != "1":
        raise StepError("the booster answers several questions at once, which has no ONNX form here", hint="split it")
    trees = [_xgb_tree(tree, target) for tree, target in zip(forest["trees"], forest["tree_info"], strict=True)]
    base = _xgb_base(learner["learner_model_param"]["base_score"], groups)
    return Ensemble(trees, [_margin(value, objective) for value in base], _xgb_link(objective), rounded=True)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _xgb_base(text: str, groups: int) -> list[float]:
    """Return the score to start from by group; XGBoost 3 writes a list."""
    values = [float(part) for part in text.strip("[]").split(",")]
    return values * groups if len(values) == 1 else values


def _xgb_link(objective: str) -> str:
    links = {"binary:logistic": "logistic", "reg:logistic": "logistic", "multi:softprob": "softmax",
             "multi:softmax": "softmax", "count:poisson": "exp", "reg:gamma": "exp", "reg:tweedie": "exp"}  # fmt: skip
    found = "identity" if objective in _XGB_IDENTITY else links.get(objective)
    if found is None:
        raise StepError(f"the objective `{objective}` has no ONNX form here", hint=_ALONE)
    return found


def _margin(score: float, objective: str) -> float:
    """Return the sum that a starting score stands for."""
    link = _xgb_link(objective)
    if link == "logistic":
        return -math.log(1 / score - 1)
    return math.log(score) if link == "exp" else score


def _xgb_tree(tree: Mapping[str, JSON], target: int) -> Tree:
    numpy = importlib.import_module("numpy")
    if any(tree.get("split_type", ())):
        raise StepError("the booster splits on categories, which has no ONNX form here", hint="encode them as numbers")
    left = numpy.array(tree["left_children"], "int64")
    leaf = left == -1
    stated = numpy.array(tree["split_conditions"], "float32")
    below = numpy.nextafter(stated, numpy.float32(-numpy.inf)).astype("float64")
    values = numpy.where(leaf, stated.astype("float64"), 0.0).reshape(-1, 1)
    missing = numpy.array(tree["default_left"], "int64").astype(bool)
    feature, right = numpy.array(tree["split_indices"], "int64"), numpy.array(tree["right_children"], "int64")
    return Tree(leaf, feature, below, left, right, missing, values, int(target))


# -- LightGBM


def _lightgbm(model: Any) -> Ensemble:
    text = model.booster_.model_to_string()
    if re.search(r"^is_linear=1$", text, re.MULTILINE):
        raise StepError("the booster has linear models in its leaves, which have no ONNX form", hint=_ALONE)
    head, *blocks = re.split(r"(?m)^(?=Tree=\d+$)", text)
    per_round = int(_field(head, "num_tree_per_iteration"))
    share = per_round / len(blocks) if "\naverage_output\n" in head else 1.0
    trees = [_lgb_tree(block, number % per_round, share) for number, block in enumerate(blocks)]
    return Ensemble(trees, [0.0] * per_round, _lgb_link(_field(head, "objective")), rounded=False)


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def _lgb_link(stated: str) -> str:
    name, *options = stated.split() or ["custom"]
    scale = next((option.partition(":")[2] for option in options if option.startswith("sigmoid:")), "1")
    if name == "binary" and float(scale) == 1.0:
        return "logistic"
    links = {"multiclass": "softmax", **dict.fromkeys(_EXPONENTIAL, "exp"), **dict.fromkeys(_IDENTITY, "identity")}
    if name not in links or "sqrt" in options:
        raise StepError(f"the objective `{stated}` has no ONNX form here", hint=_ALONE)
    return links[name]


def _lgb_tree(block: str, target: int, share: float) -> Tree:
    """Return a tree whose leaves are numbered behind its splits; in the text, leaf j is the child ~j."""
    numpy = importlib.import_module("numpy")
    weights = [float(value) * share for value in _field(block, "leaf_value").split()]
    splits = len(weights) - 1

    def numbers(name: str, kind: str) -> Any:
        return numpy.array(_field(block, name).split()[:splits], "float64").astype(kind)

    def children(name: str) -> Any:
        stated = numbers(name, "int64")
        return _padded(numpy.where(stated < 0, splits + ~stated, stated), len(weights), -1)

    ruled = [
        _rule(t, int(k))
        for t, k in zip(numbers("threshold", "float64"), numbers("decision_type", "int64"), strict=True)
    ]
    values = numpy.array([0.0] * splits + weights).reshape(-1, 1)
    return Tree(
        leaf=numpy.arange(splits + len(weights)) >= splits,
        feature=_padded(numbers("split_feature", "int64"), len(weights), 0),
        threshold=_padded(numpy.array([threshold for threshold, _ in ruled], "float64"), len(weights), 0.0),
        left=children("left_child"),
        right=children("right_child"),
        missing=_padded(numpy.array([left for _, left in ruled], bool), len(weights), False),
        values=values,
        target=target,
    )  # fmt: skip


def _padded(values: Any, more: int, fill: Any) -> Any:
    numpy = importlib.import_module("numpy")
    return numpy.concatenate([values, numpy.full(more, fill, dtype=values.dtype)])


def _rule(threshold: float, kind: int) -> tuple[float, bool]:
    """Return the threshold of a split on binary64, and whether a missing value goes left there."""
    if kind & _CATEGORY:
        raise StepError("the booster splits on categories, which has no ONNX form here", hint="encode them as numbers")
    if kind & _MISSING_ZERO:
        raise StepError("the booster takes zeros for missing values, which no ONNX node does", hint=_ALONE)
    if abs(threshold) <= _ZERO:
        threshold = _ZERO if threshold >= 0 else math.nextafter(-_ZERO, -math.inf)
    return threshold, bool(kind & _LEFT) if kind & _MISSING_NAN else threshold >= 0
