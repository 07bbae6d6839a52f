# SPDX-License-Identifier: Apache-2.0
"""The values on which a model for tables is measured: those that its own structure makes critical.

Interesting values are pushed backwards through the model, from what a step looks at to what its inputs must be for
that: thresholds of trees, and both float32 neighbours of each; centres and spreads of scalers; known categories and
an unseen one; words of vocabularies in every case, with accents, emoji and empty texts around them. NaN, infinities
and unseen categories are offered where the source computes something for them; what it refuses is no promise.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packager.exporters import Arrays, Feeds, Port
from packager.exporters._tables import critical as _critical
from packager.exporters._tables import nested
from packager.exporters._tables.critical_columns import TEXTS, Values, critical_columns
from packager.exporters._tables.table import Table

_MOST = 64  # critical values of one column, neighbours not counted; more of them are thinned evenly
_ROWS = 2048  # that show one column each
_TRIES = 96  # runs of the source that look for the values of one column which it takes
_PLAIN: Values = [0.0, 1.0, -1.0, 0.5, 2.0, 10.0, -3.25, 1e-3, 100.0, 12345.678]
_WHOLE: Values = [0, 1, 2, 3, 5, 10, 18, 42, 100, -1]
_RISKY = {
    "float": (math.nan, math.inf, -math.inf),
    "string": ("unseen \u00e9\u4f60\U0001f600", ""),
    "int": (-(1 << 31), (1 << 31) - 1, 1 << 31, 1 << 40, -(1 << 40), 1_700_000_000_123, (1 << 53) + 1, -(1 << 53) - 1),
}


def samples(model: Any, table: Table, run: Callable[[Feeds], Arrays], seed: int) -> Mapping[str, Any]:
    """Return for every input the rows to draw from, as `SourceModel.samples` promises."""
    width = sum(int(port.shape[1]) for port in table.ports)
    names = [port.name for port in table.ports] if table.layout == "frame" else []
    return draw_rows(critical_columns(model, width, names), table, run, seed)


def draw_rows(wanted: Sequence[Values], table: Table, run: Callable[[Feeds], Arrays], seed: int) -> Mapping[str, Any]:
    """Return rows in which the wanted values of every column occur, beside ordinary ones and what breaks graphs."""
    numpy = importlib.import_module("numpy")
    columns = [_column(port, wanted[index]) for index, port in _positions(table.ports)]
    columns = _accepted(numpy, table.ports, columns, wanted, run)
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    found, start = {}, 0
    for port in table.ports:
        own = columns[start : start + int(port.shape[1])]
        found[port.name] = _rows(numpy, generator, port, own)
        start += len(own)
    return found


def _positions(ports: Sequence[Port]) -> list[tuple[int, Port]]:
    """Return the port of every column, in order."""
    return list(enumerate(port for port in ports for _ in range(int(port.shape[1]))))


def _rows(numpy: Any, generator: Any, port: Port, columns: Sequence[Values]) -> Any:
    """Return an array of rows in which every value of every column occurs, each column in another order."""
    count = max(map(len, columns))
    dtype = "object" if port.dtype == "string" else port.dtype
    rows = numpy.empty((count, len(columns)), dtype=dtype)
    for index, values in enumerate(columns):
        column = numpy.array(values, dtype=dtype)
        rows[:, index] = numpy.resize(column[generator.permutation(len(column))], count)
    return rows


# -- rows whose columns belong together


def rows(model: Any, table: Table, run: Callable[[Feeds], Arrays], seed: int) -> dict[str, Feeds]:
    """Return rows by what they are for: every column alone at its edges, and what is critical to a whole row.

    Critical rows reach every leaf of every tree, stand on and beside hyperplanes, at and between centres and training
    rows; they are pulled back through the steps in front. Rows that the source refuses are left out.
    """
    width = sum(int(port.shape[1]) for port in table.ports)
    names = [port.name for port in table.ports] if table.layout == "frame" else []
    return row_sets(critical_columns(model, width, names), _critical.rows(model, width, names), table, run)


def row_sets(wanted: Sequence[Values], critical: Any, table: Table, run: Callable[[Feeds], Arrays]) -> dict[str, Feeds]:
    """Return rows by what they are for: the wanted values of every column, and critical rows, where there are any."""
    numpy = importlib.import_module("numpy")
    columns = [_column(port, wanted[index]) for index, port in _positions(table.ports)]
    found = {"one column at its edges": _alone(columns)}
    if critical is not None:
        found["critical rows"] = critical.tolist()
    kept = {title: _runnable(numpy, table, cells, run) for title, cells in found.items()}
    return {title: feeds for title, feeds in kept.items() if feeds}


def _alone(columns: Sequence[Values]) -> list[Values]:
    """Return an ordinary row, and that row with one column after the other at each of its extremes."""
    base = [values[len(values) // 2] for values in columns]
    found = [list(base)]
    for index, values in enumerate(columns):
        ordered = [value for value in values if not isinstance(value, float) or math.isfinite(value)]
        edges = dict.fromkeys([*ordered[:3], *ordered[-2:], *([min(ordered), max(ordered)] if ordered else [])])
        found += [[*base[:index], value, *base[index + 1 :]] for value in edges]
    return found[:_ROWS]


def _runnable(numpy: Any, table: Table, cells: Sequence[Values], run: Callable[[Feeds], Arrays]) -> dict[str, Any]:
    """Return rows as the ports hold them, without those that the source refuses."""
    fitting = [
        [_fit(value, port) for value, (_, port) in zip(row, _positions(table.ports), strict=True)] for row in cells
    ]
    kept = _kept(numpy, table.ports, fitting, run)
    return _feeds(numpy, table.ports, kept) if kept else {}


def _kept(
    numpy: Any,
    ports: Sequence[Port],
    cells: list[Values],
    run: Callable[[Feeds], Arrays],
    left: list[int] | None = None,
) -> list[Values]:
    """Return the rows that run; refused ones are found by halving, so few of them cost few runs.

    After `_TRIES` runs, counted down in `left`, what is not known to run is left out.
    """
    left = [_TRIES] if left is None else left
    if not cells or not left[0]:
        return []
    left[0] -= 1
    if _runs(numpy, ports, cells, run):
        return cells
    half = len(cells) // 2
    parts = (cells[:half], cells[half:]) if half else ()
    return [row for part in parts for row in _kept(numpy, ports, part, run, left)]


def _fit(value: Any, port: Port) -> Any:
    """Return a value as a port can hold it: whole where it is whole, within its range."""
    if port.dtype == "string":
        return value if isinstance(value, str) else ""
    if port.dtype == "bool":
        return bool(value)
    low, high = port.range or (-math.inf, math.inf)
    number = min(max(float(value), low), high) if value == value else value
    if port.dtype.startswith("int"):
        edge = 2 ** (int(port.dtype[3:]) - 1)
        return 0 if number != number else int(min(max(number, -edge), edge - 1))
    return number


# -- what a model says of its columns


def missing_text(model: Any) -> tuple[Any, ...]:
    """Return what a model takes for a missing text (NaN or None), in a tuple of one; empty if it treats none.

    An encoder that knows a missing category and an imputer of texts treat them; not where an empty text is a category.
    """
    found: list[Any] = []
    for part in nested.inner_estimators(model):
        for known in getattr(part, "categories_", ()) if hasattr(part, "handle_unknown") else ():
            items = known.tolist()
            if any(isinstance(item, str) for item in items):
                if "" in items:
                    return ()
                found += [item for item in items if item is None or item != item]
        statistics = getattr(part, "statistics_", None)
        if statistics is not None and str(getattr(statistics, "dtype", "")) == "object":
            found.append(part.missing_values)
    kinds = [item for item in found if item is None or isinstance(item, float)]
    return (kinds[0],) if kinds else ()


def text_columns(model: Any) -> set[int]:
    """Return the positions of the columns that a model knows texts of: categories, or words."""
    width = getattr(model, "n_features_in_", 0)
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    wanted = critical_columns(model, width, names) if width else []
    return {position for position, values in enumerate(wanted) if any(isinstance(value, str) for value in values)}


# -- values of one column


def _column(port: Port, wanted: Values) -> Values:
    """Return the values for a column of a port's type, within its range: critical ones and ordinary ones."""
    if port.dtype == "string":
        known = [str(value) for value in wanted if not isinstance(value, float)]
        return list(dict.fromkeys([*known, *(() if known else TEXTS)]))
    if port.dtype == "bool":
        return [False, True]
    numbers = [float(value) for value in wanted if isinstance(value, int | float)]
    if port.dtype.startswith("int"):
        near = [int(step(value)) for value in numbers if math.isfinite(value) for step in (math.floor, math.ceil)]
        return _within(port, [*_thin(sorted(set(near))), *_WHOLE])
    near = [beside for value in _thin(sorted(set(numbers))) for beside in _beside(value, port.dtype)]
    return _within(port, [*sorted(set(near)), *_PLAIN])


