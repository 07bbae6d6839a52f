# SPDX-License-Identifier: Apache-2.0
"""LightGBM boosters and the models of its scikit-learn interface as sources. Runs in the worker only."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays, Feeds, Interface, Wishes, _boosting, _estimator, _mlflow, _table

TOOLCHAIN: tuple[str, ...] = (*_boosting.TOOLCHAIN, "lightgbm")
EXTRA = _boosting.EXTRA

_CATEGORY, _LEFT, _MISSING_ZERO, _MISSING_NAN = 1, 2, 4, 8  # bits of LightGBM's `decision_type`
_ZERO = 1.0000000180025095e-35  # kZeroThreshold of LightGBM, a float32
_CLASSES = ("binary", "multiclass")
_OTHERWISE = "train with `boosting_type` gbdt, plain leaves and an objective for classes or numbers"


def read(path: Path) -> Any:
    """Open a booster in text form."""
    lib = _boosting.library("lightgbm")
    text = path.read_text("utf-8", errors="replace")
    return _table.refused(
        f"`{path.name}` cannot be opened by LightGBM", lambda: lib.Booster(model_str=text), "save it with `save_model`"
    )


def open_booster(source: Path, model: Any, wishes: Wishes) -> Boosted:
    """Bring a booster or a fitted model together with signature and recipe. Raises StepError."""
    lib = _boosting.library("lightgbm")
    if isinstance(model, lib.LGBMModel):
        booster = model.booster_
    elif isinstance(model, lib.Booster):
        booster = model
    else:
        raise StepError(f"the source holds a {type(model).__name__}, expected a model of LightGBM")
    table = _table.table(source, wishes, _names(source, booster.feature_name()), booster.num_feature(), text=False)
    interface = wishes.interface(table.ports, {}, unfix=_table.UNFIX)
    exact = lib.Booster(model_str=exact_text(booster.model_to_string()))
    classes = tuple(model.classes_.tolist()) if hasattr(model, "classes_") else ()
    return Boosted(model, exact, _objective(booster), classes, table, interface, wishes.outputs, wishes.seed)


def _names(source: Path, fitted: Sequence[str]) -> Sequence[str]:
    """Return the names of the columns as callers know them: LightGBM numbers unnamed ones, and replaces spaces."""
    if all(re.fullmatch(r"Column_\d+", name) for name in fitted):
        return ()
    stated = [column.name for column in _mlflow.columns(source)]
    return stated if [re.sub(r"\s", "_", name) for name in stated] == list(fitted) else fitted


def _objective(booster: Any) -> str:
    found = re.search(r"^objective=(\w+)", booster.model_to_string(), re.MULTILINE)
    objective = found[1] if found else "custom"
    if objective in ("custom", "multiclassova", "lambdarank", "rank_xendcg", "cross_entropy", "cross_entropy_lambda"):
        raise StepError(f"the objective `{objective}` has no ONNX form here", hint=_OTHERWISE)
    return objective


def exact_text(text: str) -> str:
    """Rewrite a booster to compute the same for every float32 input after thresholds become float32.

    Raises StepError for linear leaves, and for zeros that count as missing: no ONNX node does that.
    """
    if re.search(r"^is_linear=1$", text, re.MULTILINE):
        raise StepError("the booster has linear models in its leaves, which have no ONNX form", hint=_OTHERWISE)
    blocks = re.split(r"(?m)^(?=Tree=\d+$)", text)
    head = re.sub(r"(?m)^tree_sizes=.*\n", "", blocks[0])  # lengths in bytes, which change here
    trees = "".join(map(_exact_tree, blocks[1:]))
    if "\naverage_output\n" not in head:
        return head + trees
    share = 1 / len(blocks[1:])  # a random forest: the sum of its parts is the average
    return head.replace("\naverage_output\n", "\n") + re.sub(
        r"(?m)^leaf_value=(.*)$", lambda found: f"leaf_value={_scaled(found[1], share)}", trees
    )


def _scaled(values: str, share: float) -> str:
    return " ".join(f"{float(value) * share:.17g}" for value in values.split())


def _exact_tree(block: str) -> str:
    thresholds = re.search(r"^threshold=(.*)$", block, re.MULTILINE)
    kinds = re.search(r"^decision_type=(.*)$", block, re.MULTILINE)
    if not thresholds or not kinds:
        return block  # a single leaf
    nodes = [_exact_node(float(t), int(k)) for t, k in zip(thresholds[1].split(), kinds[1].split(), strict=True)]
    block = block.replace(thresholds[0], "threshold=" + " ".join(f"{value:.17g}" for value, _ in nodes))
    return block.replace(kinds[0], "decision_type=" + " ".join(str(kind) for _, kind in nodes))


def _exact_node(threshold: float, kind: int) -> tuple[float, int]:
    """Return threshold and decision of one split as float32 arithmetic decides it."""
    if kind & _CATEGORY:
        return threshold, kind
    if kind & _MISSING_ZERO:
        raise StepError("the booster takes zeros for missing values, which no ONNX node does", hint=_OTHERWISE)
    if not kind & _MISSING_NAN:
        kind = _MISSING_NAN | (_LEFT if threshold >= 0 else 0)
    if abs(threshold) <= _ZERO:  # LightGBM reads every value this close to zero as zero
        threshold = _ZERO if threshold >= 0 else math.nextafter(-_ZERO, -math.inf)
    return _floor(threshold), kind


def _floor(value: float) -> float:
    """Return the largest float32 that is not above `value`."""
    numpy = importlib.import_module("numpy")
    largest = float(numpy.finfo("float32").max)
    near = numpy.float32(min(max(value, -largest), largest))
    return float(near if float(near) <= value else numpy.nextafter(near, numpy.float32(-numpy.inf)))


@dataclass(frozen=True, slots=True)
class Boosted:
    """An opened model as a source: `model` answers, `exact` is the booster that is converted.

    `classes` are the labels of a model of the scikit-learn interface, empty for a bare booster.
    """

    model: Any
    exact: Any
    objective: str
    classes: tuple[Any, ...]
    table: _table.Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0

    def to_onnx(self, opset: int) -> Any:
        options = {"zipmap": False} if self._classifies() else {}
        found = _boosting.convert(self.exact, self.interface.inputs, opset, "lightgbm", **options)
        if self._classifies():
            _boosting.classify(found, self._labels().tolist())
        names = _boosting.CLASSIFIER if self._classifies() else _boosting.REGRESSOR
        _estimator.finish(found, self.interface.inputs, self.outputs or names)
        return found

    def _classifies(self) -> bool:
        return self.objective in _CLASSES

    def _labels(self) -> Any:
        numpy = importlib.import_module("numpy")
        found = numpy.arange(max(self.exact.num_model_per_iteration(), 2))
        return _boosting.label_type(numpy.array(self.classes) if self.classes else found)

    def run(self, feeds: Feeds) -> Arrays:
        numpy = importlib.import_module("numpy")
        booster = getattr(self.model, "booster_", self.model)
        given = _boosting.matrix(self.interface.inputs, feeds).astype("float64")
        answer = booster.predict(given, num_threads=1, validate_features=False)
        if not self._classifies():
            return [answer.reshape(len(answer), -1).astype("float32")]
        both = answer if answer.ndim == 2 else numpy.stack([1 - answer, answer], axis=1)
        return [self._labels()[both.argmax(axis=1)], both.astype("float32")]

    def samples(self) -> Mapping[str, Any]:
        booster = getattr(self.model, "booster_", self.model)
        found: list[list[float]] = [[] for _ in range(booster.num_feature())]
        for tree in booster.dump_model()["tree_info"]:
            for node in _boosting.walk(tree["tree_structure"], ("left_child", "right_child")):
                if "split_feature" in node:
                    found[node["split_feature"]] += [float(value) for value in str(node["threshold"]).split("||")]
        return _boosting.samples(found, self.table, self.run, self.seed)

    def extra_files(self) -> Mapping[str, Path]:
        return {}
