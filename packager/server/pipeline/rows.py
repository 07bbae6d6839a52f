# SPDX-License-Identifier: Apache-2.0
"""Rows of a table to the inputs of a graph by name, and its results to one answer per row.

A cell is a number, a text, or nested lists where the input has more axes than the rows'. Cells of CSV are text: they
become what the input takes. A missing number is NaN where the contract allows that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from packager.server.errors import RequestError, quote
from packager.server.pipeline.prepared import Prepared
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, dtype_of, no_charge

_PLAIN = {"f": float, "i": int, "u": int, "b": bool, "O": str}
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def feeds(interface: Interface, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the inputs for rows. Raises RequestError that names the column."""
    found: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for port in interface.inputs:
        missing = port.name in interface.missing
        cells = _plain_cells(rows, port)
        if cells is None:
            cells = [_cell(row, port, missing=missing) for row in rows]
        found[port.name] = _array(cells, port)
        interface.check_shape(port, found[port.name].shape, sizes)
    interface.check_values(found)
    return found


def feeds_of_columns(interface: Interface, columns: Mapping[str, Sequence[Any] | Array]) -> dict[str, Array]:
    """Return the inputs for columns of cells, or of float64 or int64, before `check_feeds`. Raises RequestError."""
    found: dict[str, Array] = {}
    for port in interface.inputs:
        cells, missing = columns[port.name], port.name in interface.missing
        if isinstance(cells, np.ndarray):
            found[port.name] = _shaped(_converted(cells, port, missing=missing), port)
            continue
        read = _plain_column(_filled(cells, port, missing=missing), port)
        found[port.name] = _array(
            [_read(cell, port, missing=missing) for cell in cells] if read is None else read, port
        )
    return found


def check_feeds(interface: Interface, found: Mapping[str, Array]) -> None:
    """Check the shapes and values of inputs. Raises RequestError that names the input."""
    sizes: dict[str, int] = {}
    for port in interface.inputs:
        interface.check_shape(port, found[port.name].shape, sizes)
    interface.check_values(found)


def _array(cells: Sequence[Any], port: Tensor) -> Array:
    try:
        values = np.array(cells, dtype_of(port.dtype))
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"column {quote(port.name)}: expected {port.dtype} of one shape") from None
    return _shaped(values, port)


def _shaped(values: Array, port: Tensor) -> Array:
    return values[:, None] if len(port.shape) == 2 and port.shape[1] == 1 and values.ndim == 1 else values


def _converted(values: Array, port: Tensor, *, missing: bool) -> Array:
    """Return float64 or int64 in the type of an input; NaN is a missing number. Raises RequestError for any misfit."""
    wanted = dtype_of(port.dtype)
    if wanted.kind == "f":
        numbers = values.astype(np.float64, copy=False)  # as a float of Python, so that a number is rounded once
        if not missing and np.isnan(numbers).any():
            _refuse(None, port)
        with np.errstate(over="ignore"):
            return numbers.astype(wanted)
    if wanted.kind not in "iu":
        _refuse(values[0].item(), port)
    bounds = np.iinfo(wanted)
    whole = values.dtype.kind == "i" or bool((values == np.floor(values)).all() and np.isfinite(values).all())
    if not whole or values.min() < bounds.min or values.max() > bounds.max or abs(values).max() >= 2**63:
        _refuse(None, port)
    return values.astype(wanted)


def _filled(cells: Sequence[Any], port: Tensor, *, missing: bool) -> Sequence[Any]:
    """Return cells with `nan` for empty ones, where numbers may be missing."""
    return [cell or "nan" for cell in cells] if missing and dtype_of(port.dtype).kind == "f" and "" in cells else cells


def _plain_cells(rows: Sequence[Mapping[str, Any]], port: Tensor) -> Sequence[Any] | None:
    """Return the cells of a column that all have one plain form, read as `_read` reads each; None for any other."""
    try:
        cells = [row[port.name] for row in rows]
    except (KeyError, TypeError):
        return None
    return _plain_column(cells, port)


