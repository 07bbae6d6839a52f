# SPDX-License-Identifier: Apache-2.0
"""Boosters of other libraries in scikit-learn's interface: steps of pipelines, members of ensembles."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
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
from packager.exporters._tables import nested as _text
from packager.exporters._trees import catboost, lightgbm, xgboost


def _lightgbm(builder: Builder, model: Any) -> lightgbm.Model:
    """Return the booster behind a model, read once for all methods."""
    found: lightgbm.Model = builder.remember((id(model), "booster"), lambda: lightgbm.read(model.booster_))
    return found


@writes("predict", "LGBMRegressor", "LGBMRanker")
def lightgbm_number(builder: Builder, model: Any, frame: Frame) -> Value:
    return lightgbm.write_prediction(builder, _lightgbm(builder, model), frame)


@writes("predict_proba", "LGBMClassifier")
def lightgbm_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write what the objective says of the classes; of two, the booster only says the second."""
    if callable(model.objective_):
        refuse(model, "has a custom objective, which gives no probabilities", "use an objective of LightGBM's")
    found = lightgbm.write_prediction(builder, _lightgbm(builder, model), frame)
    return found if model.n_classes_ > 2 else both_sides(builder, found)


@writes("decision_function", "LGBMClassifier")
def lightgbm_scores(builder: Builder, model: Any, frame: Frame) -> Value:
    return lightgbm.write_raw(builder, _lightgbm(builder, model), frame)


@writes("predict", "LGBMClassifier")
def lightgbm_label(builder: Builder, model: Any, frame: Frame) -> Value:
    scores = emit(builder, model, "predict_proba", frame)
    return write_labels(builder, model.classes_, position_of_largest(builder, scores))


def category_columns(model: Any) -> dict[str, list[Any]]:
    """Return the columns of a data frame that boosters inside an estimator know as categories, and those they know."""
    found: dict[str, list[Any]] = {}
    for part in _boosters(model):
        package = type(part).__module__.partition(".")[0]
        if package == "lightgbm":
            own: Any = lightgbm.read(part.booster_)
            names = part.booster_.feature_name()
        else:
            own = xgboost.read(part.get_booster())
            names = own.names
        found |= {str(names[position]): list(known) for position, known in own.categories.items()}
    return found


def known_categories(model: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return rows without the categories that XGBoost does not know: it takes them for the next larger one it does."""
    numpy = importlib.import_module("numpy")
    found = dict(feeds)
    if not any(type(part).__module__.startswith("xgboost") for part in _boosters(model)):
        return found
    for name, known in category_columns(model).items():
        if name in found:
            values = numpy.array(known, found[name].dtype)
            other = ~numpy.isin(found[name], values)
            found[name] = found[name].copy()
            found[name][other] = numpy.resize(values, int(other.sum()))
    return found


def _boosters(model: Any) -> Iterator[Any]:
    """Yield the fitted boosters of LightGBM and XGBoost inside an estimator, those of calibrations included."""
    for part in _text.inner_estimators(model):
        for inner in getattr(part, "calibrated_classifiers_", ()):
            yield from _boosters(inner.estimator)
        fitted = getattr(part, "__sklearn_is_fitted__", lambda: False)
        if type(part).__module__.partition(".")[0] in ("lightgbm", "xgboost") and fitted():
            yield part


# -- XGBoost


def _xgboost(builder: Builder, model: Any) -> xgboost.Model:
    """Return the booster behind a model, read once: rounds up to the best one, and what it takes for missing."""

    def read() -> xgboost.Model:
        return xgboost.read(model.get_booster(), best=True, missing=model.missing)

    found: xgboost.Model = builder.remember((id(model), "booster"), read)
    return found


@writes("predict", "XGBRegressor", "XGBRFRegressor", "XGBRanker")
def xgboost_number(builder: Builder, model: Any, frame: Frame) -> Value:
    return xgboost.write_prediction(builder, _xgboost(builder, model), frame)


@writes("predict_proba", "XGBClassifier", "XGBRFClassifier")
def xgboost_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write what the booster says of every class or label; of two classes it only says the second."""
    found = xgboost.write_prediction(builder, _xgboost(builder, model), frame)
    return both_sides(builder, found) if found.width == 1 else found


@writes("predict", "XGBClassifier", "XGBRFClassifier")
def xgboost_label(builder: Builder, model: Any, frame: Frame) -> Value:
    """Name the largest of several classes; between two, and for each of several labels, half is the border."""
    found = emit(builder, model, "predict_proba", frame)
    if model.n_classes_ > 2:
        return write_labels(builder, model.classes_, position_of_largest(builder, found))
    several = _xgboost(builder, model).ensemble.outputs > 1
    said = found if several else builder.take(found, [1])
    return position_above(builder, said, 0.5)


# -- CatBoost


def _formula(builder: Builder, model: Any, frame: Frame) -> tuple[catboost.Model, Value]:
    """Write the raw values of a model, once; a step of a pipeline has no example that names categories of text."""

    def write() -> tuple[catboost.Model, Value]:
        found = catboost.read(model)
        return found, catboost.write_raw(builder, found, catboost.categories(found, {}), frame)

    made: tuple[catboost.Model, Value] = builder.remember((id(model), "formula", frame), write)
    return made


@writes("predict", "CatBoostRegressor", "CatBoostRanker")
def catboost_number(builder: Builder, model: Any, frame: Frame) -> Value:
    found, raw = _formula(builder, model, frame)
    return catboost.write_number(builder, found, raw) if type(model).__name__ == "CatBoostRegressor" else raw


@writes("predict_proba", "CatBoostClassifier")
def catboost_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the probability of every class or label; of two classes the formula only has the second."""
    found, raw = _formula(builder, model, frame)
    scores = catboost.write_probabilities(builder, found, raw)
    return both_sides(builder, scores) if raw.width == 1 and found.loss not in catboost.SEVERAL else scores


@writes("predict", "CatBoostClassifier")
def catboost_label(builder: Builder, model: Any, frame: Frame) -> Value:
    found, raw = _formula(builder, model, frame)
    if found.loss in catboost.SEVERAL:
        return position_above(builder, raw)
    position = (
        position_of_largest(builder, raw) if raw.width > 1 else position_above(builder, raw, catboost.border(model))
    )
    return write_labels(builder, model.classes_, position)
