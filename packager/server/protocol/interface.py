# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of an installed model, and the check of requests against them.

A dimension is a fixed size or a name. A name has one size per request, wherever it appears, inside its limit; a name
without a limit may have any size from 1. Measured sizes are separate: a request outside them is answered, and counted.
Values are limited where the contract limits them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from packager.server.errors import RequestError, quote
from packager.server.fields import record, text
from packager.server.process.host_limits import Traffic
from packager.server.protocol.datatypes import DATATYPES
from packager.server.protocol.tensors import dtype_of
from packager.server.protocol.values import Values

# No product of dimensions above this reaches numpy, whose sizes are 64-bit: a shape is text a client chose.
MAX_ELEMENTS = 2**40
_SPARE = 2**20  # for the rest of a request: names, an id, parameters
_NUMBER, _TEXT = 32, 2**16  # bytes of one in the longest form that clients use


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes a named dimension may have, both ends included; `maximum` None is unbounded.

    They are multiples of `step`, sizes that leave one of `remainders`, and those of `also`; or those of `listed` alone.
    """

    minimum: int = 1
    maximum: int | None = None
    step: int = 1
    listed: tuple[int, ...] = ()
    remainders: tuple[int, ...] = ()
    also: tuple[int, ...] = ()

    def __contains__(self, size: int) -> bool:
        inside = self.minimum <= size and (self.maximum is None or size <= self.maximum)
        fits = size in self.listed if self.listed else not size % self.step or size % self.step in self.remainders
        return (inside and fits) or size in self.also

    @property
    def smallest(self) -> int:
        """A lower bound of the sizes."""
        return min((self.minimum, *self.also))

    @property
    def largest(self) -> int | None:
        """An upper bound of the sizes, None where they have none."""
        return None if self.maximum is None else max((self.maximum, *self.also))

    def __str__(self) -> str:
        if self.listed:
            return f"one of {', '.join(map(str, self.listed))}"
        rests = f" or with remainder {', '.join(map(str, self.remainders))}" if self.remainders else ""
        multiple = f", a multiple of {self.step}{rests}" if self.step > 1 else ""
        also = f", or {', '.join(map(str, self.also))}" if self.also else ""
        ends = f"at least {self.minimum}" if self.maximum is None else f"{self.minimum} to {self.maximum}"
        return ends + multiple + also

    def near(self, size: int) -> int:
        """Return the largest allowed multiple of the step, or listed size, not above `size`; else the smallest."""
        if self.listed:
            return max((known for known in self.listed if known <= size), default=self.listed[0])
        below = size if self.maximum is None else min(size, self.maximum)
        return max(-(-self.minimum // self.step) * self.step, below - below % self.step)

    def up_to(self, most: int) -> Range:
        """Return these sizes, none of them above `most` (at least the smallest)."""
        last = max(self.near(most), self.near(0))
        listed, also = (tuple(size for size in sizes if size <= last) for sizes in (self.listed, self.also))
        return replace(self, maximum=last, listed=listed, also=also)


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
    measured: Mapping[str, Range] = field(default_factory=dict)
    ties: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()

    @staticmethod
    def from_json(value: Any) -> Interface:
        """Read the `interface` of a configuration. Raises ValueError with a message about the first defect."""
        fields = record(value, "interface", {"inputs", "outputs"}, optional={"dimensions"})
        ranges = fields.get("dimensions", {})
        if not isinstance(ranges, dict):
            raise ValueError("`interface.dimensions` is not an object")
        found = {name: _dimension_of(item, f"interface.dimensions.{name}") for name, item in ranges.items()}
        return Interface(
            inputs=_tensors(fields["inputs"], "interface.inputs"),
            outputs=_tensors(fields["outputs"], "interface.outputs"),
            dimensions={name: limit for name, (limit, _, _) in found.items()},
            measured={name: measured for name, (_, measured, _) in found.items()},
            ties={name: tied for name, (_, _, tied) in found.items() if tied},
        )

    def allowed_range(self, dimension: str) -> Range:
        """Return the sizes that `dimension` may have."""
        return self.dimensions.get(dimension, Range())

    def measured_range(self, dimension: str) -> Range:
        """Return the allowed sizes of `dimension` that were measured."""
        limit, measured = self.allowed_range(dimension), self.measured.get(dimension)
        if measured is None or measured.maximum is None:
            return measured or limit
        return measured.up_to(limit.near(measured.maximum))

    def limited_to_measured(self) -> Interface:
        """Return this interface with the measured sizes as limits."""
        return replace(self, dimensions={**self.dimensions, **self.measured})

    def largest_body(self) -> int | None:
        """Return the most bytes of a valid request in any form; None if the interface states no bound.

        A contract does not limit the length of texts: each counts as 64 KiB.
        """
        total = _SPARE
        for tensor in self.inputs:
            sizes = [size if isinstance(size, int) else self.allowed_range(size).largest for size in tensor.shape]
            known = [size for size in sizes if size is not None]
            if len(known) < len(sizes):
                return None
            total += math.prod(known) * (_TEXT if tensor.dtype == "string" else _NUMBER)
        return total

    def traffic(self) -> Traffic:
        """Return the sizes of requests and answers; a text counts as 64 bytes."""
        inputs, outputs = (
            [
                (
                    _item(tensor),
                    [size if isinstance(size, int) else self.allowed_range(size).largest for size in tensor.shape],
                )
                for tensor in tensors
            ]
            for tensors in (self.inputs, self.outputs)
        )
        return Traffic.of(inputs, outputs)

    def with_rows(self, most: int) -> Interface:
        """Return this interface with at most `most` rows, where the first dimension of the inputs has a name."""
        firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in self.inputs}
        name = firsts.pop() if len(firsts) == 1 else 0
        if not isinstance(name, str):
            return self
        return replace(self, dimensions={**self.dimensions, name: self.allowed_range(name).up_to(most)})

    def check_shape(self, tensor: Tensor, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Refuse a shape outside the interface; `sizes` collects the named dimensions of this request.

        Raises RequestError.
        """
        if len(shape) != len(tensor.shape):
            raise _mismatch(tensor, shape, f"{len(tensor.shape)} dimensions, got {len(shape)}")
        for expected, size in zip(tensor.shape, shape, strict=True):
            if isinstance(expected, int):
                if size != expected:
                    raise _mismatch(tensor, shape, f"{expected}, got {size}")
            elif size not in self.allowed_range(expected):
                raise _mismatch(tensor, shape, f"`{expected}` of {self.allowed_range(expected)}, got {size}")
            elif sizes.setdefault(expected, size) != size:
                raise _mismatch(tensor, shape, f"`{expected}` of {sizes[expected]} as in another input, got {size}")
        if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise RequestError(f"input {quote(tensor.name)}: expected at most {MAX_ELEMENTS} elements")

    def check_ties(self, sizes: Mapping[str, int]) -> None:
        """Refuse sizes that do not have the factor between them that the interface states. Raises RequestError."""
        for name, (factor, other) in self.ties.items():
            if name in sizes and other in sizes and sizes[name] != factor * sizes[other]:
                expected = f"`{name}` to be {factor} * `{other}`, {factor * sizes[other]}"
                raise RequestError(f"expected {expected}, got {sizes[name]}")

    def outside(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Return the dimensions whose sizes the build did not measure."""
        measured = self.measured
        return tuple([name for name, size in sizes.items() if name in measured and size not in measured[name]])

    def check_values(self, feeds: Mapping[str, Any]) -> None:
        """Refuse values that the contract does not allow. Raises RequestError."""
        for name, limit in self.values.items():
            limit.check(feeds[name], f"input {quote(name)}")


def _item(tensor: Tensor) -> int:
    return 64 if tensor.dtype == "string" else dtype_of(tensor.dtype).itemsize


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


def _dimension_of(value: Any, where: str) -> tuple[Range, Range, tuple[int, str] | None]:
    """Return limit, measured sizes and tie of a dimension; without a limit it is what was measured."""
    fields = record(value, where, {"min"}, optional={"max", "step", "values", "remainders", "also", "limit", "is"})
    own = {key: member for key, member in fields.items() if key not in ("limit", "is")}
    measured = _range(own, where)
    limit = _range(fields["limit"], f"{where}.limit") if "limit" in fields else measured
    match fields.get("is"):
        case None:
            return limit, measured, None
        case [int(factor), str(other)]:
            return limit, measured, (factor, other)
    raise ValueError(f"`{where}.is`: expected a factor and a dimension")


def _range(value: Any, where: str) -> Range:
    fields = record(value, where, {"min"}, optional={"max", "step", "values", "remainders", "also"})
    minimum, maximum, step = fields["min"], fields.get("max"), fields.get("step", 1)
    ordered = type(minimum) is int and minimum >= 0 and (maximum is None or (type(maximum) is int))
    if not ordered or (maximum is not None and maximum < minimum):
        raise ValueError(f"`{where}`: expected 0 <= min <= max, got {quote(value)}")
    if type(step) is not int or step < 1:
        raise ValueError(f"`{where}`: expected a step of 1 or more, got {quote(value)}")
    lists = (_listed(fields.get(name, []), f"{where}.{name}") for name in ("values", "remainders", "also"))
    return Range(minimum, maximum, step, *lists)


def _listed(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(size) is not int for size in value):
        raise ValueError(f"`{where}`: expected a list of sizes, got {quote(value)}")
    return tuple(sorted(value))
