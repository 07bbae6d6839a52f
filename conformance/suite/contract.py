# SPDX-License-Identifier: Apache-2.0
"""The part of a bundle's `contract.json` that a runtime can be held against, and the check of a request against it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union  # noqa: UP035 - adapters run on Python 3.8

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
DTYPES = {datatype: name for name, datatype in DATATYPES.items()}


@dataclass(frozen=True)
class Port:
    """An input or output: `dtype` is numpy's name or `string`; a size is a number or the name of a dimension."""

    name: str
    dtype: str
    shape: Tuple[Union[int, str], ...]  # noqa: UP006, UP007

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol's name of the dtype."""
        return DATATYPES[self.dtype]


@dataclass(frozen=True)
class Contract:
    """Interface, promised value ranges, and the whole document for what only some tests need.

    `dimensions` are the shortest and longest lengths that were measured, `spans` all that the contract states of them.
    """

    inputs: Tuple[Port, ...]  # noqa: UP006
    outputs: Tuple[Port, ...]  # noqa: UP006
    dimensions: Dict[str, Tuple[int, int]]  # noqa: UP006
    spans: Dict[str, Any]  # noqa: UP006
    ranges: Dict[str, Any]  # noqa: UP006
    document: Dict[str, Any]  # noqa: UP006

    @property
    def interface(self) -> Any:
        """The interface in its JSON form."""
        return self.document["interface"]

    def near(self, name: str, length: int) -> int:
        """Return the largest measured length of a dimension that is not above `length`, else the smallest."""
        span = self.spans[name]
        if span.get("values"):
            return int(max([known for known in span["values"] if known <= length] or [min(span["values"])]))
        step, below = span.get("step", 1), min(length, span["max"])
        return int(max(-(-span["min"] // step) * step, below - below % step))

    def follow(self, lengths: Mapping[str, int]) -> Dict[str, int]:  # noqa: UP006
        """Return lengths in which every dimension that follows another one does."""
        ties = {name: span["is"] for name, span in self.spans.items() if "is" in span}
        return {**lengths, **{name: factor * lengths[other] for name, (factor, other) in ties.items()}}

    def limit(self, name: str) -> Dict[str, Any]:  # noqa: UP006
        """Return the lengths of a dimension that are taken; in older contracts those that were measured."""
        span = self.spans.get(name, {"min": 1})
        return dict(span.get("limit", span))

    @property
    def batch(self) -> Optional[str]:  # noqa: UP045
        """The dimension that leads every input and output, if there is one: rows are then independent requests."""
        leading = {port.shape[0] if port.shape else None for port in (*self.inputs, *self.outputs)}
        (name,) = leading if len(leading) == 1 else (None,)
        return name if isinstance(name, str) else None


def read(path: Path) -> Contract:
    """Read `contract.json`. Raises ValueError when it is not one this suite understands."""
    try:
        document = json.loads(path.read_bytes())
        interface = document["interface"]
        return Contract(
            inputs=_ports(interface["inputs"]),
            outputs=_ports(interface["outputs"]),
            dimensions={name: (item["min"], item["max"]) for name, item in interface["dimensions"].items()},
            spans=dict(interface["dimensions"]),
            ranges=document.get("ranges") or {},
            document=document,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`{path}` is not a contract: {error!r}") from None


def _ports(values: List[Any]) -> Tuple[Port, ...]:  # noqa: UP006
    return tuple(Port(item["name"], item["dtype"], tuple(item["shape"])) for item in values)


def refusal(contract: Contract, feeds: Mapping[str, Any]) -> Optional[str]:  # noqa: UP045
    """Return why `feeds` (numpy arrays by name) break the contract, or None. Servers built here refuse by this."""
    known = {port.name: port for port in contract.inputs}
    for name in feeds:
        if name not in known:
            return f"unknown input `{name}`"
    sizes: Dict[str, int] = {}  # noqa: UP006
    for name, port in known.items():
        if name not in feeds:
            return f"input `{name}` is missing"
        problem = _misfit(port, feeds[name], contract, sizes)
        if problem:
            return f"input `{name}`: {problem}"
    return None


def _misfit(
    port: Port,
    array: Any,
    contract: Contract,
    sizes: Dict[str, int],  # noqa: UP006
) -> Optional[str]:  # noqa: UP045
    dtype = "string" if array.dtype.kind in "OUS" else array.dtype.name
    if dtype != port.dtype:
        return f"expected {port.datatype}, got {DATATYPES.get(dtype, dtype)}"
    if len(array.shape) != len(port.shape):
        return f"expected {len(port.shape)} dimensions, got {len(array.shape)}"
    for expected, size in zip(port.shape, array.shape):  # noqa: B905 - equally long, and Python 3.8 has no `strict`
        if isinstance(expected, int):
            if size != expected:
                return f"expected {expected}, got {size}"
            continue
        limit = contract.limit(expected)
        low, high, also = limit["min"], limit.get("max", 2**62), limit.get("also", [])
        if not low <= size <= high and size not in also:
            return f"expected `{expected}` of {low} to {high}, got {size}"
        rests = [0, *limit.get("remainders", [])]
        if (size % limit.get("step", 1) not in rests or size not in limit.get("values", [size])) and size not in also:
            return f"expected `{expected}` of {limit}, got {size}"
        if sizes.setdefault(expected, size) != size:
            return f"expected `{expected}` of {sizes[expected]} as in another input, got {size}"
    return None
