# SPDX-License-Identifier: Apache-2.0
"""Run source and artefact on rows with labels, and say what both reach by a metric, overall and on slices.

The figures are scikit-learn's; those of pictures are in `_evaluate_pictures`, of texts in `_evaluate_texts`. Rows
become inputs as in a request: by the pipeline of the bundle, or by the names of the inputs. What is right is compared
as text, so that `1`, `1.0` and "1" are one label. The data are a user's: what cannot be read or is not taken is an
error that names the row.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.recipe.evaluation import OF_WORDS
from packager.server.errors import RequestError
from packager.server.pipeline import rows as tables
from packager.server.pipeline.parts import Boxes, Classes, Regions
from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.protocol.interface import Interface
from packager.steps import _distributions
from packager.steps._evaluate_files import HINT, read_rows
from packager.steps._evaluate_pictures import BOXES, REGIONS, Counts, Detections, PictureCollector

Run = Callable[[Mapping[str, Any]], Sequence[Any]]
_BATCH = 64  # rows of one run
_MOST_SLICES = 1000
_NUMBERS = ("rmse", "mae", "r2")


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a model says of rows: the best label of each and scores for all `names`, or numbers as `scores` alone."""

    labels: list[str] | None = None
    scores: Any = None
    names: tuple[str, ...] = ()


def evaluate(data: Path, raw: Path | None, spec: JSON, about: JSON, source: Run, target: Run) -> tuple[JSON, JSON]:
    """Return what both sides reach, and the distributions of the rows and of the source's answers.

    `raw` is the folder of a pipeline, `about` the facts of the graph. Raises StepError for data that do not fit.
    """
    rows = LabelledRows(data, raw, spec, about)
    sides = rows.collect(), rows.collect()
    answers = _distributions.Answers(about["interface"])
    start = 0
    for count, feeds in rows.feeds():
        expected = source(feeds)
        answers.add(expected, count)
        sides[0].add(expected, start)
        sides[1].add(target(feeds), start)
        start += count
    reached = rows.judge(*sides)
    return reached, _distributions.describe_rows(reached["data"], rows.columns, rows.rows, answers)


