# SPDX-License-Identifier: Apache-2.0
"""Columns of a data frame, or arrays by name, to the inputs of a graph; its results to columns.

Data platforms hand over columns and expect columns. What a cell may be is what `packager.server.pipeline.rows` takes;
only the rows are not looked at one by one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from packager.server.errors import RequestError, quote
from packager.server.pipeline.parts import MEMBERS, Task
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, dtype_of

_RUN_BYTES = 4 << 20  # of the inputs of one run: more is seldom faster, and takes memory
_WIDER: dict[str, Any] = {
    "float16": np.float32,
    **dict.fromkeys(("int8", "uint8", "int16", "uint16"), np.int32),
    "uint32": np.int64,
}
"""What an output is widened to: data platforms have no narrow types."""


def has_rows(interface: Interface) -> bool:
    """Return whether the first dimension of every input and output counts the rows."""
    firsts = {port.shape[0] if port.shape else 0 for port in (*interface.inputs, *interface.outputs)}
    return len(firsts) == 1 and all(isinstance(first, str) for first in firsts)


def arrays(interface: Interface, columns: Mapping[str, Any]) -> dict[str, Array]:
    """Return the inputs by name, in their types; sizes are for `runs` to check. Raises RequestError."""
    known = {port.name for port in interface.inputs}
    if missing := [port.name for port in interface.inputs if port.name not in columns]:
        raise RequestError(f"column {quote(missing[0])} is missing")
    if other := sorted(set(columns) - known):
        raise RequestError(f"unknown column {quote(other[0])}, expected {', '.join(map(quote, sorted(known)))}")
    return {port.name: _array(columns[port.name], port, interface) for port in interface.inputs}


def _array(column: Any, port: Tensor, interface: Interface) -> Array:
    wanted = dtype_of(port.dtype)
    try:
        values = np.asarray(column)
        if values.dtype == object and values.ndim == 1 and len(port.shape) > 1 and port.shape[1] != 1:
            values = np.array([np.asarray(cell).tolist() for cell in values])  # a column of nested lists
        made = _texts(values) if wanted.kind == "O" else _numbers(values, wanted)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"column {quote(port.name)}: expected {port.dtype} of one shape") from None
    if made.ndim == 1 and len(port.shape) == 2 and port.shape[1] == 1:
        made = made[:, None]
    scalar = made.ndim == 1 or made.shape[1:] == (1,)
    if scalar and wanted.kind == "f" and port.name not in interface.missing and np.isnan(made).any():
        row = int(np.isnan(made).argmax())
        raise RequestError(f"column {quote(port.name)}: the number of row {row} is missing")
    return made


def _texts(values: Array) -> Array:
    flat = [_text(value) for value in values.ravel().tolist()]
    made = np.empty(len(flat), object)
    made[:] = flat
    return made.reshape(values.shape)


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value


def _numbers(values: Array, wanted: Any) -> Array:
    """Return numbers in a type that holds them. Raises ValueError, TypeError where it does not."""
    if values.dtype == object:
        values = np.array([np.nan if value is None else value for value in values.ravel().tolist()]).reshape(
            values.shape
        )
    if wanted.kind == "b" or values.dtype.kind not in "iufb":
        if values.dtype.kind != wanted.kind:
            raise TypeError
        return values
    if values.dtype.kind == "b":
        raise TypeError
    if wanted.kind == "f":
        return values.astype(wanted)
    bounds = np.iinfo(wanted)
    whole = values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())
    if not whole or (values.size and not (values.min() >= bounds.min and values.max() <= bounds.max)):
        raise ValueError
    return values.astype(wanted)


def runs(interface: Interface, feeds: Mapping[str, Array], most: int | None) -> Iterator[dict[str, Array]]:
    """Yield the inputs of runs of at most `most` rows, each checked; one run where there are no rows to divide.

    Raises RequestError for sizes or values that are not taken.
    """
    if not has_rows(interface):
        yield _checked(interface, dict(feeds))
        return
    counts = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
    if len(counts) > 1 or 0 in counts:
        raise RequestError("expected at least one row, and as many in every column")
    count = counts.pop()
    size = max(1, sum(array.nbytes for array in feeds.values()) // count)
    step = max(1, min(most or count, _RUN_BYTES // size))
    for first in range(0, count, step):
        yield _checked(interface, {name: array[first : first + step] for name, array in feeds.items()})


def _checked(interface: Interface, feeds: dict[str, Array]) -> dict[str, Array]:
    sizes: dict[str, int] = {}
    for port in interface.inputs:
        interface.check_shape(port, feeds[port.name].shape, sizes)
    interface.check_ties(sizes)
    interface.check_values(feeds)
    return feeds


def joined(outputs: Sequence[Tensor], results: Sequence[Mapping[str, Array]]) -> Any:
    """Return the rows of several runs: an array where there is one output, else a data frame with one column each."""
    found = {port.name: _wider(np.concatenate([part[port.name] for part in results]), port) for port in outputs}
    if len(found) == 1:
        return next(iter(found.values()))
    return frame({name: values if values.ndim == 1 else list(values) for name, values in found.items()})


def _wider(values: Array, port: Tensor) -> Array:
    return values.astype(_WIDER[port.dtype]) if port.dtype in _WIDER else values


def from_answers(task: Task, answers: Sequence[Any]) -> Any:
    """Return the answers of a pipeline: an array of the vectors, or a data frame with the members of labels and spans.

    A cell holds a list, because a row may have several labels.
    """
    if task == "sentence-embedding":
        return np.array(answers, np.float32)
    return frame({name: [[item[name] for item in row] for row in answers] for name in MEMBERS[task]})


def frame(columns: Mapping[str, Any]) -> Any:
    """Return a data frame of pandas."""
    return importlib.import_module("pandas").DataFrame(dict(columns))
