# SPDX-License-Identifier: Apache-2.0
"""What an installed model promises about its tensors, and whether a request keeps to it.

A dimension is a fixed size or a name. A name has one size per request, wherever it appears, inside its range; a name
without a range may have any size from 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packager.server.errors import RequestError, quote
from packager.server.fields import record, text
from packager.server.tensors import DATATYPES

# No product of dimensions above this reaches numpy, whose sizes are 64-bit: a shape is text a client chose.
MAX_ELEMENTS = 2**40
_SPARE = 2**20  # for what a request says beside its tensors: names, an id, parameters
_NUMBER, _TEXT = 32, 2**16  # bytes of one in the longest form that clients use


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes a named dimension may have, both ends included; `maximum` None is unbounded."""

    minimum: int = 1
    maximum: int | None = None

    def __contains__(self, size: int) -> bool:
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)

    def __str__(self) -> str:
        return f"at least {self.minimum}" if self.maximum is None else f"{self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output: its numpy dtype name (or `string`) and its shape of sizes and names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def datatype(self) -> str:
        """The protocol's name of the dtype, such as FP32."""
        return DATATYPES[self.dtype]

    def to_json(self) -> dict[str, Any]:
        """Describe the tensor as model metadata does: -1 where the size varies."""
        shape = [size if isinstance(size, int) else -1 for size in self.shape]
        return {"name": self.name, "datatype": self.datatype, "shape": shape}


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs, outputs and named dimensions of one model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dimensions: Mapping[str, Range]

    @staticmethod
    def from_json(value: Any) -> Interface:
        """Read the `interface` of a configuration. Raises ValueError with a sentence about the first defect."""
        fields = record(value, "interface", {"inputs", "outputs"}, optional={"dimensions"})
        ranges = fields.get("dimensions", {})
        if not isinstance(ranges, dict):
            raise ValueError("`interface.dimensions` is not an object")
        return Interface(
            inputs=_tensors(fields["inputs"], "interface.inputs"),
            outputs=_tensors(fields["outputs"], "interface.outputs"),
            dimensions={name: _range(item, f"interface.dimensions.{name}") for name, item in ranges.items()},
        )

    def range(self, dimension: str) -> Range:
        """Return the sizes that `dimension` may have."""
        return self.dimensions.get(dimension, Range())

    def largest_body(self) -> int | None:
        """Return how many bytes a request that keeps this promise may take in any form; None: it states no bound.

        Texts have no longest length in a contract: 64 KiB are reckoned for each.
        """
        total = _SPARE
        for tensor in self.inputs:
            sizes = [size if isinstance(size, int) else self.range(size).maximum for size in tensor.shape]
            known = [size for size in sizes if size is not None]
            if len(known) < len(sizes):
                return None
            total += math.prod(known) * (_TEXT if tensor.dtype == "string" else _NUMBER)
        return total

    def with_rows(self, most: int) -> Interface:
        """Return this interface with at most `most` rows, where the first dimension of the inputs has a name."""
        firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in self.inputs}
        name = firsts.pop() if len(firsts) == 1 else 0
        if not isinstance(name, str):
            return self
        known = self.range(name)
        high = most if known.maximum is None else min(most, known.maximum)
        return replace(self, dimensions={**self.dimensions, name: Range(known.minimum, max(high, known.minimum))})

    def check_shape(self, tensor: Tensor, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Refuse a shape outside the promise; `sizes` remembers the named dimensions of this request.

        Raises RequestError.
        """
        if len(shape) != len(tensor.shape):
            raise _mismatch(tensor, shape, f"{len(tensor.shape)} dimensions, got {len(shape)}")
        for expected, size in zip(tensor.shape, shape, strict=True):
            if isinstance(expected, int):
                if size != expected:
                    raise _mismatch(tensor, shape, f"{expected}, got {size}")
            elif size not in self.range(expected):
                raise _mismatch(tensor, shape, f"`{expected}` of {self.range(expected)}, got {size}")
            elif sizes.setdefault(expected, size) != size:
                raise _mismatch(tensor, shape, f"`{expected}` of {sizes[expected]} as in another input, got {size}")
        if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise RequestError(f"input {quote(tensor.name)}: expected at most {MAX_ELEMENTS} elements")


def _mismatch(tensor: Tensor, shape: tuple[int, ...], expectation: str) -> RequestError:
    promise = ", ".join(map(str, tensor.shape))
    got = ", ".join(map(str, shape[:16]))
    return RequestError(f"input {quote(tensor.name)}: shape [{got}] does not fit [{promise}]: expected {expectation}")


def _tensors(value: Any, where: str) -> tuple[Tensor, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"`{where}` is not a list of tensors")
    tensors = tuple(_tensor(item, f"{where}[{index}]") for index, item in enumerate(value))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError(f"`{where}` names a tensor twice")
    return tensors


def _tensor(value: Any, where: str) -> Tensor:
    fields = record(value, where, {"name", "dtype", "shape"})
    if fields["dtype"] not in DATATYPES:
        raise ValueError(f"`{where}.dtype`: expected one of {', '.join(DATATYPES)}, got {quote(fields['dtype'])}")
    if not isinstance(fields["shape"], list):
        raise ValueError(f"`{where}.shape` is not a list")
    shape = tuple(_dimension(size, f"{where}.shape") for size in fields["shape"])
    return Tensor(text(fields["name"], f"{where}.name"), fields["dtype"], shape)


def _dimension(value: Any, where: str) -> int | str:
    if isinstance(value, str) and value:
        return value
    if type(value) is int and value >= 0:
        return value
    raise ValueError(f"`{where}`: expected sizes or names, got {quote(value)}")


def _range(value: Any, where: str) -> Range:
    fields = record(value, where, {"min"}, optional={"max"})
    minimum, maximum = fields["min"], fields.get("max")
    ordered = type(minimum) is int and minimum >= 0 and (maximum is None or (type(maximum) is int))
    if not ordered or (maximum is not None and maximum < minimum):
        raise ValueError(f"`{where}`: expected 0 <= min <= max, got {quote(value)}")
    return Range(minimum, maximum)
