# SPDX-License-Identifier: Apache-2.0
"""LightGBM boosters and the models of its scikit-learn interface as sources. Runs in the worker only."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays, ExportOptions, _sklearn
from packager.exporters._files import mlflow
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._tables import boosting
from packager.exporters._tables import table as _table
from packager.exporters._tables.boosting import Boosted
from packager.exporters._trees import lightgbm
from packager.exporters._trees.ensemble import list_thresholds

TOOLCHAIN: tuple[str, ...] = (*boosting.TOOLCHAIN, "lightgbm")
EXTRA = boosting.EXTRA


def read(path: Path) -> Any:
    """Open a booster in text form."""
    lib = boosting.library("lightgbm")
    text = path.read_text("utf-8", errors="replace")
    return _table.explain_failure(
        f"`{path.name}` cannot be opened by LightGBM", lambda: lib.Booster(model_str=text), "save it with `save_model`"
    )


def open_booster(source: Path, model: Any, options: ExportOptions) -> Boosted:
    """Bring a booster or a fitted model together with signature and recipe. Raises StepError."""
    lib = boosting.library("lightgbm")
    if not isinstance(model, lib.LGBMModel | lib.Booster):
        raise StepError(f"the source holds a {type(model).__name__}, expected a model of LightGBM")
    booster = model if isinstance(model, lib.Booster) else model.booster_
    found = lightgbm.read(booster)
    table = _table.table(
        source,
        options,
        _names(source, booster.feature_name()),
        booster.num_feature(),
        text=False,
        texts=[
            position for position, known in found.categories.items() if any(isinstance(item, str) for item in known)
        ],
    )
    answering = _Interface(model, found) if isinstance(model, lib.LGBMModel) else _Bare(model, found)
    return Boosted(
        answering.answer,
        answering.write,
        answering.names,
        critical_values(found),
        table,
        options.interface(table.ports, {}, unfix=_table.UNFIX),
        options.outputs,
        options.seed,
        _table.logged_rows(source, table),
        grown=found.ensemble,
        categories=found.categories,
    )


def _names(source: Path, fitted: Sequence[str]) -> Sequence[str]:
    """Return the names of the columns as callers know them: LightGBM numbers unnamed ones, and replaces spaces."""
    if all(re.fullmatch(r"Column_\d+", name) for name in fitted):
        return ()
    stated = [column.name for column in mlflow.read_columns(source)]
    return stated if [re.sub(r"\s", "_", name) for name in stated] == list(fitted) else fitted


def critical_values(model: lightgbm.Model) -> list[list[Any]]:
    """Return the values of every column that decide something, with what is taken for zero beside zero."""
    found: list[list[Any]] = [[*own, 0.0, lightgbm.ZERO, -lightgbm.ZERO] for own in list_thresholds(model.ensemble)]
    for position, known in model.categories.items():
        found[position] = [item for item in known if item is not None]
    return found


class _Bare:
    """A booster by itself: classes have no names, numbers are what `predict` says."""

    def __init__(self, booster: Any, model: lightgbm.Model) -> None:
        self._booster, self._model = booster, model
        self._classifies = model.objective in lightgbm.CLASSES
        self._classes = importlib.import_module("numpy").arange(max(model.ensemble.outputs, 2))
        self.names = boosting.CLASSIFIER if self._classifies else boosting.REGRESSOR

    def answer(self, given: Any) -> Arrays:
        table = boosting.to_categorical(given, self._model.categories)
        said = self._booster.predict(table, num_threads=1)
        return boosting.class_answers(said, self._classes) if self._classifies else [boosting.numbers(said)]

    def write(self, builder: Builder, frame: Frame) -> list[Value]:
        said = lightgbm.write_prediction(builder, self._model, frame)
        return boosting.write_classes(builder, said, self._classes) if self._classifies else [said]


class _Interface:
    """A model of the scikit-learn interface: `predict`, and `predict_proba` of a classifier."""

    def __init__(self, model: Any, read: lightgbm.Model) -> None:
        self._model, self._categories = model, read.categories
        self.names = boosting.CLASSIFIER if hasattr(model, "classes_") else boosting.REGRESSOR

    def answer(self, given: Any) -> Arrays:
        table = boosting.to_categorical(given, self._categories)
        said = self._model.predict(table, num_threads=1)
        if self.names == boosting.REGRESSOR:
            return [boosting.numbers(said)]
        scores = self._model.predict_proba(table, num_threads=1)
        return [boosting.labels(said, self._model.classes_), boosting.numbers(scores)]

    def write(self, builder: Builder, frame: Frame) -> list[Value]:
        methods = ("predict", "predict_proba") if self.names == boosting.CLASSIFIER else ("predict",)
        return [_sklearn.emit(builder, self._model, method, frame) for method in methods]
