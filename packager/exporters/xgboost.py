# SPDX-License-Identifier: Apache-2.0
"""XGBoost models in XGBoost's own files: what MLflow writes, and bare `.ubj` and `.json` files.

The files hold numbers that XGBoost reads itself; nothing in them is run. A model of the scikit-learn interface is
exported with the rounds its `predict` uses (up to the best one), a bare booster with all it has. NaN is missing.
Other values that a model takes for missing are not in the file, so neither MLflow nor another reader knows them.

A category that was not there in training is a missing value to the graph. The library means to refuse it, but takes it
for the next larger category it knows, if there is one; so measurements keep to the known ones.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays, ExportOptions, _sklearn
from packager.exporters._files import bentoml, mlflow
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._tables import boosting
from packager.exporters._tables import table as _table
from packager.exporters._tables.boosting import Boosted
from packager.exporters._trees import xgboost
from packager.exporters._trees.ensemble import list_thresholds

TOOLCHAIN: tuple[str, ...] = (*boosting.TOOLCHAIN, "xgboost")
EXTRA = boosting.EXTRA
EXECUTES = False
READS_OLDER = ("xgboost",)  # what it wrote itself, by its own promise
LOOKS_FOR = "`model.ubj` of MLflow's xgboost, or one `.ubj` or `.json` file"

_SKLEARN = ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor", "XGBRanker")
_CLASSES = ("binary:logistic", *xgboost.SOFTMAX)


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: what MLflow names, else the only `.ubj` at the root, else the only `.json` of XGBoost's."""
    if mlflow.MLMODEL in paths:
        table = mlflow.read_flavor("xgboost", paths, read) or {}
        stated = str(table.get("data", ""))
        return stated if stated in paths else None
    for ending, holds in ((".ubj", lambda _: True), (".json", _is_model)):
        found = [path for path in paths if path.endswith(ending) and "/" not in path]
        if len(found) == 1 and holds(read(found[0])):
            return found[0]
    return None


def _is_model(data: bytes) -> bool:
    return b'"learner"' in data[:64]


def load(source: Path, payload: str, options: ExportOptions) -> Boosted:
    """Open the file. Raises StepError for what XGBoost cannot read, and for boosters that ONNX cannot hold."""
    lib = boosting.library("xgboost")
    read = {mlflow.MLMODEL} if (source / mlflow.MLMODEL).is_file() else set()
    flavor = mlflow.read_flavor("xgboost", read, lambda path: (source / path).read_bytes()) or {}
    kind = str(flavor.get("model_class") or bentoml.read_option(source, "model_class")).rpartition(".")[2]
    hint = "save the model again with `save_model` of a recent XGBoost"
    what = f"`{payload}` cannot be opened by XGBoost"
    model = _table.explain_failure(what, lambda: _opened(lib, kind, source / payload), hint)
    booster = model if isinstance(model, lib.Booster) else model.get_booster()
    found = xgboost.read(booster, best=model is not booster)
    _refuse_codes(source, found)
    table = _table.table(
        source,
        options,
        list(found.names),
        booster.num_features(),
        text=False,
        texts=[position for position, known in found.categories.items() if isinstance(known[0], str)],
    )
    answering = _Bare(model, found) if model is booster else _Interface(model, found)
    return Boosted(
        answering.answer,
        answering.write,
        answering.names,
        _critical(found),
        table,
        options.interface(table.ports, {}, unfix=_table.UNFIX),
        options.outputs,
        options.seed,
        _table.logged_rows(source, table),
        list(found.categories) if table.layout == "frame" else (),
        found.ensemble,
        found.categories,
    )


def _opened(lib: Any, kind: str, path: Path) -> Any:
    """Return what answers `predict`: a booster, or a model of the scikit-learn interface, up to the best round."""
    if kind not in _SKLEARN:
        return lib.Booster({"nthread": 1}, model_file=str(path))
    model = getattr(lib, kind)(n_jobs=1, enable_categorical=True)
    model.load_model(str(path))
    return model


