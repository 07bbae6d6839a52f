# SPDX-License-Identifier: Apache-2.0
"""Fitted scikit-learn estimators as sources. Runs in the worker only.

Outputs: `label` and `probabilities` of a classifier (one `probabilities_N` per question of one with several),
`prediction` of a regressor, `label` and `score` of an outlier detector, `label` of a clusterer, `transformed` of a
transformer. The reference is the estimator's own call on the data frame or matrix that callers of it have; graphs
come from the writers in `_sklearn`.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import Arrays, ExportOptions, Feeds, Interface, Leaves, Port, _sklearn
from packager.exporters._files import mlflow
from packager.exporters._sklearn import boosters
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.critical import refuse_rounding, tied_rows
from packager.exporters._tables import coverage as _coverage
from packager.exporters._tables import nested, ranges
from packager.exporters._tables import table as _table
from packager.exporters._tables.table import Table

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


def open_estimator(source: Path, model: Any, options: ExportOptions) -> Estimator:
    """Bring a fitted estimator together with signature and recipe. Raises StepError for what is not one."""
    base = library()
    if not isinstance(model, base.base.BaseEstimator):
        raise StepError(
            f"the source holds a `{type(model).__name__}`, expected a fitted scikit-learn estimator",
            hint="log the estimator itself, not what it is part of",
        )
    answers_of(model)
    first = model.steps[0][1] if hasattr(model, "steps") else model
    table = _table.table(
        source,
        options,
        _names(source, list(map(str, getattr(model, "feature_names_in_", ())))),
        getattr(model, "n_features_in_", None),
        text=hasattr(first, "token_pattern"),
        missing=ranges.missing_text(model),
        texts=ranges.text_columns(model),
    )
    table = _with_categories(table, model)
    examples = _table.logged_rows(source, table)
    interface = options.interface(table.ports, {}, unfix=_table.UNFIX)
    return Estimator(model, table, interface, options.outputs, options.seed, examples)


def _with_categories(table: Table, model: Any) -> Table:
    """Say of which columns boosters inside the estimator were given categories: they refuse anything else there."""
    named = boosters.category_columns(model)
    found = tuple(port.name for port in table.ports if port.name in named) if table.layout == "frame" else ()
    return replace(table, categories=found)


def _names(source: Path, fitted: list[str]) -> list[str]:
    """Return the names of the columns as callers know them: LightGBM, as a first step, remembers spaces as `_`."""
    stated = [column.name for column in mlflow.read_columns(source)]
    return stated if [re.sub(r"\s", "_", name) for name in stated] == fitted else fitted


def require() -> None:
    """Say how to install scikit-learn where it is missing. It is not imported: a pickle imports what it needs."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingToolError("scikit-learn", "sklearn")


def library() -> Any:
    """Import scikit-learn, or say how to install it."""
    try:
        importlib.import_module("sklearn.base")
        return importlib.import_module("sklearn")
    except ImportError:
        raise MissingToolError("scikit-learn", "sklearn") from None


