# SPDX-License-Identifier: Apache-2.0
"""CatBoost models in CatBoost's own files: what MLflow writes (`model.cb`), and bare `.cbm` and `.json` files.

The files are data. Trees of every shape, classes, numbers and rankings are exported; categories where the model uses
which one a row has (`one_hot_max_size`). Statistics of categories (CTR) need the training data's counts at run time and
are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from packager.exporters import Arrays, ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._sklearn import both_sides, position_above, position_of_largest, write_labels
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._tables import boosting
from packager.exporters._tables import table as _table
from packager.exporters._tables.boosting import Boosted
from packager.exporters._trees import catboost
from packager.exporters._trees.ensemble import list_thresholds

TOOLCHAIN: tuple[str, ...] = (*boosting.TOOLCHAIN, "catboost")
EXTRA = "catboost"
EXECUTES = False
LOOKS_FOR = "`model.cb` of MLflow's catboost, or one `.cbm` or `.json` file of CatBoost's"

_CLASSES = ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker")
_RANKING = (
    "YetiRank",
    "YetiRankPairwise",
    "PairLogit",
    "PairLogitPairwise",
    "QueryRMSE",
    "QuerySoftMax",
    "StochasticRank",
)


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: what MLflow names, else the only one at the root that begins as CatBoost's do."""
    if mlflow.MLMODEL in paths:
        stated = str((mlflow.read_flavor("catboost", paths, read) or {}).get("data", ""))
        return stated if stated in paths else None
    for endings, begins in (((".cbm", ".cb"), _is_binary), ((".json",), _is_json)):
        found = [path for path in paths if path.endswith(endings) and "/" not in path]
        if len(found) == 1 and begins(read(found[0])):
            return found[0]
    return None


def _is_binary(data: bytes) -> bool:
    return data[:4] == b"CBM1"


def _is_json(data: bytes) -> bool:
    return b'"features_info"' in data[:256]


def load(source: Path, payload: str, options: ExportOptions) -> Boosted:
    """Open the file. Raises StepError for what CatBoost cannot read, and for models that ONNX cannot hold."""
    lib = boosting.library("catboost")
    model = _table.explain_failure(
        f"`{payload}` cannot be opened by CatBoost",
        lambda: _opened(lib, source, payload),
        "save the model again with `save_model` of a recent CatBoost",
    )
    found = catboost.read(model)
    kind = _stated_class(source) or _fitting_class(found.loss)
    if kind != type(model).__name__:
        model = _read(lib, kind, source / payload)
    texts = list(model.get_cat_feature_indices())
    table = _table.table(source, options, _names(found), len(found.names), text=False, texts=texts)
    examples = _table.logged_rows(source, table)
    known = catboost.categories(found, _candidates(table, examples))
    answering = _Answering(model, found, known)
    return Boosted(
        answering.answer,
        answering.write,
        answering.names,
        _critical(found, known),
        table,
        options.interface(table.ports, {}, unfix=_table.UNFIX),
        options.outputs,
        options.seed,
        examples,
    )


def _opened(lib: Any, source: Path, payload: str) -> Any:
    return _read(lib, _stated_class(source) or "CatBoost", source / payload)


def _read(lib: Any, kind: str, path: Path) -> Any:
    model = getattr(lib, kind)()
    model.load_model(str(path), format="json" if path.suffix == ".json" else "cbm")
    return model


def _stated_class(source: Path) -> str:
    """Return the class that MLflow recorded, empty without one."""
    paths = {mlflow.MLMODEL} if (source / mlflow.MLMODEL).is_file() else set()
    flavor = mlflow.read_flavor("catboost", paths, lambda path: (source / path).read_bytes()) or {}
    stated = str(flavor.get("model_type", ""))
    return stated if stated in _CLASSES else ""


def _fitting_class(loss: str) -> str:
    if loss in catboost.PROBABILITIES:
        return "CatBoostClassifier"
    return "CatBoostRanker" if loss in _RANKING else "CatBoostRegressor"


def _names(model: catboost.Model) -> list[str]:
    """Return the names of the columns; CatBoost numbers unnamed ones, or leaves their names empty."""
    numbered = [str(position) for position in range(len(model.names))]
    return [] if list(model.names) == numbered or not all(model.names) else list(model.names)


def _candidates(table: _table.Table, examples: Mapping[str, Any] | None) -> dict[int, list[Any]]:
    """Return the values of every column in the logged example."""
    if not examples or table.layout != "frame":
        return {}
    return {position: examples[port.name].reshape(-1).tolist() for position, port in enumerate(table.ports)}


def _critical(model: catboost.Model, known: Mapping[int, Any]) -> list[list[Any]]:
    found: list[list[Any]] = list(map(list, list_thresholds(model.ensemble)))
    for position, values in known.items():
        found[position] = list(values)
    return found


class _Answering:
    """A model of one of CatBoost's classes: `predict`, and `predict_proba` of a classifier."""

    def __init__(self, model: Any, read: catboost.Model, known: Mapping[int, Any]) -> None:
        self._model, self._read, self._known = model, read, known
        self._classifies = type(model).__name__ == "CatBoostClassifier"
        self._several = read.loss in catboost.SEVERAL
        self.names = boosting.CLASSIFIER if self._classifies else boosting.REGRESSOR

    def answer(self, given: Any) -> Arrays:
        said = self._model.predict(given, thread_count=1)
        if not self._classifies:
            return [boosting.numbers(said)]
        scores = boosting.numbers(self._model.predict_proba(given, thread_count=1))
        if self._several:
            return [said.astype("int64"), scores]
        return [boosting.labels(said.reshape(-1), self._model.classes_), scores]

    def write(self, builder: Builder, frame: Frame) -> list[Value]:
        raw = catboost.write_raw(builder, self._read, self._known, frame)
        if not self._classifies:
            is_regressor = type(self._model).__name__ == "CatBoostRegressor"
            return [catboost.write_number(builder, self._read, raw) if is_regressor else raw]
        scores = catboost.write_probabilities(builder, self._read, raw)
        if self._several:
            return [position_above(builder, raw), scores]
        if raw.width > 1:
            return [write_labels(builder, self._model.classes_, position_of_largest(builder, raw)), scores]
        position = position_above(builder, raw, catboost.border(self._model))
        return [write_labels(builder, self._model.classes_, position), both_sides(builder, scores)]