def _refuse_codes(source: Path, model: xgboost.Model) -> None:
    """Raise StepError where callers have a data frame of categories and the file holds only their codes."""
    named = [model.names[position] for position in model.coded] if mlflow.read_columns(source) and model.names else []
    if named:
        raise StepError(
            f"the file holds only codes of the categories of column `{named[0]}`, so that nothing says which value has "
            "which code",
            hint="train and log the model with XGBoost 3.1 or newer, which keeps the values",
        )


def _critical(model: xgboost.Model) -> list[list[Any]]:
    found: list[list[Any]] = [[*own, *_after(own)] for own in list_thresholds(model.ensemble)]
    for position, known in model.categories.items():
        found[position] = [*known, "" if isinstance(known[0], str) else math.nan]
    return found


def _after(stated: Sequence[float]) -> list[float]:
    """Return the float32 after each: a tree here holds the last number that goes left, the file the next."""
    numpy = importlib.import_module("numpy")
    return numpy.nextafter(numpy.array(stated, "float32"), numpy.float32(numpy.inf)).astype("float64").tolist()


def _frame(given: Any, model: xgboost.Model) -> Any:
    """Return a table with its categories as users have them; where only codes are known, numbers are codes."""
    if not hasattr(given, "columns"):
        return given
    pandas, found = importlib.import_module("pandas"), boosting.to_categorical(given, model.categories)
    for position in model.coded:
        codes = given.iloc[:, position].fillna(-1).astype("int64").clip(-1)
        found[given.columns[position]] = pandas.Categorical.from_codes(codes, list(range(max(int(codes.max()), 0) + 1)))
    return found


class _Bare:
    """A booster by itself: classes have no names, numbers are what `predict` says."""

    def __init__(self, booster: Any, model: xgboost.Model) -> None:
        self._booster, self._model = booster.copy(), model
        if model.objective == "multi:softmax":  # the same model, but it answers with classes
            self._booster.set_param({"objective": "multi:softprob"})
        self._classifies = model.objective in _CLASSES and (
            model.objective in xgboost.SOFTMAX or model.ensemble.outputs == 1
        )
        self._classes = importlib.import_module("numpy").arange(max(model.ensemble.outputs, 2))
        self.names = boosting.CLASSIFIER if self._classifies else boosting.REGRESSOR

    def answer(self, given: Any) -> Arrays:
        numpy, lib = importlib.import_module("numpy"), importlib.import_module("xgboost")
        types = None if hasattr(given, "columns") else self._booster.feature_types
        matrix = lib.DMatrix(
            _frame(given, self._model), missing=numpy.nan, nthread=1, enable_categorical=True, feature_types=types
        )
        said = self._booster.predict(matrix, validate_features=False)
        return boosting.class_answers(said, self._classes) if self._classifies else [boosting.numbers(said)]

    def write(self, builder: Builder, frame: Frame) -> list[Value]:
        said = xgboost.write_prediction(builder, self._model, frame)
        return boosting.write_classes(builder, said, self._classes) if self._classifies else [said]


class _Interface:
    """A model of the scikit-learn interface: `predict`, and `predict_proba` of a classifier."""

    def __init__(self, model: Any, read: xgboost.Model) -> None:
        self._model, self._read = model, read
        self.names = boosting.CLASSIFIER if hasattr(model, "predict_proba") else boosting.REGRESSOR

    def answer(self, given: Any) -> Arrays:
        table = _frame(given, self._read)
        said = self._model.predict(table, validate_features=False)
        if self.names == boosting.REGRESSOR:
            return [boosting.numbers(said)]
        scores = self._model.predict_proba(table, validate_features=False)
        return [said.astype("int64"), boosting.numbers(scores)]

    def write(self, builder: Builder, frame: Frame) -> list[Value]:
        methods = ("predict", "predict_proba") if self.names == boosting.CLASSIFIER else ("predict",)
        return [_sklearn.emit(builder, self._model, method, frame) for method in methods]