_NEAREST = ("KMeans", "MiniBatchKMeans")  # their labels are the nearest of `transform`


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted estimator as a source. `outputs` are the requested names, empty for the default ones."""

    model: Any
    table: Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0
    examples: Mapping[str, Any] | None = None

    def to_onnx(self, opset: int) -> Any:
        answers = answers_of(self.model)
        names = output_names([answer.name for answer in answers], self.outputs, self.interface.inputs)
        builder = Builder(opset, [*(port.name for port in self.interface.inputs), *names])
        values = [Value(port.name, port.dtype, int(port.shape[1])) for port in self.interface.inputs]
        frame = to_frame(builder, self.table, values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = [_written(builder, self.model, answer, frame) for answer in answers]
        seen = _table.explain_failure(
            "the model answers no row of the values that it knows itself",
            lambda: self.run(first_rows(self.samples(), 3)),
            "log it with an input example, or name rows under `samples`",
        )
        ranks = [array.ndim for array in seen]
        return builder.model([(value, value.name) for value in values], list(zip(made, names, ranks, strict=True)))

    def run(self, feeds: Feeds) -> Arrays:
        given = self.table.given(feeds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run_estimator(self.model, given)

    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
        """Return for every element how far the estimator was from answering `got` instead (see `SourceModel`)."""
        if output:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _gaps(self.model, self.table.given(feeds), expected, got)

    def leaves(self, feeds: Feeds) -> Leaves:
        """Leave out what no graph repeats: which of equally near neighbours the library met first.

        Raises StepError where a linear model's own answers are rounding.
        """
        parts = list(nested.inner_estimators(self.model))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if any(hasattr(part, "coef_") and hasattr(part, "intercept_") for part in parts):
                refuse_rounding(self.model, self.table.given(feeds))
            if not any(hasattr(part, "kneighbors") or type(part).__name__ == "KNNImputer" for part in parts):
                return Leaves()
            return Leaves(tied=tied_rows(self.model, self.table.given(feeds)))

    def samples(self) -> Mapping[str, Any]:
        found = ranges.samples(self.model, self.table, self.run, self.seed)
        return boosters.known_categories(self.model, found) if self.table.categories else found

    def rows(self) -> Mapping[str, Feeds]:
        found = ranges.rows(self.model, self.table, self.run, self.seed)
        if self.table.categories:
            found = {title: boosters.known_categories(self.model, feeds) for title, feeds in found.items()}
        return {"logged example": self.examples, **found} if self.examples else found

    def coverage(self) -> _coverage.Coverage:
        return _coverage.Coverage(self.model, self.table)

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def _is_same(left: Any, right: Any) -> bool:
    return bool((left == right).all())


def to_frame(builder: Builder, table: Table, values: Sequence[Value]) -> Frame:
    """Return the inputs as what the source is called with: in the types it is trained on, named if it is a frame."""
    kinds = ("string" if kind == "object" else kind for kind in table.trained)
    cast = tuple(builder.cast(value, kind) for value, kind in zip(values, kinds, strict=True))
    return Frame(cast, tuple(port.name for port in table.ports) if table.layout == "frame" else ())


def first_rows(samples: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the first rows of samples of every input."""
    return {name: rows[[index % len(rows) for index in range(count)]] for name, rows in samples.items()}


def output_names(default: Sequence[str], requested: Sequence[str], inputs: Sequence[Port]) -> tuple[str, ...]:
    """Return the names of the outputs: the requested ones, else the defaults, `NAME_out` where a column is `NAME`."""
    if requested and len(requested) != len(default):
        raise StepError(f"expected {len(default)} output names ({', '.join(default)}), got {len(requested)}")
    taken = {port.name for port in inputs}
    found: list[str] = []
    for name in requested or default:
        while name in taken:
            name = f"{name}_out"
        taken.add(name)
        found.append(name)
    return tuple(found)


# -- what an estimator answers


@dataclass(frozen=True, slots=True)
class Answer:
    """An output: its name, the method that gives it, and, of several tables side by side, which columns it is."""

    name: str
    method: str
    part: tuple[int, int] | None = None


def answers_of(model: Any) -> list[Answer]:
    """Return the outputs of an estimator, by what it is. Raises StepError, naming it, for what answers nothing."""
    base = library().base
    if base.is_classifier(model) or _is_mixture(model):
        return _of_classifier(model)
    if base.is_outlier_detector(model):
        if not hasattr(model, "predict"):
            _sklearn.refuse(_last(model), "gives no answer for new rows", "fit it with `novelty=True`")
        return [Answer("label", "predict"), Answer("score", "decision_function")]
    if _is_clusterer(model):
        return _of_clusterer(model)
    if hasattr(model, "predict"):
        return [Answer("prediction", "predict")]
    if not hasattr(model, "transform"):
        _sklearn.refuse(_last(model), "neither predicts nor transforms new rows")
    return [Answer("transformed", "transform")]


def _last(model: Any) -> Any:
    return model.steps[-1][1] if hasattr(model, "steps") else model


def _of_clusterer(model: Any) -> list[Answer]:
    if not hasattr(model, "predict") and hasattr(model, "transform"):
        return [Answer("transformed", "transform")]  # it groups columns
    if not hasattr(model, "predict"):
        why = "groups the rows it was fitted on and cannot place new ones"
        _sklearn.refuse(_last(model), why, "use a clusterer that predicts, such as `KMeans`")
    return [Answer("label", "predict")]


def _is_clusterer(model: Any) -> bool:
    base = library().base
    return (
        bool(base.is_clusterer(model))
        if hasattr(base, "is_clusterer")
        else (getattr(model, "_estimator_type", None) == "clusterer")
    )


def _is_mixture(model: Any) -> bool:
    return type(_last(model)).__module__.startswith("sklearn.mixture")


def _of_classifier(model: Any) -> list[Answer]:
    label = Answer("label", "predict")
    if not hasattr(model, "predict_proba"):
        return [label]
    classes = getattr(model, "classes_", ())
    chained = hasattr(_last(model), "order_")  # a chain gives one probability per question, side by side
    if isinstance(classes, list) and not chained and len(classes) > 0 and hasattr(classes[0], "__len__"):
        ends = [0]
        for own in classes:
            ends.append(ends[-1] + len(own))
        parts = list(itertools.pairwise(ends))
        return [label, *(Answer(f"probabilities_{i}", "predict_proba", part) for i, part in enumerate(parts))]
    return [label, Answer("probabilities", "predict_proba")]


