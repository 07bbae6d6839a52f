# SPDX-License-Identifier: Apache-2.0
"""What a source takes and returns: ports, dimensions with their ranges, and what a recipe says of both.

`ExportOptions` is what the recipe requests; `Interface` is what came out: every axis is a number or a named dimension,
and every named dimension has a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from packager.canonical import JSON
from packager.edits import Edit
from packager.errors import StepError, close_match
from packager.recipe.lengths import Axis, Lengths

if TYPE_CHECKING:
    import numpy as np

Feeds: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
Arrays: TypeAlias = "list[np.ndarray[Any, Any]]"
Range: TypeAlias = tuple[int, int]

BATCH = "batch"
_DEFAULT_RANGES = {BATCH: (1, 64)}
_OTHER_RANGE = (1, 512)
_UNLIMITED = (1, (1 << 31) - 1)
AS_FOUND: tuple[int | str, ...] = ("",)
"""The shape of an input of which a recipe says something else."""
_AS_NAMED = "name the inputs under `inputs` as the source does"


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: `dtype` is numpy's name, an axis is a length or the name of a dimension.

    `range` bounds the values that make sense (token ids, pixel values), both ends included; `values` lists all there
    are. `firm` says that the source refuses what is outside.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    values: tuple[Any, ...] = ()
    firm: bool = False

    def to_json(self) -> JSON:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    def over(self, found: Port, unfix: str) -> Port:
        """Return a port of a source with what this note says of it. Raises StepError where the two contradict."""
        shape = found.shape if self.shape == AS_FOUND else self.shape
        fits = len(shape) == len(found.shape) and not any(
            isinstance(own, int) and own != wanted for own, wanted in zip(found.shape, shape, strict=True)
        )
        if not fits or self.dtype not in ("", found.dtype):
            got = f"{self.dtype or found.dtype} {list(shape)}"
            message = f"input `{found.name}` is {found.dtype} {list(found.shape)}, got {got} from the recipe"
            raise StepError(message, hint=unfix, edits=_corrected(found, self))
        return replace(found, shape=shape, range=self.range or found.range, values=self.values or found.values)


@dataclass(frozen=True, slots=True)
class Interface:
    """What callers may send, and the smallest and largest length of every named dimension that is measured.

    `limits` are the lengths that are taken, where they are others; `ties` name dimensions that are so many times as
    long as another one.
    """

    inputs: tuple[Port, ...]
    dimensions: Mapping[str, Range]
    limits: Mapping[str, Lengths] = field(default_factory=dict)
    ties: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def limit(self, name: str) -> Lengths:
        """Return the lengths of a dimension that are taken."""
        return self.limits.get(name) or Lengths(*self.dimensions[name])


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the recipe says about inputs, dimensions and output names; what it leaves out is inferred.

    `inputs` are those that it describes whole, `notes` what it says of others (an empty `dtype` or a `shape` of
    `AS_FOUND` is as the source says). `dynamic` are spans whose measurement it promises, `limits` the lengths that are
    taken, `ties` dimensions that follow others, `defaults` what is measured of other dimensions. `domains` are the
    operator domains that a source in ONNX form may use besides ONNX's own; `signature` is the function of a source
    that has several.
    """

    inputs: tuple[Port, ...] | None = None
    dynamic: Mapping[str, Range] = field(default_factory=dict)
    limits: Mapping[str, Lengths] = field(default_factory=dict)
    ties: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    notes: tuple[Port, ...] = ()
    defaults: Mapping[str, Range] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    seed: int = 0
    domains: tuple[str, ...] = ()
    signature: str = ""

    @property
    def named(self) -> set[str]:
        """The dimensions that the recipe says something of."""
        return {*self.dynamic, *self.limits, *self.ties}

    @staticmethod
    def from_params(params: Mapping[str, JSON]) -> ExportOptions:
        """Read the step parameters `inputs`, `dynamic`, `outputs`, `seed`, `domains` and `signature`."""
        ports = [_port(name, entry) for name, entry in (params.get("inputs") or {}).items()]
        whole = tuple(port for port in ports if port.dtype and port.shape != AS_FOUND)
        axes = {name: Axis.from_json(value) for name, value in (params.get("dynamic") or {}).items()}
        return ExportOptions(
            whole or None,
            {name: axis.promised for name, axis in axes.items() if axis.promised},
            {name: axis.limit for name, axis in axes.items() if not axis.tied},
            {name: axis.tied for name, axis in axes.items() if axis.tied},
            tuple(port for port in ports if port not in whole),
            outputs=tuple(params.get("outputs") or ()),
            seed=params.get("seed", 0),
            domains=tuple(params.get("domains") or ()),
            signature=str(params.get("signature") or ""),
        )

    def interface(self, ports: Sequence[Port], limits: Mapping[str, Range], *, unfix: str) -> Interface:
        """Give every dimension of `ports` a range: the requested one, else a default, within what the source allows.

        `limits` are the source's own; a range of one length becomes that length. Raises StepError for a range outside
        them and, with the remedy `unfix`, for a dimension that no input has.
        """
        ports = self._noted(ports, unfix)
        used = [axis for port in ports for axis in port.shape if isinstance(axis, str)]
        for name in sorted({*self.named, *(other for _, other in self.ties.values())}):
            if name not in used:
                axes = f"it has {_listed(set(used))}; " if used else ""
                free = [other for other in dict.fromkeys(used) if other not in self.named]
                close = close_match(name, free) or (free[0] if len(free) == 1 else None)
                edit = Edit(("dynamic", name), rename=close) if close else Edit(("dynamic", name))
                known = f"no input of the source has the free dimension `{name}`"
                raise StepError(known, hint=axes + unfix, edits=[edit] if name in self.named else ())
        same = {name: other for name, (factor, other) in self.ties.items() if factor == 1}
        ports = [replace(port, shape=tuple(same.get(str(a), a) for a in port.shape)) for port in ports]
        names = [name for name in dict.fromkeys(used) if name not in same]
        taken = {name: self._limit(name, limits.get(name, _UNLIMITED)) for name in names}
        ranges = {name: self._range(name, taken[name]) for name in names}
        for name, (factor, other) in self.ties.items():
            if factor > 1:
                ranges[name] = (factor * ranges[other][0], factor * ranges[other][1])
        single = {
            name: low
            for name, (low, high) in ranges.items()
            if low == high == taken[name].high and not taken[name].also
        }
        fixed = tuple(replace(port, shape=tuple(single.get(str(a), a) for a in port.shape)) for port in ports)
        ties = {name: tied for name, tied in self.ties.items() if tied[0] > 1 and name not in single}
        kept = [name for name in names if name not in single]
        return Interface(fixed, {name: ranges[name] for name in kept}, {name: taken[name] for name in kept}, ties)

    def _noted(self, ports: Sequence[Port], unfix: str) -> list[Port]:
        """Return the ports with what the recipe says of single ones."""
        noted = {port.name: port for port in self.notes}
        for name in sorted(set(noted) - {port.name for port in ports}):
            expected = _listed(port.name for port in ports)
            free = [port.name for port in ports if port.name not in noted]
            close = close_match(name, free) or (free[0] if len(free) == 1 else None)
            edit = Edit(("inputs", name), rename=close) if close else Edit(("inputs", name))
            message = f"the source has no input `{name}`, expected some of {expected}"
            raise StepError(message, hint=_AS_NAMED, edits=[edit])
        return [noted[port.name].over(port, unfix) if port.name in noted else port for port in ports]

    def _limit(self, name: str, own: Range) -> Lengths:
        """Return the lengths that are taken: what the recipe says, within what the source says of itself."""
        stated = self.limits.get(name) or (Lengths(*self.dynamic[name]) if name in self.dynamic else Lengths())
        ends = [end for end in (stated.high, own[1] if own[1] < _UNLIMITED[1] else None) if end is not None]
        wanted = self.dynamic.get(name, (max(stated.low, own[0]), min([*ends, _UNLIMITED[1]])))
        if wanted[0] < own[0] or wanted[1] > own[1]:
            raise StepError(
                f"the source accepts `{name}` from {own[0]} to {own[1]}, got {wanted[0]} to {wanted[1]}",
                hint=f"narrow `dynamic: {{{name}: …}}`, or export the source with a wider range",
                edits=[Edit(("dynamic", name), [max(wanted[0], own[0]), max(min(wanted[1], own[1]), own[0])])],
            )
        also = tuple(length for length in stated.also if own[0] <= length <= own[1])
        return replace(stated, low=max(stated.low, own[0]), high=min(ends, default=None), also=also)

    def _range(self, name: str, taken: Lengths) -> Range:
        """Return the lengths to measure: those promised, else some that are usual, of those that are taken."""
        low, high = self.dynamic.get(name) or self.defaults.get(name) or _DEFAULT_RANGES.get(name, _OTHER_RANGE)
        first = taken.near(max(low, taken.low))
        return first, max(taken.near(high), first)


