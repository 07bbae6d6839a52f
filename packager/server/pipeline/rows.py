# SPDX-License-Identifier: Apache-2.0
"""Rows of a table to the inputs of a graph by name, and its results to one answer per row.

A cell is a number, a text, or nested lists where the input has more axes than the rows'. Cells of CSV are text: they
become what the input takes. A missing number is NaN where the contract allows that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from packager.server.errors import RequestError, quote
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, dtype_of

_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def feeds(interface: Interface, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the inputs for rows. Raises RequestError that names the column."""
    found: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for port in interface.inputs:
        missing = port.name in interface.missing
        cells = [_cell(row, port, missing=missing) for row in rows]
        try:
            values = np.array(cells, dtype_of(port.dtype))
        except (ValueError, TypeError, OverflowError):
            raise RequestError(f"column {quote(port.name)}: expected {port.dtype} of one shape") from None
        if len(port.shape) == 2 and port.shape[1] == 1 and values.ndim == 1:
            values = values[:, None]
        interface.check_shape(port, values.shape, sizes)
        found[port.name] = values
    interface.check_values(found)
    return found


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
    return [{name: _shown(values[index]) for name, values in results.items()} for index in range(count)]


def _shown(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_shown(item) for item in value] if value.ndim else _shown(value.item())
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
