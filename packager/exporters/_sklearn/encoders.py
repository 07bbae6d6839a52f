# SPDX-License-Identifier: Apache-2.0
"""Encoders of categories: every column is looked up by itself, in its own type, and codes become rows of tables.

Numbers are categories only where they are equal in full; NaN is one of them where the encoder knows it. In a column of
text, the empty string stands for the missing value (`None`, NaN) where the encoder has that as a category.
"""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.builder import FLOATS, Builder, Frame, Value


def is_missing(value: Any) -> bool:
    """Say whether a category or a statistic stands for a missing value: None, NaN, NaT or `pandas.NA`."""
    return value is None or type(value).__name__ == "NAType" or bool(type(value) is not str and value != value)


def codes(builder: Builder, model: Any, frame: Frame) -> list[Value]:
    """Return for every column the position of its value among the categories, and their number for an unseen one."""
    columns = builder.columns(frame)
    if len(columns) != len(model.categories_):
        refuse(model, f"was fitted on {len(model.categories_)} columns, and is given {len(columns)}")
    return [_code(builder, model, *given) for given in zip(columns, model.categories_, strict=True)]


def _code(builder: Builder, model: Any, column: Value, known: Any) -> Value:
    categories = known.tolist()
    if column.dtype == "string":
        return _code_of_text(builder, model, column, categories)
    if any(isinstance(item, str) for item in categories):
        refuse(model, "has text for categories of a column that holds numbers")
    if known.dtype.kind not in "OiufbUS":
        refuse(model, f"has categories of type {known.dtype}", hint="turn them into numbers or text before the model")
    return _code_of_number(builder, column, categories)


def _code_of_text(builder: Builder, model: Any, column: Value, categories: list[Any]) -> Value:
    if not all(isinstance(item, str) or is_missing(item) for item in categories):
        refuse(model, "has numbers for categories of a column that holds text")
    keys: dict[str, int] = {}
    for position, item in enumerate(categories):
        if is_missing(item):
            keys[""] = position  # at the interface, the empty string stands for it
        else:
            keys.setdefault(item, position)
    found = builder.code_of(column, list(keys), len(keys))
    return builder.look_up([*keys.values(), len(categories)], found)


def _code_of_number(builder: Builder, column: Value, categories: list[Any]) -> Value:
    numpy = importlib.import_module("numpy")
    whole = column.dtype not in FLOATS and all(float(item).is_integer() for item in categories if not is_missing(item))
    kind = "int64" if whole else "float64"
    values = [-1 if is_missing(item) else item for item in categories]
    column = builder.cast(column, kind)
    equal = builder.binary("Equal", column, numpy.array(values, dtype=kind))
    missing = numpy.array([is_missing(item) for item in categories])
    if missing.any():
        equal = builder.binary("And", equal, _row(builder, ~missing))
        if not whole:
            empty = builder.binary("And", builder.unary("IsNaN", column), _row(builder, missing))
            equal = builder.binary("Or", equal, empty)
    found = builder.cast(equal, "float32")
    return builder.position_of("ArgMax", builder.concat([found, builder.spread(found, [0.5], "float32")]))


def _row(builder: Builder, truth: Any) -> Value:
    return Value(builder.constant(truth.reshape(1, -1)), "bool", len(truth))


def _grouped(model: Any, column: int, count: int) -> tuple[list[int], int]:
    """Return the code of every category once rare ones are grouped, and the number of codes."""
    mappings = getattr(model, "_default_to_infrequent_mappings", None) or [None] * len(model.categories_)
    if not getattr(model, "_infrequent_enabled", False) or mappings[column] is None:
        return list(range(count)), count
    mapped = [int(code) for code in mappings[column]]
    return [*mapped, *range(len(mapped), count)], max(mapped) + 1  # a missing value, the last one, is in no group


def _group_of_rare(model: Any, column: int) -> int | None:
    """Return the position of a rare category of a column, where rare ones are grouped."""
    if not getattr(model, "_infrequent_enabled", False):
        return None
    rare = model._infrequent_indices[column]
    return None if rare is None else int(rare[0])


@writes("transform", "OneHotEncoder")
def encode_one_hot(builder: Builder, model: Any, frame: Frame) -> Value:
    kind = number_type(model)
    found = codes(builder, model, frame)
    tables = [_indicators(model, column, len(known)).astype(kind) for column, known in enumerate(model.categories_)]
    made = [builder.look_up(table, code) for table, code in zip(tables, found, strict=True) if table.shape[1]]
    if not made:
        refuse(model, "makes no columns")
    return builder.concat(made)


def number_type(model: Any) -> str:
    """Return the type that an encoder gives, among those of a graph."""
    name = importlib.import_module("numpy").dtype(model.dtype)
    return {"i": "int64", "u": "int64", "b": "bool"}.get(name.kind, "float32" if name.itemsize < 8 else "float64")


def _indicators(model: Any, column: int, count: int) -> Any:
    """Return the row of every category, and that of an unseen value: zeros, or the row of the rare ones."""
    numpy = importlib.import_module("numpy")
    mapped, width = _grouped(model, column, count)
    rare = _group_of_rare(model, column)
    joins = rare is not None and model.handle_unknown in _joining()
    rows = numpy.vstack([numpy.eye(width)[mapped], numpy.zeros((1, width))])
    if joins:
        rows[count] = rows[rare]
    dropped = getattr(model, "_drop_idx_after_grouping", None)
    if dropped is not None and dropped[column] is not None:
        rows = numpy.delete(rows, int(dropped[column]), axis=1)
    return rows


def _joining() -> tuple[str, ...]:
    """Return the ways of `handle_unknown` in which an unseen value joins the rare ones, as the library does it."""
    release = importlib.import_module("sklearn").__version__.split(".")
    return ("infrequent_if_exist", "warn") if tuple(map(int, release[:2])) >= (1, 8) else ("infrequent_if_exist",)


@writes("transform", "OrdinalEncoder")
def encode_ordinal(builder: Builder, model: Any, frame: Frame) -> Value:
    kind = number_type(model)
    made = []
    for column, code in enumerate(codes(builder, model, frame)):
        made.append(builder.look_up(_ordinals(model, column).astype(kind), code))
    return builder.concat(made)


def _ordinals(model: Any, column: int) -> Any:
    """Return the number of every category, and that of an unseen value."""
    numpy = importlib.import_module("numpy")
    count = len(model.categories_[column])
    mapped, _ = _grouped(model, column, count)
    other = model.unknown_value if model.handle_unknown == "use_encoded_value" else -1
    found = numpy.array([*mapped, -1 if other is None else other], dtype="float64")
    missing = getattr(model, "_missing_indices", {}).get(column)
    if missing is not None:
        found[int(missing)] = model.encoded_missing_value
    return found


@writes("transform", "TargetEncoder")
def encode_by_target(builder: Builder, model: Any, frame: Frame) -> Value:
    """Look up the mean of the target per category; unseen ones get the mean of all. Classes have a column each."""
    numpy = importlib.import_module("numpy")
    classes = len(model.classes_) if model.target_type_ == "multiclass" else 1
    means = numpy.broadcast_to(numpy.ravel(model.target_mean_), (classes,))
    made = []
    for column, code in enumerate(codes(builder, model, frame)):
        own = model.encodings_[column * classes : (column + 1) * classes]
        table = numpy.column_stack([numpy.append(encoding, mean) for encoding, mean in zip(own, means, strict=True)])
        made.append(builder.look_up(table.astype("float64"), code))
    return builder.concat(made)