class LabelledRows:
    """The rows of a user's file with labels, as inputs of a graph; `judge` says what the answers to them reach."""

    def __init__(self, data: Path, raw: Path | None, spec: JSON, about: JSON) -> None:
        """Read the one file in the folder `data`; the others are as in `evaluate`. Raises StepError."""
        interface = Interface.from_json(about["interface"])
        self._spec, self._data = spec, data
        self._reader = _Reader(
            interface, open_pipeline(raw, interface) if raw else None, spec, about.get("classes") or {}
        )
        self.rows = read_rows(data)
        self.columns = self._reader.columns
        check_columns(self.rows, spec)

    def feeds(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the inputs of runs, with how many rows each has. Raises StepError that names a row."""
        for start, feeds in self._reader.feeds(self.rows):
            yield min(self._reader.size, len(self.rows) - start), feeds

    def collect(self) -> Collector:
        """Return what takes the outputs of one side, run by run, with the number of their first row."""
        reader, raw = self._reader, self._reader.raw
        if raw is None or not isinstance(raw.about.answer, Regions | Boxes):
            return _Collector(reader)
        outputs = [port.name for port in reader.interface.outputs]
        truth = [row[self._spec["label"]] for row in self.rows]
        return _Pictures(PictureCollector(raw.about.answer, outputs, reader.metric, truth), reader)

    def judge(self, *sides: Collector) -> JSON:
        """Return what source and target reach, of which every output was added. Raises StepError."""
        return judge_sides(self._spec, self._data, self.rows, [side.answers() for side in sides])


def judge_sides(spec: JSON, data: Path, rows: Sequence[Mapping[str, JSON]], sides: Sequence[Any]) -> JSON:
    """Return what source and target, in this order, reach on the rows of the one file in `data`. Raises StepError."""
    truth = [row[spec["label"]] for row in rows]
    return {
        "data": _distributions.digest_file(data),
        "rows": len(rows),
        **_both(spec["metric"], truth, sides, None),
        "slices": list(_slices(spec, rows, truth, sides)),
    }


def check_columns(rows: Sequence[Mapping[str, JSON]], spec: JSON) -> None:
    """Raise StepError for a row without a label or a value of a slice, and for slices that the label cannot make."""
    if spec["metric"] in (*REGIONS, *BOXES, *OF_WORDS) and spec["label"] in spec.get("slices", ()):
        what = "sentences" if spec["metric"] in OF_WORDS else "masks or boxes"
        raise StepError(
            f"evaluation: `{spec['label']}` has {what}, which make no slices", hint="remove it from `slices`"
        )
    for number, row in enumerate(rows):
        for column in (spec["label"], *spec.get("slices", ())):
            if row.get(column) in (None, ""):
                what = "label" if column == spec["label"] else "value of a slice"
                raise StepError(f"evaluation: row {number} has no `{column}`, the {what}", hint=HINT)


class _Reader:
    """How rows become inputs, and which output answers."""

    def __init__(self, interface: Interface, raw: Pipeline | None, spec: JSON, classes: JSON) -> None:
        self.interface, self.raw, self.metric = interface, raw, spec["metric"]
        self._columns = [port.name for port in interface.inputs]
        self.sizes: dict[int, Sequence[tuple[int, int]]] = {}
        if raw is not None:
            self._check_metric(raw)
            answer: Any = raw.about.answer
            self._columns = [raw.describe()["input"]]
            self.output, self.names = getattr(answer, "output", ""), answer.labels
            return
        if self.metric in (*REGIONS, *BOXES):
            raise StepError(
                f"evaluation: `{self.metric}` is of what a pipeline finds in pictures, and there is none",
                hint="add `pipeline`, with the task `image-segmentation` or `object-detection`",
            )
        self.output = spec.get("output") or self._proposed()
        self.names = tuple(_text(label) for label in classes.get(self.output, ()))
        if self.output not in [port.name for port in interface.outputs]:
            known = ", ".join(f"`{port.name}`" for port in interface.outputs)
            raise StepError(f"evaluation: there is no output `{self.output}`", hint=f"write `output`: one of {known}")

    def _check_metric(self, raw: Pipeline) -> None:
        """Raise StepError for a metric that says nothing of the answers of a task."""
        answer = raw.about.answer
        fitting = {Regions: self.metric in REGIONS, Boxes: self.metric in BOXES}
        fitting[Classes] = self.metric not in (*_NUMBERS, *REGIONS, *BOXES)
        if not fitting.get(type(answer), False):
            raise StepError(
                f"evaluation: `{self.metric}` is not measured for `{raw.about.task}`",
                hint="pipelines that classify have `accuracy`, `f1`, `auc` and `recall@N`, `image-segmentation` has "
                "`miou`, `object-detection` has `map`; remove `evaluation`, or `pipeline`",
            )

    def _proposed(self) -> str:
        """Return the first output that the metric can read."""
        scores = self.metric == "auc" or self.metric.startswith("recall@")
        for port in self.interface.outputs:
            is_label = port.dtype in ("string", "bool") or port.dtype.startswith(("int", "uint"))
            if is_label != (scores or self.metric in _NUMBERS) and (not scores or len(port.shape) == 2):
                return port.name
        return self.interface.outputs[0].name

    def feeds(self, rows: Sequence[Mapping[str, JSON]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the inputs of runs with the number of their first row."""
        for start in range(0, len(rows), self.size):
            part = rows[start : start + self.size]
            yield start, self._prepared(part, start)

    @property
    def size(self) -> int:
        """How many rows a run takes."""
        if self.raw is not None and self.raw.single:
            return 1
        first = self.interface.inputs[0].shape[0] if self.interface.inputs[0].shape else 1
        most = first if isinstance(first, int) else self.interface.allowed_range(first).largest
        return min(most or _BATCH, _BATCH)

    @property
    def columns(self) -> list[JSON]:
        """The columns of a row: the inputs of the graph, or the text, image or audio of a pipeline."""
        if self.raw is None:
            return [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in self.interface.inputs]
        return [{"name": name, "dtype": "string", "shape": ["rows"]} for name in self._columns]

    def _prepared(self, part: Sequence[Mapping[str, JSON]], start: int) -> Mapping[str, Any]:
        try:
            feeds, self.sizes[start] = self._made(part)
            return feeds
        except RequestError as error:
            for number, row in enumerate(part):
                try:
                    self._made([row])
                except RequestError as own:
                    raise StepError(f"evaluation: row {start + number}: {own.message}", hint=HINT) from None
            raise StepError(f"evaluation: rows from {start} on: {error.message}", hint=HINT) from None

    def _made(self, part: Sequence[Mapping[str, JSON]]) -> tuple[Mapping[str, Any], Sequence[tuple[int, int]]]:
        """Return the inputs of rows, and the heights and widths of pictures."""
        taken = [{name: row[name] for name in self._columns if name in row} for row in part]
        if self.raw is None:
            return tables.feeds(self.interface, taken), ()
        prepared = self.raw.prepare(taken)
        return prepared.feeds, prepared.sizes


class Collector(Protocol):
    """The answers of one side, run by run."""

    def add(self, results: Sequence[Any], start: int) -> None:
        """Take the outputs of a run, whose first row has the number `start`. Raises StepError."""

    def answers(self) -> Any:
        """Return what was said of all rows. Raises StepError for an output that the metric cannot read."""


class _Pictures:
    """The answers of one side about pictures, whose sizes the reader knows."""

    def __init__(self, inner: PictureCollector, reader: _Reader) -> None:
        self._inner, self._reader = inner, reader
        self.answers = inner.answers

    def add(self, results: Sequence[Any], start: int) -> None:
        """Count the outputs of a run."""
        self._inner.add(results, start, self._reader.sizes[start])


class _Collector:
    """The labels, scores or numbers of one side, run by run."""

    def __init__(self, reader: _Reader) -> None:
        self._reader, self._parts = reader, list[Any]()
        self._place = [port.name for port in reader.interface.outputs].index(reader.output)

    def add(self, results: Sequence[Any], start: int) -> None:
        values = results[self._place]
        if values.dtype.kind == "f" and bool((values != values).any()):
            raise StepError(f"evaluation: `{self._reader.output}` is not a number in the rows from {start} on")
        self._parts.append(values)

    def answers(self) -> _Answers:
        """Return what was said of all rows. Raises StepError for an output that the metric cannot read."""
        reader = self._reader
        values = importlib.import_module("numpy").concatenate(self._parts)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if reader.metric in _NUMBERS:
            if values.ndim != 1 or values.dtype.kind not in "fiu":
                raise self._unread("one number per row")
            return _Answers(scores=values.astype("float64"))
        if values.ndim == 1 and values.dtype.kind in "OUbiu":
            return _Answers(labels=[_text(value) for value in values.tolist()])
        if values.ndim == 2 and values.dtype.kind == "f":
            names = reader.names or tuple(str(number) for number in range(values.shape[1]))
            if len(names) != values.shape[1]:
                raise self._unread(f"a score for each of {len(names)} labels")
            best = values.argmax(1).tolist()
            return _Answers([names[index] for index in best], values.astype("float64"), names)
        if values.ndim == 1 and reader.metric == "auc":
            return _Answers(scores=values.astype("float64"))
        raise self._unread("a label or scores per row")

    def _unread(self, wanted: str) -> StepError:
        return StepError(
            f"evaluation: `{self._reader.output}` is not {wanted}, which `{self._reader.metric}` needs",
            hint="name another `output`, or another `metric`",
        )


def _text(value: Any) -> str:
    """Return a label as text: 1, 1.0 and "1" are one, true and "True" as well."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def _slices(
    spec: JSON, rows: Sequence[Mapping[str, JSON]], truth: Sequence[JSON], found: Sequence[Any]
) -> Iterator[JSON]:
    for column in spec.get("slices", ()):
        places: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            places.setdefault(_text(row[column]), []).append(number)
        if len(places) > _MOST_SLICES:
            raise StepError(
                f"evaluation: `{column}` has {len(places)} values, expected at most {_MOST_SLICES}",
                hint="name columns with few values under `slices`",
            )
        for value, chosen in sorted(places.items()):
            about = {"column": column, "value": value[:200], "rows": len(chosen)}
            yield {**about, **_both(spec["metric"], truth, found, chosen)}


def _both(metric: str, truth: Sequence[JSON], found: Sequence[Any], chosen: list[int] | None) -> JSON:
    source, target = (_value(metric, truth, side, chosen) for side in found)
    return {"source": source, "target": target}


def _value(
    metric: str, truth: Sequence[JSON], found: _Answers | Counts | Detections, chosen: list[int] | None
) -> float | None:
    """Return the metric over all rows or the chosen ones; None where it is not defined, as AUC with one class."""
    numpy = importlib.import_module("numpy")
    places = range(len(truth)) if chosen is None else chosen
    if not isinstance(found, _Answers):
        return found.value(places)
    scores = None if found.scores is None else found.scores[list(places)]
    if metric in _NUMBERS:
        value = _of_numbers(metric, [_number(truth[place], place) for place in places], scores)
    else:
        right = [_text(truth[place]) for place in places]
        labels = None if found.labels is None else [found.labels[place] for place in places]
        value = _of_labels(metric, numpy.array(right, object), labels, scores, found.names)
    return None if value is None or not math.isfinite(value) else float(value)


def _number(value: JSON, row: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise StepError(f"evaluation: the label of row {row} is not a number", hint=HINT) from None


def _of_numbers(metric: str, right: list[float], got: Any) -> float | None:
    metrics = _library()
    if metric == "r2":
        return metrics.r2_score(right, got) if len(right) > 1 else None
    function = metrics.root_mean_squared_error if metric == "rmse" else metrics.mean_absolute_error
    return function(right, got)


def _of_labels(metric: str, right: Any, labels: Any, scores: Any, names: tuple[str, ...]) -> float | None:
    metrics = _library()
    if metric in ("accuracy", "f1") and labels is not None:
        if metric == "accuracy":
            return metrics.accuracy_score(right, labels)
        return metrics.f1_score(right, labels, average="macro", zero_division=0.0)
    if scores is None:
        raise StepError(f"evaluation: `{metric}` needs scores", hint="name an `output` with a score per label")
    if metric == "auc":
        return _area(metrics, right, scores, names)
    most = int(metric.partition("@")[2])
    best = scores.argsort(1, kind="stable")[:, ::-1][:, :most]
    return sum(label in {names[place] for place in row} for label, row in zip(right, best, strict=True)) / len(right)


def _area(metrics: Any, right: Any, scores: Any, names: tuple[str, ...]) -> float | None:
    """Return the area under the ROC curve: of the larger label of two, or the mean of each class against the others."""
    present = sorted(set(right))
    if scores.ndim == 1:
        return metrics.roc_auc_score(right == present[1], scores) if len(present) == 2 else None
    known = [index for index, name in enumerate(names) if name in present]
    if unknown := sorted(set(present) - set(names)):
        raise StepError(f"evaluation: the label `{unknown[0]:.60}` is none of the model's", hint=HINT)
    if len(known) < 2:
        return None
    areas = [metrics.roc_auc_score(right == names[index], scores[:, index]) for index in known]
    return sum(areas) / len(areas)


def _library() -> Any:
    try:
        return importlib.import_module("sklearn.metrics")
    except ImportError:
        raise MissingToolError("scikit-learn", "sklearn") from None
