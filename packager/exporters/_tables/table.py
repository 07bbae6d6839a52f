# SPDX-License-Identifier: Apache-2.0
"""The inputs of models that were trained on tables: named columns, one matrix, or a list of texts.

A column of a data frame is an input of shape [batch, 1] with the column's name and its own type: a `double` is
float64 at the interface, because what rounds it to float32 may send it to another leaf. The source is called with the
data frame that callers of it have, in the logged types; a recipe may narrow what clients send.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packager.errors import StepError
from packager.exporters import BATCH, ExportOptions, Feeds, Port, pair_ports
from packager.exporters._files import mlflow

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
    """How the inputs become what the source is called with; `trained` is the numpy dtype of each input there.

    `missing` is what the source takes for a missing text, in a tuple of one; a tensor of text holds none, so callers
    send an empty text for it. Empty: a text is never missing, and an empty one is only empty. `categories` names the
    columns that callers of the source have in pandas' type of categories.
    """

    layout: Layout
    ports: tuple[Port, ...]
    trained: tuple[str, ...]
    missing: tuple[Any, ...] = ()
    categories: tuple[str, ...] = ()

    def given(self, feeds: Feeds) -> Any:
        """Return the data frame, matrix or list of texts that the source takes."""
        values = [self._trained(feeds[port.name], kind) for port, kind in zip(self.ports, self.trained, strict=True)]
        if self.layout == "frame":
            pandas = importlib.import_module("pandas")
            # an object stays one: pandas 3 would make a missing text of whatever kind a NaN
            found = pandas.DataFrame(
                {
                    port.name: pandas.Series(value.reshape(-1), dtype=value.dtype)
                    for port, value in zip(self.ports, values, strict=True)
                }
            )
            return found.astype(dict.fromkeys(self.categories, "category")) if self.categories else found
        return values[0].reshape(-1) if self.layout == "text" else values[0]

    def _trained(self, values: Any, kind: str) -> Any:
        made = values.astype(kind)
        if kind == "object" and self.missing and self.layout != "text":
            made[made == ""] = self.missing[0]
        return made


def table(
    source: Path,
    options: ExportOptions,
    names: Sequence[str],
    width: int | None,
    *,
    text: bool,
    missing: tuple[Any, ...] = (),
    texts: Collection[int] = (),
) -> Table:
    """Bring signature, recipe and the fitted model together; `names` and `width` are the model's own columns, if any.

    `text` says that the model takes a list of texts, `texts` lists the positions of text columns; `missing` is what
    it takes for a missing one. Raises StepError when recipe and model contradict each other.
    """
    found = _laid_out(source, options, names, width, text, texts)
    return replace(found, missing=missing if "object" in found.trained else ())


def _laid_out(
    source: Path, options: ExportOptions, names: Sequence[str], width: int | None, text: bool, texts: Collection[int]
) -> Table:
    columns, (tensors, _) = mlflow.read_columns(source), mlflow.read_signature(source)
    if text:
        return _text(next(iter(columns), None) or next(iter(tensors), None), options)
    if columns and all(column.name for column in columns):
        stated = {column.name: column for column in columns}
        _check_names(list(stated), names)
        order = names if set(names) == set(stated) else list(stated)
        return frame([(name, *dtypes(stated[name])) for name in order], options)
    if names and not tensors:
        kinds = ["string" if position in texts else "float64" for position in range(len(names))]
        return frame([(name, *_wished(name, options, kind)) for name, kind in zip(names, kinds, strict=True)], options)
    return _matrix(next(iter(tensors), None), options, len(columns) or width)


def dtypes(column: mlflow.Column) -> tuple[str, str]:
    """Return the types of a column: what callers send, and what the source was trained on."""
    if column.dtype not in _DTYPES:
        raise StepError(
            f"column `{column.name}` is {column.dtype}, expected one of {', '.join(_DTYPES)}",
            hint="turn it into numbers or text before the model, and log it again",
        )
    return _DTYPES[column.dtype]


def _wished(name: str, options: ExportOptions, default: str) -> tuple[str, str]:
    """Return the types of a column that only the recipe knows; the default when it is silent."""
    found = {port.name: port.dtype for port in (*(options.inputs or ()), *options.notes) if port.dtype}
    dtype = found.get(name, default)
    return dtype, {"string": "object", "float32": "float64"}.get(dtype, dtype)


def _check_names(stated: Sequence[str], fitted: Sequence[str]) -> None:
    missing = sorted(set(fitted) - set(stated))
    if missing:
        raise StepError(f"the signature lacks the column `{missing[0]}`, which the model was fitted on", hint=_DECLARE)


def frame(columns: Sequence[tuple[str, str, str]], options: ExportOptions) -> Table:
    """Return the table of columns given by name, type at the interface, and type they were trained on."""
    ports = _merged([Port(name, dtype, (BATCH, 1)) for name, dtype, _ in columns], options)
    return Table("frame", ports, tuple(trained for _, _, trained in columns))


def _matrix(stated: Port | None, options: ExportOptions, width: int | None) -> Table:
    count = width or (stated.shape[-1] if stated and len(stated.shape) == 2 else None)
    if not isinstance(count, int):
        raise StepError("the number of columns of the model is unknown", hint=_DECLARE)
    text = stated is not None and stated.dtype in ("str", "object", "string")
    number = stated.dtype if stated and stated.dtype in _MATRIX else "float64"
    dtype, trained = ("string", "object") if text else (number, number)
    name = (stated.name if stated else "") or "input"
    return Table("matrix", _merged([Port(name, dtype, (BATCH, count))], options), (trained,))


def _text(stated: Port | mlflow.Column | None, options: ExportOptions) -> Table:
    name = (stated.name if stated else "") or "text"
    return Table("text", _merged([Port(name, "string", (BATCH, 1))], options), ("object",))


def _merged(found: Sequence[Port], options: ExportOptions) -> tuple[Port, ...]:
    """Take ranges, batch lengths and other number types from the recipe where they do not contradict the model."""
    return tuple(
        _merge(port, request) for port, request in zip(found, pair_ports(found, options.inputs or ()), strict=True)
    )


def _merge(port: Port, request: Port | None) -> Port:
    if request is None:
        return port
    fits = request.dtype == port.dtype or (request.dtype in _MATRIX and port.dtype in _MATRIX)
    if not fits or len(request.shape) != 2 or request.shape[1] != port.shape[1]:
        got = f"{request.dtype} {list(request.shape)}"
        raise StepError(f"input `{port.name}` is {port.dtype} {list(port.shape)}, got {got} from the recipe")
    return request


def logged_rows(source: Path, table: Table) -> dict[str, Any] | None:
    """Return the rows of the example that was logged with a model, as clients would send them; None without one.

    Read from the JSON that MLflow writes for data frames and arrays; an example that does not fit the columns is none.
    """
    path = mlflow.find_example(source)
    if path is None:
        return None
    try:
        rows = _example_rows(json.loads(path.read_bytes()), table)
        return {port.name: _as_column(rows[port.name], port) for port in table.ports} if rows else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _example_rows(value: Any, table: Table) -> dict[str, Any]:
    names = [port.name for port in table.ports]
    if isinstance(value, dict) and "columns" in value and "data" in value:
        columns = [str(name) for name in value["columns"]]
        if table.layout == "frame":
            return {name: [[row[columns.index(name)]] for row in value["data"]] for name in names}
        return {names[0]: value["data"]}
    if isinstance(value, dict) and "inputs" in value:
        value = value["inputs"]
    if isinstance(value, dict):
        return {name: [[item] for item in value[name]] for name in names}
    rows = value if isinstance(value, list) else []
    return {names[0]: [row if isinstance(row, list) else [row] for row in rows]} if len(names) == 1 else {}


def _as_column(rows: Any, port: Port) -> Any:
    """Return rows as an array of a port; a missing number is NaN, a missing text is empty."""
    numpy = importlib.import_module("numpy")
    if port.dtype == "string":
        filled: Any = [["" if item is None else str(item) for item in row] for row in rows]
        return numpy.array(filled, dtype="object").reshape(len(rows), -1)
    array = numpy.array([[numpy.nan if item is None else item for item in row] for row in rows])
    if port.dtype.startswith("int") and not numpy.isfinite(array.astype("float64")).all():
        raise ValueError("a whole number is missing")
    return array.astype(port.dtype).reshape(len(rows), -1)


def explain_failure(what: str, call: Callable[[], Any], hint: str) -> Any:
    """Return what `call` does; turn what a converter raises, of any class, into one StepError that says `what`."""
    try:
        return call()
    except StepError:
        raise
    except Exception as error:  # converters raise whatever their authors liked
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise StepError(f"{what}: {type(error).__name__}: {(lines or ['no message'])[0]:.300}", hint=hint) from error