def _beside(value: float, dtype: str) -> Values:
    """Return a value as the port holds it, and its neighbours.

    Of binary64 also those in float32, which many models round to, and the two borders where that rounding turns.
    """
    numpy = importlib.import_module("numpy")
    with numpy.errstate(over="ignore"):
        single = numpy.float32(value)
        near = _neighbours(numpy, numpy.asarray(value, dtype=dtype))
        if dtype != "float64" or not numpy.isfinite(single):
            return near
        rounded = _neighbours(numpy, single)
    borders = [(low + high) / 2 for low, high in itertools.pairwise(rounded)]
    return [*near, *rounded, *(beyond for border in borders for beyond in _neighbours(numpy, numpy.float64(border)))]


def _neighbours(numpy: Any, here: Any) -> Values:
    """Return a number of numpy's between the next smaller and the next larger one of its type; nothing if infinite."""
    if not numpy.isfinite(here):
        return []
    infinity = numpy.asarray(math.inf, dtype=here.dtype)
    found = (numpy.nextafter(here, -infinity), here, numpy.nextafter(here, infinity))
    return [float(value) for value in found if numpy.isfinite(value)]


def _thin(values: Values) -> Values:
    """Keep at most `_MOST` of the sorted values."""
    if len(values) <= _MOST:
        return values
    return [values[int(index * len(values) / _MOST)] for index in range(_MOST)]


