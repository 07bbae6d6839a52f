# SPDX-License-Identifier: Apache-2.0
"""A tensor as JSON and back, bit for bit: base64 of its little-endian bytes, or a list of texts."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


def pack(array: Any) -> dict[str, Any]:
    """Return the JSON form of an array: `dtype` (numpy's name, or `string`), `shape`, and `base64` or `text`."""
    array = np.asarray(array)
    shape = list(array.shape)
    if array.dtype.kind in "OUS":
        return {"dtype": "string", "shape": shape, "text": [_text(item) for item in array.reshape(-1).tolist()]}
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": shape, "base64": base64.b64encode(little.tobytes()).decode("ascii")}


def unpack(value: dict[str, Any]) -> Any:
    """Return the array that `pack` wrote. Raises ValueError for anything else."""
    try:
        shape = tuple(int(size) for size in value["shape"])
        if value["dtype"] == "string":
            return np.array([str(item) for item in value["text"]], dtype=object).reshape(shape)
        kind = np.dtype(value["dtype"])
        raw = base64.b64decode(value["base64"], validate=True)
        return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind, copy=True).reshape(shape)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a tensor: {error!r}") from None


def pack_all(arrays: dict[str, Any]) -> dict[str, Any]:
    """Apply `pack` to every array."""
    return {name: pack(array) for name, array in arrays.items()}


def unpack_all(values: dict[str, Any]) -> dict[str, Any]:
    """Apply `unpack` to every tensor."""
    return {name: unpack(value) for name, value in values.items()}


def _text(item: Any) -> str:
    return item.decode("utf-8") if isinstance(item, bytes) else str(item)
