# SPDX-License-Identifier: Apache-2.0
"""The inputs of models that were trained on tables: named columns, one matrix, or a list of texts.

A column of a data frame is an input of shape [batch, 1] with the column's name and its own type: a `double` is
float64 at the interface, because what rounds it to float32 may send it to another leaf. The source is called with the
data frame that callers of it have, in the logged types; a recipe may narrow what clients send.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packager.errors import StepError
from packager.exporters import BATCH, Feeds, Port, Wishes, _mlflow, pair

Layout: TypeAlias = Literal["frame", "matrix", "text"]

UNFIX = "name the first axis `batch`; the number of columns is fixed by the model"

_DTYPES = {  # MLflow's column types: what callers send, and what the source was trained on
    "boolean": ("bool", "bool"),
    "integer": ("int32", "int32"),
    "long": ("int64", "int64"),
    "float": ("float32", "float32"),
    "double": ("float64", "float64"),
    "string": ("string", "object"),
}
_MATRIX = ("float32", "float64", "int32", "int64", "bool")
_DECLARE = "log the model with a signature, or name the columns under `inputs` with their types"


@dataclass(frozen=True, slots=True)
class Table:
    """How the inputs become what the source is called with; `trained` is the numpy dtype of each input there."""

    layout: Layout
    ports: tuple[Port, ...]
    trained: tuple[str, ...]

    def given(self, feeds: Feeds) -> Any:
        """Return the data frame, matrix or list of texts that the source takes."""
        values = [feeds[port.name].astype(t) for port, t in zip(self.ports, self.trained, strict=True)]
        if self.layout == "frame":
            pandas = importlib.import_module("pandas")
            return pandas.DataFrame(
                {port.name: value.reshape(-1) for port, value in zip(self.ports, values, strict=True)}
            )
        return values[0].reshape(-1) if self.layout == "text" else values[0]


def table(source: Path, wishes: Wishes, names: Sequence[str], width: int | None, *, text: bool) -> Table:
    """Bring signature, recipe and the fitted model together; `names` and `width` are the model's own columns, if any.

    `text` says that the model takes a list of texts. Raises StepError when the types of columns stay unknown, or when
    recipe and model contradict each other.
    """
    columns, (tensors, _) = _mlflow.columns(source), _mlflow.signature(source)
    if text:
        return _text(next(iter(columns), None) or next(iter(tensors), None), wishes)
    if columns and all(column.name for column in columns):
        stated = {column.name: column for column in columns}
        _check_names(list(stated), names)
        order = names if set(names) == set(stated) else list(stated)
        return frame([(name, *dtypes(stated[name])) for name in order], wishes)
    if names and not tensors:
        return frame([(name, *_wished(name, wishes)) for name in names], wishes)
    return _matrix(next(iter(tensors), None), wishes, len(columns) or width)


def dtypes(column: _mlflow.Column) -> tuple[str, str]:
    """Return the types of a column: what callers send, and what the source was trained on."""
    if column.dtype not in _DTYPES:
        raise StepError(
            f"column `{column.name}` is {column.dtype}, expected one of {', '.join(_DTYPES)}",
            hint="turn it into numbers or text before the model, and log it again",
        )
    return _DTYPES[column.dtype]


def _wished(name: str, wishes: Wishes) -> tuple[str, str]:
    """Return the types of a column that only the recipe knows; numbers as numpy has them when it is silent."""
    found = {port.name: port.dtype for port in wishes.inputs or ()}
    dtype = found.get(name, "float64")
    return dtype, {"string": "object", "float32": "float64"}.get(dtype, dtype)


def _check_names(stated: Sequence[str], fitted: Sequence[str]) -> None:
    missing = sorted(set(fitted) - set(stated))
    if missing:
        raise StepError(f"the signature lacks the column `{missing[0]}`, which the model was fitted on", hint=_DECLARE)


def frame(columns: Sequence[tuple[str, str, str]], wishes: Wishes) -> Table:
    """Return the table of columns given by name, type at the interface, and type they were trained on."""
    ports = _merged([Port(name, dtype, (BATCH, 1)) for name, dtype, _ in columns], wishes)
    return Table("frame", ports, tuple(trained for _, _, trained in columns))


def _matrix(stated: Port | None, wishes: Wishes, width: int | None) -> Table:
    count = width or (stated.shape[-1] if stated and len(stated.shape) == 2 else None)
    if not isinstance(count, int):
        raise StepError("the number of columns of the model is unknown", hint=_DECLARE)
    text = stated is not None and stated.dtype in ("str", "object", "string")
    number = stated.dtype if stated and stated.dtype in _MATRIX else "float64"
    dtype, trained = ("string", "object") if text else (number, number)
    name = (stated.name if stated else "") or "input"
    return Table("matrix", _merged([Port(name, dtype, (BATCH, count))], wishes), (trained,))


def _text(stated: Port | _mlflow.Column | None, wishes: Wishes) -> Table:
    name = (stated.name if stated else "") or "text"
    return Table("text", _merged([Port(name, "string", (BATCH, 1))], wishes), ("object",))


def _merged(found: Sequence[Port], wishes: Wishes) -> tuple[Port, ...]:
    """Take ranges, batch lengths and other number types from the recipe where they do not contradict the model."""
    return tuple(_merge(port, wish) for port, wish in zip(found, pair(found, wishes.inputs or ()), strict=True))


def _merge(port: Port, wish: Port | None) -> Port:
    if wish is None:
        return port
    fits = wish.dtype == port.dtype or (wish.dtype in _MATRIX and port.dtype in _MATRIX)
    if not fits or len(wish.shape) != 2 or wish.shape[1] != port.shape[1]:
        got = f"{wish.dtype} {list(wish.shape)}"
        raise StepError(f"input `{port.name}` is {port.dtype} {list(port.shape)}, got {got} from the recipe")
    return wish


def refused(what: str, call: Callable[[], Any], hint: str) -> Any:
    """Return what `call` does; turn what a converter raises, of any class, into one StepError that says `what`."""
    try:
        return call()
    except StepError:
        raise
    except Exception as error:  # converters raise whatever their authors liked
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise StepError(f"{what}: {type(error).__name__}: {(lines or ['no message'])[0]:.300}", hint=hint) from error
