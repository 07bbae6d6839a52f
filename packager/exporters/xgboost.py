# SPDX-License-Identifier: Apache-2.0
"""XGBoost models in XGBoost's own files: what MLflow writes, and bare `.ubj` and `.json` files.

The files hold numbers that XGBoost reads itself; nothing in them is run. A model of the scikit-learn interface is
exported with the rounds its `predict` uses (up to the best one), a bare booster with all it has. NaN is missing.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays, Feeds, Interface, Wishes, _bentoml, _boosting, _estimator, _mlflow, _table

TOOLCHAIN: tuple[str, ...] = (*_boosting.TOOLCHAIN, "xgboost")
EXTRA = _boosting.EXTRA
EXECUTES = False
READS_OLDER = ("xgboost",)  # what it wrote itself, by its own promise
LOOKS_FOR = "`model.ubj` of MLflow's xgboost, or one `.ubj` or `.json` file"

_SKLEARN = ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor")
_OTHERWISE = "train with the booster `gbtree` and an objective for classes or numbers"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: what MLflow names, else the only `.ubj` at the root, else the only `.json` of XGBoost's."""
    if _mlflow.MLMODEL in paths:
        table = _mlflow.flavor("xgboost", paths, read) or {}
        stated = str(table.get("data", ""))
        return stated if stated in paths else None
    for ending, holds in ((".ubj", lambda _: True), (".json", _is_model)):
        found = [path for path in paths if path.endswith(ending) and "/" not in path]
        if len(found) == 1 and holds(read(found[0])):
            return found[0]
    return None


def _is_model(data: bytes) -> bool:
    return b'"learner"' in data[:64]


def load(source: Path, payload: str, wishes: Wishes) -> Boosted:
    """Open the file. Raises StepError for what XGBoost cannot read, and for boosters that ONNX cannot hold."""
    lib = _boosting.library("xgboost")
    read = {_mlflow.MLMODEL} if (source / _mlflow.MLMODEL).is_file() else set()
    flavor = _mlflow.flavor("xgboost", read, lambda path: (source / path).read_bytes()) or {}
    kind = str(flavor.get("model_class") or _bentoml.option(source, "model_class")).rpartition(".")[2]
    hint = "save the model again with `save_model` of a recent XGBoost"
    what = f"`{payload}` cannot be opened by XGBoost"
    booster = _table.refused(what, lambda: _booster(lib, kind, source / payload), hint)
    objective = _objective(booster)
    table = _table.table(source, wishes, list(booster.feature_names or ()), booster.num_features(), text=False)
    interface = wishes.interface(table.ports, {}, unfix=_table.UNFIX)
    return Boosted(booster, objective, table, interface, wishes.outputs, wishes.seed)


def _booster(lib: Any, kind: str, path: Path) -> Any:
    """Return the booster that answers `predict`; the classes of the scikit-learn interface stop at the best round."""
    if kind not in _SKLEARN:
        return lib.Booster({"nthread": 1}, model_file=str(path))
    model = getattr(lib, kind)(n_jobs=1)
    model.load_model(str(path))
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    return booster if best is None else booster[: int(best) + 1]


def _objective(booster: Any) -> str:
    """Return the objective; refuse what the converter would silently get wrong."""
    learner = json.loads(booster.save_config())["learner"]
    kind, objective = learner["gradient_booster"]["name"], str(learner["objective"]["name"])
    if kind != "gbtree":
        raise StepError(f"the booster is `{kind}`, which has no ONNX form here", hint=_OTHERWISE)
    if "c" in (booster.feature_types or ()):
        raise StepError("the booster splits on categories, which has no ONNX form here", hint="encode them as numbers")
    if objective.startswith(("rank:", "survival:")) or objective == "binary:hinge":
        raise StepError(f"the objective `{objective}` has no ONNX form here", hint=_OTHERWISE)
    if objective == "multi:softmax":  # the same model, but it answers with classes where probabilities are wanted
        booster.set_param({"objective": "multi:softprob"})
        return "multi:softprob"
    return objective


@dataclass(frozen=True, slots=True)
class Boosted:
    """An opened booster as a source. `outputs` are the wished names, empty for the default ones."""

    booster: Any
    objective: str
    table: _table.Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0

    def to_onnx(self, opset: int) -> Any:
        booster = self.booster.copy()
        booster.feature_names = booster.feature_types = None  # the converter wants f0, f1, …
        model = _boosting.convert(booster, self.interface.inputs, opset, "xgboost")
        if self.objective in _CLASSES:
            _boosting.classify(model, range(_classes(booster)))
        _estimator.finish(model, self.interface.inputs, self.outputs or self._names())
        return model

    def _names(self) -> tuple[str, ...]:
        return _boosting.CLASSIFIER if self.objective in _CLASSES else _boosting.REGRESSOR

    def run(self, feeds: Feeds) -> Arrays:
        numpy, lib = importlib.import_module("numpy"), _boosting.library("xgboost")
        given = lib.DMatrix(_boosting.matrix(self.interface.inputs, feeds), missing=numpy.nan, nthread=1)
        answer = self.booster.predict(given, validate_features=False)
        if self.objective not in _CLASSES:
            return [answer.reshape(len(answer), -1)]
        both = answer if answer.ndim == 2 else numpy.stack([1 - answer, answer], axis=1)
        labels = both.argmax(axis=1) if answer.ndim == 2 else answer > _HALF
        return [labels.astype("int64"), both]

    def samples(self) -> Mapping[str, Any]:
        width = self.booster.num_features()
        names = {name: place for place, name in enumerate(self.booster.feature_names or ())}
        found: list[list[float]] = [[] for _ in range(width)]
        for text in self.booster.get_dump(dump_format="json"):
            for node in _boosting.walk(json.loads(text), ("children",)):
                if "split" in node:
                    place = names[node["split"]] if names else int(node["split"][1:])
                    found[place].append(float(node["split_condition"]))
        return _boosting.samples(found, self.table, self.run, self.seed)

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def _classes(booster: Any) -> int:
    stated = json.loads(booster.save_config())["learner"]["learner_model_param"]["num_class"]
    return max(int(stated), 2)


_CLASSES = ("binary:logistic", "multi:softprob")
_HALF = 0.5  # where the scikit-learn interface puts the border between two classes