def pair_ports(found: Sequence[Port], requested: Sequence[Port], *, ordered: bool = False) -> list[Port | None]:
    """Return for each port of a source the requested one it corresponds to: by name, or the only one for the only one.

    By position only where `requested` is `ordered`, as in a signature: the order of a recipe's `inputs` is not part
    of an action's key, so nothing may depend on it. Without a request all are None. Raises StepError.
    """
    if not requested:
        return [None] * len(found)
    by_name = {port.name: port for port in requested}
    if {port.name for port in found} >= set(by_name):
        return [by_name.get(port.name) for port in found]
    if len(found) == len(requested) and (ordered or len(found) == 1):
        return list(requested)
    lost = [port.name for port in found if port.name not in by_name]
    other = [name for name in by_name if name not in {port.name for port in found}]
    raise StepError(
        f"expected the inputs {_listed(port.name for port in found)}, got {_listed(by_name)}",
        hint=_AS_NAMED,
        edits=[
            *(Edit(("inputs", name), rename=own) for name, own in zip(other, lost, strict=False)),
            *(Edit(("inputs", port.name), _spec(port)) for port in found if port.name in lost[len(other) :]),
            *(Edit(("inputs", name)) for name in other[len(lost) :]),
        ],
    )


def _spec(port: Port) -> JSON:
    return {"dtype": port.dtype, "shape": list(port.shape)}


def _corrected(found: Port, noted: Port) -> list[Edit]:
    """Return what a note on an input would have to say instead, as far as it says something."""
    same_rank = len(noted.shape) == len(found.shape)
    pairs = zip(found.shape, noted.shape, strict=True) if same_rank else ()
    shape = [own if isinstance(own, int) else wanted for own, wanted in pairs] or list(found.shape)
    stated = {"dtype": found.dtype if noted.dtype else None, "shape": None if noted.shape == AS_FOUND else shape}
    return [Edit(("inputs", found.name, key), value) for key, value in stated.items() if value is not None]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _port(name: str, entry: JSON) -> Port:
    bounds, values = entry.get("range"), tuple(entry.get("values") or ())
    if values and not bounds and not isinstance(values[0], str):
        bounds = (min(values), max(values))
    shape = tuple(entry["shape"]) if "shape" in entry else AS_FOUND
    return Port(name, entry.get("dtype", ""), shape, tuple(bounds) if bounds else None, values)
