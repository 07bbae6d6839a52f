# SPDX-License-Identifier: Apache-2.0
"""Common part of boosters of all libraries as sources: outputs by name, a graph through the writers, rows."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError
from packager.exporters import Arrays, Feeds, Interface, _sklearn
from packager.exporters._sklearn import both_sides, position_of_largest, write_labels
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._tables import critical as _critical
from packager.exporters._tables import estimator, ranges
from packager.exporters._tables import table as _table
from packager.exporters._trees.ensemble import Ensemble

TOOLCHAIN: tuple[str, ...] = (
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "numpy",
    "scipy",
    "pandas",
    "ml-dtypes",
    "protobuf",
)
EXTRA = "gbm"
CLASSIFIER = ("label", "probabilities")
REGRESSOR = ("prediction",)
_UNSEEN = -1  # a code that no category has; a text column holds an empty text for it


def library(name: str) -> Any:
    """Import a library of boosters, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingToolError(name, EXTRA if name != "catboost" else name) from None


@dataclass(frozen=True, slots=True)
class Boosted:
    """An opened booster as a source.

    `answer` is the library's own call on the data frame or matrix that its users have, `write` puts the same into a
    graph; both give the outputs called `names`. `critical` are the values of every column that decide something.
    `closed` are the columns, each an input, that take their critical values only. `outputs` are requested names, empty
    for the default ones. `grown` are the trees, `categories` what stands for each code in them, by column.
    """

    answer: Callable[[Any], Arrays]
    write: Callable[[Builder, Frame], Sequence[Value]]
    names: tuple[str, ...]
    critical: Sequence[list[Any]]
    table: _table.Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0
    examples: Mapping[str, Any] | None = None
    closed: Sequence[int] = ()
    grown: Ensemble | None = None
    categories: Mapping[int, Sequence[Any]] = field(default_factory=dict)

    def to_onnx(self, opset: int) -> Any:
        inputs = self.interface.inputs
        names = estimator.output_names(self.names, self.outputs, inputs)
        builder = Builder(opset, [*(port.name for port in inputs), *names])
        values = [Value(port.name, port.dtype, int(port.shape[1])) for port in inputs]
        made = self.write(builder, estimator.to_frame(builder, self.table, values))
        ranks = [1 if name == "label" and value.width == 1 else 2 for name, value in zip(self.names, made, strict=True)]
        found = [(_narrowed(builder, value), name, rank) for value, name, rank in zip(made, names, ranks, strict=True)]
        return builder.model([(value, value.name) for value in values], found)

    def run(self, feeds: Feeds) -> Arrays:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.answer(self.table.given(feeds))

    def samples(self) -> Mapping[str, Any]:
        return self._known(ranges.draw_rows(self.critical, self.table, self.run, self.seed))

    def _known(self, drawn: Feeds) -> dict[str, Any]:
        """Return rows with known and missing categories in the columns that take no others."""
        numpy = importlib.import_module("numpy")
        found = dict(drawn)
        for position in self.closed:
            name = self.table.ports[position].name
            named = [item for item in self.critical[position] if item == item]
            known = numpy.array(named, found[name].dtype)
            other = ~(numpy.isin(found[name], known) | _is_missing(found[name]))
            found[name][other] = numpy.resize(known, int(other.sum()))
        return found

    def rows(self) -> Mapping[str, Feeds]:
        drawn = ranges.row_sets(self.critical, self._in_leaves(), self.table, self.run)
        found = {title: self._known(feeds) for title, feeds in drawn.items()}
        return {"logged example": self.examples, **found} if self.examples else found

    def _in_leaves(self) -> Any:
        """Return rows that reach every leaf, with categories as callers have them."""
        if self.grown is None:
            return None
        found = _critical.leaf_rows(self.grown, self.grown.columns.width)
        if found is None or not self.categories:
            return found
        found = found.astype("object")
        for position, known in self.categories.items():
            named = {float(code): item for code, item in enumerate(known)}
            found[:, position] = [named.get(code, _UNSEEN) for code in found[:, position]]
        return found

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def _is_missing(values: Any) -> Any:
    """Say of categories in a column which are missing: empty texts, and numbers that are none."""
    return values == "" if values.dtype == object else values != values


def _narrowed(builder: Builder, value: Value) -> Value:
    """Return numbers as float32, the type of outputs; labels as they are."""
    return builder.cast(value, "float32") if value.dtype == "float64" else value


def write_classes(builder: Builder, scores: Value, classes: Any) -> list[Value]:
    """Write the class with the first largest score, and the scores; one score alone is that of the second class."""
    both = both_sides(builder, scores) if scores.width == 1 else scores
    return [write_labels(builder, classes, position_of_largest(builder, both)), both]


def class_answers(scores: Any, classes: Any) -> Arrays:
    """Return what `write_classes` writes, of computed scores."""
    numpy = importlib.import_module("numpy")
    flat = scores.reshape(len(scores), -1)
    both = numpy.concatenate([1 - flat, flat], axis=1) if flat.shape[1] == 1 else flat
    return [_sklearn.label_values(classes)[both.argmax(axis=1)], both.astype("float32")]


def numbers(values: Any) -> Any:
    """Return computed numbers as an output: float32 [batch, width]."""
    array = importlib.import_module("numpy").asarray(values)
    return array.reshape(len(array), -1).astype("float32")


def labels(values: Any, classes: Any) -> Any:
    """Return computed labels as an output, in the type that all classes have in a graph."""
    numpy = importlib.import_module("numpy")
    kind, array = _sklearn.label_values(classes).dtype, numpy.asarray(values)
    return array.astype("str").astype("O") if kind == "O" else array.astype(kind)


def to_categorical(given: Any, categories: Mapping[int, Sequence[Any]]) -> Any:
    """Return a data frame with columns of categories as its users have them; an empty text is a missing one."""
    if not hasattr(given, "columns"):
        return given
    pandas, found = importlib.import_module("pandas"), given.copy()
    for position, known in categories.items():
        column = given.iloc[:, position]
        column = column if "" in known else column.mask(column == "")
        kind: Any = "category"
        if column.isna().all():  # a row by itself: nothing in it says of which type its categories are
            kind = pandas.CategoricalDtype([item for item in known if item is not None])
        found[given.columns[position]] = column.astype(kind)
    return found