def _plain_column(cells: Sequence[Any], port: Tensor) -> Sequence[Any] | None:
    kind, found = dtype_of(port.dtype).kind, set(map(type, cells))
    if found == {_PLAIN.get(kind)}:
        return cells
    if found == {str} and kind in "fiu":
        try:
            return list(map(float if kind == "f" else int, cells))
        except ValueError:
            return None
    return None


def _cell(row: Mapping[str, Any], port: Tensor, *, missing: bool) -> Any:
    if port.name not in row:
        raise RequestError(f"column {quote(port.name)} is missing")
    return _read(row[port.name], port, missing=missing)


def _read(value: Any, port: Tensor, *, missing: bool) -> Any:
    if isinstance(value, list):
        return [_read(item, port, missing=missing) for item in value]
    kind = dtype_of(port.dtype).kind
    if kind == "O":
        return "" if value is None else value if isinstance(value, str) else _refuse(value, port)
    if value is None or value == "":
        return np.nan if missing and kind == "f" else _refuse(value, port)
    if isinstance(value, str):
        value = _parsed(value, kind, port)
    fits = isinstance(value, bool) if kind == "b" else isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or (kind in "iu" and value != int(value)):
        return _refuse(value, port)
    return value


def _parsed(text: str, kind: str, port: Tensor) -> Any:
    try:
        return _FLAGS[text.strip().lower()] if kind == "b" else int(text) if kind in "iu" else float(text)
    except (ValueError, KeyError):
        return _refuse(text, port)


def _refuse(value: Any, port: Tensor) -> Any:
    raise RequestError(f"column {quote(port.name)}: expected {port.dtype}, got {quote(value)}")


def answers(results: Mapping[str, Array], count: int) -> list[Any]:
    """Return the values of every output for each row; what is not finite is None."""
    columns = [_shown_column(values, count) for values in results.values()]
    return [dict(zip(results, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _shown_column(values: Array, count: int) -> list[Any]:
    if values.dtype.kind in "iub" or (values.dtype.kind == "f" and np.isfinite(values[:count]).all()):
        found: list[Any] = values[:count].tolist()
        return found
    return [_shown(values[index]) for index in range(count)]


def _shown(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_shown(item) for item in value] if value.ndim else _shown(value.item())
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


class Table:
    """The rows of a bundle without a pipeline: its inputs by name."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface

    def describe(self) -> dict[str, Any]:
        """Return what a row and an answer are."""
        return {
            "task": "tensors",
            "input": "table",
            "columns": [port.to_json() for port in self._interface.inputs],
            "outputs": [port.name for port in self._interface.outputs],
        }

    def prepare(self, rows: Sequence[Any], hold: Callable[[int], None] = no_charge) -> Prepared:
        """Return the inputs of the graph for rows; `hold` gets the bytes that they take. Raises RequestError."""
        if not rows:
            raise RequestError("expected at least one row")
        if not all(isinstance(row, Mapping) for row in rows):
            raise RequestError("expected rows that are objects, with the inputs of the model by name")
        known = {port.name for port in self._interface.inputs}
        if other := sorted({str(name) for row in rows for name in row} - known):
            raise RequestError(f"unknown column {quote(other[0])}, expected {', '.join(map(quote, sorted(known)))}")
        made = feeds(self._interface, rows)
        hold(sum(array.nbytes for array in made.values()))
        return Prepared(made, (), (), self._interface.outside(_sizes(self._interface, made)))

    def answers(self, results: Mapping[str, Array], prepared: Prepared, top: int | None = None) -> list[Any]:
        """Return the values of every output for each row."""
        return answers(results, prepared.count)


def _sizes(interface: Interface, made: Mapping[str, Array]) -> dict[str, int]:
    pairs = [pair for port in interface.inputs for pair in zip(port.shape, made[port.name].shape, strict=True)]
    return {name: size for name, size in pairs if isinstance(name, str)}


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a table with a line of names. Raises RequestError."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise RequestError(f"the body is not CSV: line {reader.line_num}: {error}") from None
    for index, row in enumerate(rows):
        if None in row or None in row.values():
            raise RequestError(f"row {index}: expected {len(reader.fieldnames or ())} cells")
    return rows