def _within(port: Port, values: Values) -> Values:
    low, high = port.range or (-math.inf, math.inf)
    kept = [value for value in dict.fromkeys(values) if low <= value <= high]
    return kept or [low]


def _accepted(
    numpy: Any, ports: Sequence[Port], columns: list[Values], wanted: Sequence[Values], run: Callable[[Feeds], Arrays]
) -> list[Values]:
    """Return the values of every column, risky ones added, that the source computes something for.

    Each is tried in an ordinary row. What the source refuses (a negative count, a category that was not there when the
    model was fitted) is no promise.
    """
    base = _base(numpy, ports, columns, wanted, run)
    done = []
    for index, port in _positions(ports):
        kind = "string" if port.dtype == "string" else port.dtype.rstrip("0123456789")
        risky = [] if port.range else [value for value in _RISKY.get(kind, ()) if value not in columns[index]]
        tried = [[*base[:index], value, *base[index + 1 :]] for value in (*columns[index], *risky)]
        works = [row[index] for row in _kept(numpy, ports, tried, run)]
        done.append(works or columns[index])
    return done


def _base(
    numpy: Any, ports: Sequence[Port], columns: list[Values], wanted: Sequence[Values], run: Callable[[Feeds], Arrays]
) -> Values:
    """Return a row that the source takes: of values it knows, or first ones, middle ones, zeros or ones."""
    known = [[value for value in own if value in values] for own, values in zip(wanted, columns, strict=True)]
    ordinary = [own[len(own) // 2] if own else values[0] for own, values in zip(known, columns, strict=True)]
    near = [[min(values, key=lambda v: _distance(v, goal)) for values in columns] for goal in (0.0, 1.0)]
    candidates = [ordinary, [values[0] for values in columns], [values[len(values) // 2] for values in columns], *near]
    return next((row for row in candidates if _runs(numpy, ports, [row], run)), candidates[0])


def _distance(value: Any, goal: float) -> float:
    return abs(float(value) - goal) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _runs(numpy: Any, ports: Sequence[Port], rows: Sequence[Values], run: Callable[[Feeds], Arrays]) -> bool:
    try:
        run(_feeds(numpy, ports, rows))
    except Exception:  # an estimator refuses a value with whatever class it likes, and refusing is the answer here
        return False
    return True


def _feeds(numpy: Any, ports: Sequence[Port], rows: Sequence[Values]) -> dict[str, Any]:
    feeds, start = {}, 0
    for port in ports:
        end = start + int(port.shape[1])
        cells = [row[start:end] for row in rows]
        feeds[port.name] = numpy.array(cells, dtype="object" if port.dtype == "string" else port.dtype)
        start = end
    return feeds
