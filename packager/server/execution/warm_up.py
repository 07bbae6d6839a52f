# SPDX-License-Identifier: Apache-2.0
"""Inputs for warm-up and self-tests: the bundle's reference inputs, or values that its contract allows.

A value that the contract excludes (no sample rate is 0) may fail on a model that works.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from packager.server.config import Config
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array, dtype_of
from packager.server.telemetry.logs import log_event

_LONGEST = 1 << 20  # bytes of a file: reference inputs in bundles are no longer
_ROW = 4  # length of an axis of a row, where it is free
_DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


@dataclass(frozen=True, slots=True)
class WarmUpInputs:
    """Inputs of one interface, made of the `known` ones if there are any; `ranges`: the plausible values."""

    interface: Interface
    known: tuple[dict[str, Array], ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @staticmethod
    def of(config: Config) -> WarmUpInputs:
        """Return the inputs of an installed model; they are synthetic if it has no readable reference inputs."""
        found = tuple(read_reference_inputs(config.reference, config.interface)) if config.reference else ()
        return WarmUpInputs(config.interface, tuple(sorted(found, key=_elements)), config.ranges)

    def smallest(self) -> dict[str, Array]:
        """Return the smallest known inputs, or synthetic ones of the smallest shapes."""
        return dict(self.known[0]) if self.known else self._synthetic_inputs(1)

    def scaled(self, scale: int) -> dict[str, Array]:
        """Return inputs whose free axes are `scale` times the smallest, as far as was measured: known ones repeated."""
        if not self.known:
            return self._synthetic_inputs(scale)
        shapes = self._shapes(scale)
        return {name: _repeated(array, shapes[name]) for name, array in self.known[0].items()}

    def size(self, scale: int) -> int:
        """Return the bytes of the inputs of `scaled`."""
        shapes = self._shapes(scale)
        return sum(math.prod(shapes[t.name]) * dtype_of(t.dtype).itemsize for t in self.interface.inputs)

    def row_pair(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return two different requests of one row each."""
        for feeds in self.known:
            if all(array.ndim and len(array) > 1 for array in feeds.values()):
                one, other = ({name: array[at : at + 1] for name, array in feeds.items()} for at in (0, 1))
                if not all((one[name] == other[name]).all() for name in feeds):
                    return one, other
        first, second = (self._synthetic_inputs(1, row=np.random.default_rng(seed)) for seed in (0, 1))
        return first, second

    def _shapes(self, scale: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all inputs; every name has one length, and those that follow others do."""
        interface, lengths = self.interface, self._lengths()
        for name, length in lengths.items():
            measured = interface.measured_range(name)
            lengths[name] = measured.near(max(length, 1) * scale) if scale > 1 else length
        for name, (factor, other) in interface.ties.items():
            if name in lengths and other in lengths:
                lengths[name] = factor * lengths[other]
        return {
            tensor.name: tuple(size if isinstance(size, int) else lengths[size] for size in tensor.shape)
            for tensor in interface.inputs
        }

    def _lengths(self) -> dict[str, int]:
        """Return the smallest length of every dimension: that of the smallest known inputs, else the least measured."""
        found: dict[str, int] = {}
        for tensor in self.interface.inputs:
            shape = self.known[0][tensor.name].shape if self.known else ()
            for axis, size in enumerate(tensor.shape):
                if isinstance(size, str):
                    found[size] = shape[axis] if self.known else max(self.interface.measured_range(size).near(0), 1)
        return found

    def _synthetic_inputs(self, scale: int, row: np.random.Generator | None = None) -> dict[str, Array]:
        shapes = self._shapes(scale)
        if row is not None:
            free = {name: self.interface.measured_range(name).near(_ROW) for name in self._lengths()}
            shapes = {
                tensor.name: tuple(size if isinstance(size, int) else free[size] for size in (1, *tensor.shape[1:]))
                if tensor.shape
                else ()
                for tensor in self.interface.inputs
            }
        return {
            tensor.name: self._synthetic_tensor(tensor, shapes[tensor.name], row) for tensor in self.interface.inputs
        }

    def _synthetic_tensor(self, tensor: Tensor, shape: tuple[int, ...], row: np.random.Generator | None) -> Array:
        """Return a value that the contract allows, throughout; of a row small ones that differ."""
        limit, kind = self.interface.values.get(tensor.name), dtype_of(tensor.dtype)
        if limit and limit.listed:
            return np.full(shape, limit.first, kind)
        low, high = (limit.low, limit.high) if limit else self.ranges.get(tensor.name, (0, 1))
        if tensor.dtype == "string":
            return np.full(shape, str(row.integers(100)) if row else "", kind)
        if row is None:
            return np.full(shape, min(max(0, low), high), kind)
        if kind.kind == "f":
            return (low + (high - low) * row.random(shape)).astype(kind)
        return row.integers(int(low), int(min(high, low + 1)), shape, endpoint=True).astype(kind)


def _elements(feeds: Mapping[str, Array]) -> int:
    return sum(array.size for array in feeds.values())


def _repeated(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the values of an array, repeated to fill another shape."""
    made: Array = np.resize(array, shape)
    return made


# reading the reference inputs of a bundle


def read_reference_inputs(folder: Path, interface: Interface) -> Iterator[dict[str, Array]]:
    """Yield the reference inputs in the folder `vectors` of a bundle that fit the interface.

    Those that cannot be read are left out with an event: a server starts without them.
    """
    try:
        names = [str(row["file"]) for row in orjson.loads(_content(folder / "index.json"))["cases"]]
    except FileNotFoundError:  # a form of the bundle without them
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        log_event("no reference inputs", logging.WARNING, reason=str(error)[:300])
        return
    for name in names:
        try:
            feeds = _feeds(folder / "inputs", name)
            sizes: dict[str, int] = {}
            for tensor in interface.inputs:
                array = feeds[tensor.name]
                if array.dtype != dtype_of(tensor.dtype):
                    raise ValueError(f"{tensor.name} has another type")
                interface.check_shape(tensor, array.shape, sizes)
            interface.check_values(feeds)
        except Exception as error:  # a file of another format, or outside the limits of this site
            log_event("reference inputs left out", logging.DEBUG, case=name[:100], reason=str(error)[:300])
            continue
        if all(array.size for array in feeds.values()) or not interface.inputs:
            yield feeds


def _content(path: Path) -> bytes:
    with path.open("rb") as opened:
        data = opened.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise ValueError(f"{path.name} is longer than {_LONGEST} bytes")
    return data


def _feeds(folder: Path, name: str) -> dict[str, Array]:
    """Return the inputs of one case: numbers from safetensors, texts from JSON."""
    found: dict[str, Array] = {}
    if (numbers := folder / f"{name}.safetensors").is_file():
        data = _content(numbers)
        size = int.from_bytes(data[:8], "little")
        body = memoryview(data)[8 + size :]
        for port, item in orjson.loads(data[8 : 8 + size]).items():
            if port != "__metadata__":
                start, end = item["data_offsets"]
                found[port] = np.frombuffer(body[start:end], _DTYPES[item["dtype"]]).reshape(item["shape"])
    if (texts := folder / f"{name}.json").is_file():
        for item in orjson.loads(_content(texts))["inputs"]:
            array = np.empty(len(item["data"]), dtype=object)
            array[:] = item["data"]
            found[str(item["name"])] = array.reshape(item["shape"])
    return found