def _written(builder: Builder, model: Any, answer: Answer, frame: Frame) -> Value:
    """Write an output; numbers leave the graph as float32, labels as they are."""
    made = _sklearn.emit_frame(builder, model, answer.method, frame)
    whole = _one(builder, model, made)
    if answer.part:
        whole = builder.take(whole, list(range(*answer.part)))
    if whole.dtype == "string":
        return whole
    return builder.cast(whole, str(_label_type(model)) if answer.name == "label" else "float32")


def _one(builder: Builder, model: Any, made: Frame) -> Value:
    kinds = set(made.dtypes)
    if "string" in kinds and len(kinds) > 1:
        _sklearn.refuse(
            model,
            "gives text and numbers side by side, which one tensor cannot hold",
            "encode the text columns in the model, or drop them",
        )
    return builder.concat(made.blocks) if len(kinds) == 1 else builder.matrix(made)


def run_estimator(model: Any, given: Any) -> Arrays:
    """Compute the outputs as the estimator does, in the types of the graph."""
    numpy = importlib.import_module("numpy")
    computed: dict[str, Any] = {}
    found = []
    for answer in answers_of(model):
        if answer.method not in computed:
            value = getattr(model, answer.method)(given)
            computed[answer.method] = numpy.concatenate(value, axis=1) if isinstance(value, list) else value
        value = computed[answer.method]
        value = value[:, slice(*answer.part)] if answer.part else value
        found.append(_labels(model, value) if answer.name == "label" else _numbers(value, len(given)))
    return found


def _labels(model: Any, value: Any) -> Any:
    """Return labels in the type that all classes of the model have in a graph."""
    numpy = importlib.import_module("numpy")
    dense = numpy.asarray(value.toarray() if hasattr(value, "toarray") else value)
    kind = _label_type(model)
    return dense.astype("str").astype("O") if kind == "O" else dense.astype(kind)


def _label_type(model: Any) -> Any:
    """Return numpy's type of the labels of a model: of all classes, int64 where there are none (clusters, outliers)."""
    numpy = importlib.import_module("numpy")
    classes = getattr(model, "classes_", None)
    if classes is None:
        return numpy.dtype("int64")
    return _sklearn.label_values(numpy.concatenate(classes) if isinstance(classes, list) else classes).dtype


def _numbers(value: Any, rows: int) -> Any:
    numpy = importlib.import_module("numpy")
    dense = numpy.asarray(value.toarray() if hasattr(value, "toarray") else value)
    dense = dense.reshape(rows, -1)  # a projection of one row may come without its axis
    return dense.astype("object") if dense.dtype.kind in "OU" and not _is_numeric(dense) else dense.astype("float32")


def _is_numeric(values: Any) -> bool:
    try:
        values.astype("float64")
    except (TypeError, ValueError):
        return False
    return True


def _scores(numpy: Any, model: Any, given: Any) -> tuple[Any, list[Any]] | None:
    """Return scores [rows, labels] of which the largest decides, and the labels; None where no scores are known."""
    if type(getattr(model, "_final_estimator", model)).__name__ in _NEAREST:
        distances = numpy.asarray(model.transform(given), "float64")
        return -distances, list(range(distances.shape[1]))
    ask = next((name for name in ("predict_proba", "decision_function") if hasattr(model, name)), None)
    if ask is None or not hasattr(model, "classes_"):
        return None
    scores = numpy.asarray(getattr(model, ask)(given), "float64")
    scores = numpy.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
    return scores, _sklearn.label_values(model.classes_).tolist()


def _gaps(model: Any, given: Any, expected: Any, got: Any) -> Any:
    """Return the distance of the scores of two labels, row by row, relative to the largest score of the row."""
    numpy = importlib.import_module("numpy")
    found = _scores(numpy, model, given) if expected.ndim == 1 else None
    if found is None:
        return None
    scores, labels = found
    positions = {label: position for position, label in enumerate(labels)}
    if scores.shape[1] != len(positions):
        return None
    rows = numpy.arange(len(scores))
    own = numpy.array([positions.get(label, 0) for label in expected.tolist()])
    other = numpy.array([positions.get(label, -1) for label in got.tolist()])
    gap = abs(scores[rows, own] - scores[rows, other]) / numpy.maximum(1.0, abs(scores).max(axis=1))
    return numpy.where(other < 0, numpy.inf, gap)
