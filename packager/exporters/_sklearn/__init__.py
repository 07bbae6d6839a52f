# SPDX-License-Identifier: Apache-2.0
"""scikit-learn to ONNX, method by method: what `predict_proba` computes in numpy, a graph computes in binary64.

A *writer* puts one method of some classes into a graph. It reads the attributes that fitting left, and calls `emit`
for the estimators inside its own, so a pipeline of whatever depth is what its parts are. A class or method without a
writer has no ONNX form here, and is refused by name. The files of this folder are grouped as scikit-learn's modules.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from packager.errors import StepError
from packager.exporters._sklearn.builder import Builder, Frame, Value

Writer: TypeAlias = Callable[[Builder, Any, Frame], Value | Frame]
_WRITERS: dict[tuple[str, str], Writer] = {}
_LIBRARIES = ("sklearn", "lightgbm", "xgboost", "catboost")
OTHERWISE = "replace that part of the model, or put it in front of the model as code of the caller"


def writes(method: str, *classes: str) -> Callable[[Writer], Writer]:
    """Register the writer of a method of classes, by their names; names are unique within scikit-learn."""

    def register(writer: Writer) -> Writer:
        _WRITERS.update({(name, method): writer for name in classes})
        return writer

    return register


@functools.cache
def _load_writers() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def writer_of(estimator: Any, method: str) -> Writer | None:
    """Return what writes a method of an estimator, or None. A subclass from elsewhere may do anything: none."""
    _load_writers()
    kind = type(estimator)
    known = kind.__module__.partition(".")[0] in _LIBRARIES
    return _WRITERS.get((kind.__name__, method)) if known else None


def emit(builder: Builder, estimator: Any, method: str, frame: Frame) -> Value:
    """Write what `estimator.method(frame)` computes, as one matrix; a class with one output has one column.

    Raises StepError, naming the estimator, for what has no ONNX form.
    """
    made = emit_frame(builder, estimator, method, frame)
    if len(made.blocks) == 1:
        return made.blocks[0]
    return builder.matrix(made)


def emit_frame(builder: Builder, estimator: Any, method: str, frame: Frame) -> Frame:
    """Write what `estimator.method(frame)` computes, each column in its own type (a transformer may pass text on)."""
    writer = writer_of(estimator, method)
    if writer is None:
        refuse(estimator, f"has no ONNX form here for `{method}`")

    def make() -> Frame:
        made = writer(builder, estimator, frame)
        return made if isinstance(made, Frame) else Frame((made,))

    found: Frame = builder.remember((id(estimator), method, frame), make)
    return found


def refuse(estimator: Any, why: str, hint: str = OTHERWISE) -> NoReturn:
    """Raise StepError about an estimator, by its class."""
    raise StepError(f"`{type(estimator).__name__}` {why}", hint=hint)


def label_values(classes: Any) -> Any:
    """Return the classes of a classifier as a graph holds them: int64, text, or float64 where they have fractions."""
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(classes)
    if array.dtype.kind in "OUS":
        if not all(isinstance(item, str) for item in array.tolist()):
            return label_values(numpy.asarray(array.tolist())) if _uniform(array) else array.astype(str).astype("O")
        return array.astype("O")
    if array.dtype.kind == "f" and not (array == numpy.floor(array)).all():
        return array.astype("float64")
    return array.astype("int64")


def _uniform(array: Any) -> bool:
    return len({type(item) for item in array.tolist()}) == 1 and isinstance(array.tolist()[0], int | float | bool)


def write_labels(builder: Builder, classes: Any, position: Value) -> Value:
    """Return the class at `position` of every row."""
    return builder.look_up(label_values(classes), position)


def position_of_largest(builder: Builder, scores: Value) -> Value:
    """Return the position of the first largest score, as `numpy.argmax` does."""
    return builder.position_of("ArgMax", scores)


def position_above(builder: Builder, score: Value, threshold: float = 0.0, *, inclusive: bool = False) -> Value:
    """Return 1 where the one score of a row is above the threshold, else 0."""
    kind = "GreaterOrEqual" if inclusive else "Greater"
    return builder.cast(builder.binary(kind, score, threshold), "int64")


def both_sides(builder: Builder, yes: Value) -> Value:
    """Return [1 - p, p] of a probability."""
    return builder.concat([builder.sub(1.0, yes), yes])


def names_of(estimator: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that a transformer makes where it gives a data frame, else none."""
    config = getattr(estimator, "_sklearn_output_config", {})
    if config.get("transform") not in ("pandas", "polars"):
        return ()
    try:
        return tuple(map(str, estimator.get_feature_names_out(list(names) or None)))
    except (AttributeError, ValueError):
        return ()
