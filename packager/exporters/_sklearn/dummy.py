# SPDX-License-Identifier: Apache-2.0
"""Dummy estimators: their answers depend on no column."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import label_values, refuse, writes
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.labels import side_by_side


def _outputs(model: Any) -> list[tuple[Any, Any, Any]]:
    """Return classes, priors and constant of every output."""
    if model.n_outputs_ == 1:
        return [(model.classes_, model.class_prior_, model.constant)]
    constants = [None] * model.n_outputs_ if model.constant is None else list(model.constant)
    return list(zip(model.classes_, model.class_prior_, constants, strict=True))


def _position(classes: Any, prior: Any, constant: Any, strategy: str) -> int:
    numpy = importlib.import_module("numpy")
    if strategy == "constant":
        return int(numpy.flatnonzero(numpy.asarray(classes) == numpy.ravel(constant)[0])[0])
    return int(numpy.argmax(prior))


@writes("predict", "DummyClassifier")
def predict_rule(builder: Builder, model: Any, frame: Frame) -> Value:
    if model._strategy in ("stratified", "uniform"):
        refuse(model, f"with `strategy={model._strategy!r}` answers by chance")
    labels = []
    for classes, prior, constant in _outputs(model):
        known = label_values(classes)
        chosen = known[[_position(classes, prior, constant, model._strategy)]]
        labels.append(builder.spread(frame.blocks[0], chosen, str(known.dtype)))
    return side_by_side(builder, model, labels)


@writes("predict_proba", "DummyClassifier")
def probabilities_by_rule(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    if model._strategy == "stratified":
        refuse(model, "with `strategy='stratified'` answers by chance")
    rows = []
    for classes, prior, constant in _outputs(model):
        if model._strategy == "prior":
            rows.append(numpy.asarray(prior, dtype="float64"))
        elif model._strategy == "uniform":
            rows.append(numpy.full(len(classes), 1.0 / len(classes)))
        else:
            position = _position(classes, prior, constant, model._strategy)
            rows.append((numpy.arange(len(classes)) == position).astype("float64"))
    return builder.spread(frame.blocks[0], numpy.concatenate(rows))


@writes("predict", "DummyRegressor")
def predict_constant(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    row = numpy.broadcast_to(numpy.ravel(model.constant_), (model.n_outputs_,))
    return builder.spread(frame.blocks[0], row.astype("float64"))
