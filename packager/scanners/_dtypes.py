# SPDX-License-Identifier: Apache-2.0
"""Read numpy's element types in pickles: numpy trusts a pickle that says an object is a number.

The state of a type says whether it holds objects, and how wide it and its fields are. Stated falsely, raw bytes become
pointers when an array of that type is filled. So a type is only taken as numpy itself would make it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LENGTHS = (8, 9)  # what a state has in versions 3 and 4, the last with the unit of a date


def make_dtype(arguments: tuple[Any, ...]) -> Any:
    """Return the type that `numpy.dtype(...)` of plain arguments is. Raises ValueError for one that has fields."""
    dtype = import_module("numpy").dtype(*arguments)
    if dtype.kind == "V" and dtype.names:
        raise ValueError("a type of numpy is made of fields at once")
    return dtype


def set_state(dtype: Any, state: Any) -> None:
    """Give a type its state. Raises ValueError for a state that numpy would not have written."""
    if not isinstance(state, tuple) or len(state) not in _LENGTHS or not _is_plain(*state[:5]):
        raise ValueError("the state of a type of numpy is not one")
    dtype.__setstate__(state)
    own = _canonical(dtype)
    if (own, own.flags, own.itemsize, own.hasobject) != (dtype, dtype.flags, dtype.itemsize, dtype.hasobject):
        raise ValueError("a type of numpy is stated falsely")


def _is_plain(version: Any, order: Any, inner: Any, names: Any, fields: Any) -> bool:
    kind = import_module("numpy").dtype
    if names is None or fields is None:
        return names is None and fields is None and (inner is None or _is_inner(inner, kind))
    if inner is not None or not isinstance(names, tuple) or not isinstance(fields, dict):
        return False
    return set(names) == set(fields) and all(
        isinstance(field, tuple) and len(field) == 2 and isinstance(field[0], kind) and type(field[1]) is int
        for field in fields.values()
    )


def _is_inner(inner: Any, kind: Any) -> bool:
    pair = isinstance(inner, tuple) and len(inner) == 2 and isinstance(inner[0], kind)
    return pair and all(type(length) is int for length in (inner[1] if isinstance(inner[1], tuple) else (inner[1],)))


def _canonical(dtype: Any) -> Any:
    """Return the type as numpy makes it from a description."""
    make = import_module("numpy").dtype
    if dtype.subdtype is not None:
        return make(dtype.subdtype)
    if not dtype.names:
        return make(dtype.str)
    placed = [dtype.fields[name] for name in dtype.names]
    described = {
        "names": list(dtype.names),
        "formats": [field[0] for field in placed],
        "offsets": [field[1] for field in placed],
        "itemsize": dtype.itemsize,
    }
    return make(described, align=dtype.isalignedstruct)
